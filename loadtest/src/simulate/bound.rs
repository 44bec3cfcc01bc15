//! The most that caching could give: how many prompt tokens a cache that all
//! workers share would have held.
//!
//! Without a bound on its size this is what a trace offers at all. With as many
//! blocks as all workers hold together, in a pool like theirs, it is what they
//! could reach if no block were held twice and every request could run where
//! its prefix is.

use engine::block_pool::{BlockPool, Content};
use kvcache_index::BlockHash;
use rustc_hash::FxHashSet;
use serde::{Deserialize, Serialize};

/// Distinct blocks followed at most, of 16 bytes: beyond, bounds are not known.
const MOST_BLOCKS: usize = 1 << 23;

/// Shares of prompt tokens, 0 to 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Bound {
    /// With a cache that keeps everything.
    pub unlimited: f64,
    /// With one cache as large as all workers' together.
    pub shared: f64,
}

#[derive(Debug)]
pub(super) struct BoundTally {
    block_size: usize,
    seen: FxHashSet<u64>,
    pool: BlockPool,
    prompt_tokens: u64,
    unlimited_tokens: u64,
    shared_tokens: u64,
    is_known: bool,
}

impl BoundTally {
    pub(super) fn new(total_blocks: usize, block_size: usize) -> BoundTally {
        BoundTally {
            block_size,
            seen: FxHashSet::default(),
            pool: BlockPool::new(total_blocks.min(MOST_BLOCKS), block_size),
            prompt_tokens: 0,
            unlimited_tokens: 0,
            shared_tokens: 0,
            is_known: true,
        }
    }

    /// A prompt arrived, whose full blocks have these identities.
    pub(super) fn arrived(&mut self, tokens: usize, hashes: &[BlockHash]) {
        if !self.is_known {
            return;
        }
        if self.seen.len() >= MOST_BLOCKS {
            // Given up, and its memory with it.
            self.is_known = false;
            self.seen = FxHashSet::default();
            self.pool = BlockPool::new(0, self.block_size);
            return;
        }
        // The last token is always computed.
        let reusable = hashes.len().min(tokens.saturating_sub(1) / self.block_size);
        let seen = |hash: &&BlockHash| self.seen.contains(&hash.short());
        let known = hashes[..reusable].iter().take_while(seen).count();
        self.seen.extend(hashes.iter().map(|it| it.short()));
        let held = self.pool.lookup(&hashes[..reusable]).blocks;
        self.hold(hashes);
        self.prompt_tokens += tokens as u64;
        self.unlimited_tokens += (known * self.block_size) as u64;
        self.shared_tokens += (held * self.block_size) as u64;
    }

    /// Prompt and answer together have these identities.
    pub(super) fn answered(&mut self, hashes: &[BlockHash]) {
        if self.is_known {
            self.seen.extend(hashes.iter().map(|it| it.short()));
            self.hold(hashes);
        }
    }

    /// `None` without requests, and if there were too many blocks to follow.
    pub(super) fn bound(&self) -> Option<Bound> {
        let known = self.is_known && self.prompt_tokens > 0;
        let share = |tokens: u64| tokens as f64 / self.prompt_tokens as f64;
        known.then(|| Bound {
            unlimited: share(self.unlimited_tokens),
            shared: share(self.shared_tokens),
        })
    }

    /// Uses the prompt's blocks, as one worker that had all memory would.
    fn hold(&mut self, hashes: &[BlockHash]) {
        let hashes = &hashes[..hashes.len().min(self.pool.total())];
        let held = self.pool.lookup(hashes).blocks;
        let mut blocks = self.pool.reuse(None, &hashes[..held]);
        for at in held..hashes.len() {
            let Some(block) = self.pool.allocate() else {
                break;
            };
            let parent = match at {
                0 => BlockHash::ROOT,
                _ => hashes[at - 1],
            };
            let hash = hashes[at];
            blocks.push(self.pool.register(block, Content { parent, hash }));
        }
        self.pool.release(&blocks);
        self.pool.drain_events();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hashes(ids: impl IntoIterator<Item = u128>) -> Vec<BlockHash> {
        ids.into_iter().map(BlockHash).collect()
    }

    #[test]
    fn answers_are_held_too() {
        let mut tally = BoundTally::new(8, 16);
        tally.arrived(32, &hashes(1..3));
        tally.answered(&hashes(1..5));
        tally.arrived(65, &hashes(1..5));
        let bound = tally.bound().expect("few blocks");
        assert_eq!(bound.unlimited, 64.0 / 97.0);
        assert_eq!(bound.shared, 64.0 / 97.0);
    }

    #[test]
    fn counts_what_was_seen_and_what_a_cache_of_that_size_still_holds() {
        let mut tally = BoundTally::new(4, 16);
        tally.arrived(64, &hashes(1..5));
        tally.arrived(64, &hashes(11..15));
        tally.arrived(64, &hashes(1..5));
        tally.arrived(49, &hashes(1..4));
        let bound = tally.bound().expect("few blocks");
        // Of the third 48 tokens were seen, as its last block must be computed;
        // of the fourth 48, which the pool holds.
        assert_eq!(bound.unlimited, 96.0 / 241.0);
        assert_eq!(bound.shared, 48.0 / 241.0);
    }
}
