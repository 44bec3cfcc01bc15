//! Affinity without events: the longest prefix among what this router itself
//! has sent, unless load is uneven.
//!
//! For workers that tell nothing of their caches. What was sent is forgotten
//! after a while, oldest first, and never more than a bounded number of blocks
//! is remembered.

use std::collections::VecDeque;
use std::time::Duration;

use kvcache_index::WorkerSlot;
use rustc_hash::FxHashMap;

use super::{Policy, place_each};
use crate::plan::{Ask, Candidate, Choice};

/// Blocks remembered, over all workers.
const MOST_BLOCKS: usize = 1 << 20;
const FORGOTTEN_AFTER: Duration = Duration::from_secs(180);
/// Load is uneven when the longest queue exceeds the shortest by as many
/// sequences, and by this factor.
const UNEVEN_BY: u32 = 16;
const UNEVEN_FACTOR: f64 = 1.5;
/// A shorter share of the prompt is not worth going after.
const WORTHWHILE: f64 = 0.3;

#[derive(Debug, Default)]
pub(super) struct PrefixApprox {
    /// The worker that a block was last sent to, and when.
    sent: FxHashMap<u64, (WorkerSlot, Duration)>,
    /// In order of being sent; a block sent again is there twice.
    order: VecDeque<(u64, Duration)>,
}

impl Policy for PrefixApprox {
    fn place(&mut self, ask: &Ask<'_>, candidates: &[Candidate]) -> Option<Choice> {
        self.forget(ask.now);
        let depths = self.depths(ask.hashes);
        let choice = place_each(ask, candidates, |of| {
            let sequences = |at: &usize| candidates[*at].load.sequences;
            let most = of.iter().map(sequences).max()?;
            let least = of.iter().map(sequences).min()?;
            let uneven =
                most - least > UNEVEN_BY && f64::from(most) > UNEVEN_FACTOR * f64::from(least);
            let depth = |at: &usize| depths.get(&candidates[*at].worker).copied().unwrap_or(0);
            let best = of
                .iter()
                .max_by_key(|at| (depth(at), u32::MAX - sequences(at)))?;
            let share = depth(best) as f64 / ask.hashes.len().max(1) as f64;
            if !uneven && share > WORTHWHILE {
                return Some(*best);
            }
            let offset = (ask.random % of.len().max(1) as u64) as usize;
            let rotated = of[offset..].iter().chain(&of[..offset]);
            rotated.copied().min_by_key(|at| sequences(at))
        })?;
        self.remember(ask, candidates[choice.computes()].worker);
        Some(choice)
    }
}

impl PrefixApprox {
    /// Blocks in a row from the first that were last sent to each worker.
    fn depths(&self, hashes: &[u64]) -> FxHashMap<WorkerSlot, usize> {
        let mut depths = FxHashMap::default();
        for (at, hash) in hashes.iter().enumerate() {
            let Some((worker, _)) = self.sent.get(hash) else {
                break;
            };
            depths.insert(*worker, at + 1);
        }
        depths
    }

    fn remember(&mut self, ask: &Ask<'_>, worker: WorkerSlot) {
        for &hash in ask.hashes {
            self.sent.insert(hash, (worker, ask.now));
            self.order.push_back((hash, ask.now));
        }
    }

    fn forget(&mut self, now: Duration) {
        while let Some(&(hash, at)) = self.order.front()
            && (self.order.len() > MOST_BLOCKS || at + FORGOTTEN_AFTER < now)
        {
            self.order.pop_front();
            if self.sent.get(&hash).is_some_and(|(_, last)| *last == at) {
                self.sent.remove(&hash);
            }
        }
    }
}
