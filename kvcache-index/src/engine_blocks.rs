//! An engine's blocks among ours.
//!
//! Engines name blocks by hashes of their own, which cannot be computed outside
//! them; but they tell the tokens and the block before. [`EngineBlocks`] chains
//! our identities along, so that blocks of engines of any kind meet in one
//! index, and remembers which of our blocks each engine hash stands for, since
//! removals name nothing else. One for each worker and data-parallel rank.

use std::sync::Arc;

use hashlink::LinkedHashMap;
use rustc_hash::{FxBuildHasher, FxHashSet};

use crate::engine_events::{EngineEvent, EngineHash, EngineStored, ExtraKey};
use crate::{BlockHash, HashScope, KvEvent, Tier};

/// Layers that do not need a whole prefix: their blocks come and go for reasons
/// of their own, and say nothing about a prompt's longest held prefix.
const PARTIAL_KINDS: [&str; 4] = [
    "sliding_window",
    "sliding_window_mla",
    "chunked_local_attention",
    "mamba",
];

/// What the index is to be told, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placed {
    pub events: Vec<KvEvent>,
    /// Blocks stored after a block never seen, or since forgotten. More than a
    /// few mean that events were missed: ask the engine to replay them.
    pub unplaced: usize,
}

/// The blocks of one engine.
#[derive(Debug)]
pub struct EngineBlocks {
    model: String,
    capacity: usize,
    /// By engine hash, from the one announced first.
    known: LinkedHashMap<u64, Known, FxBuildHasher>,
    partial_groups: FxHashSet<u32>,
    /// Of the last prompt's start; the next one most often has the same.
    last_scope: Option<(ScopeKey, Arc<HashScope>)>,
}

#[derive(Debug)]
struct Known {
    block: BlockHash,
    scope: Arc<HashScope>,
    block_size: u32,
    /// Bit by tier.
    tiers: u8,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct ScopeKey {
    adapter: Option<String>,
    salt: String,
    block_size: usize,
}

impl EngineBlocks {
    /// Blocks of an engine that serves `model` (see [`HashScope::new`]). At
    /// most `capacity` are remembered, which should be what its cache holds in
    /// all tiers; beyond, those announced first are forgotten, and the index is
    /// told so.
    pub fn new(model: &str, capacity: usize) -> EngineBlocks {
        EngineBlocks {
            model: model.to_owned(),
            capacity,
            known: LinkedHashMap::default(),
            partial_groups: FxHashSet::default(),
            last_scope: None,
        }
    }

    /// Blocks remembered.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Whether nothing is remembered.
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// Places one event.
    pub fn place(&mut self, event: &EngineEvent) -> Placed {
        let mut placed = Placed::default();
        match event {
            EngineEvent::Stored(stored) => self.store(stored, &mut placed),
            EngineEvent::Removed {
                hashes,
                tier,
                group,
            } => {
                if !group.is_some_and(|group| self.partial_groups.contains(&group)) {
                    self.remove(hashes, *tier, &mut placed);
                }
            }
            EngineEvent::Cleared => {
                self.known.clear();
                placed.events.push(KvEvent::Cleared);
            }
        }
        placed
    }

    fn store(&mut self, stored: &EngineStored, placed: &mut Placed) {
        if let Some(kind) = &stored.kind
            && PARTIAL_KINDS.contains(&kind.as_str())
        {
            self.partial_groups.extend(stored.group);
            return;
        }
        let Some((scope, parent)) = self.start(stored) else {
            placed.unplaced += stored.hashes.len();
            return;
        };
        let mut block = parent;
        let mut hashes = Vec::with_capacity(stored.hashes.len());
        let tokens = stored.tokens.chunks_exact(stored.block_size);
        for (i, (hash, tokens)) in stored.hashes.iter().zip(tokens).enumerate() {
            let keys = stored.extra_keys.get(i).map_or(&[][..], Vec::as_slice);
            block = chain(&scope, block, tokens, keys);
            hashes.push(block.short());
            self.remember(*hash, block, &scope, stored);
        }
        let parent = if parent == BlockHash::ROOT {
            0
        } else {
            parent.short()
        };
        placed.events.push(KvEvent::Stored {
            parent,
            hashes,
            tier: stored.tier,
        });
        self.forget_oldest(placed);
    }

    /// What the first block of `stored` chains on.
    fn start(&mut self, stored: &EngineStored) -> Option<(Arc<HashScope>, BlockHash)> {
        match stored.parent {
            None => Some((self.scope_of(stored), BlockHash::ROOT)),
            Some(parent) => {
                let parent = self.known.get(&parent.0)?;
                let fits = parent.block_size as usize == stored.block_size;
                fits.then(|| (parent.scope.clone(), parent.block))
            }
        }
    }

    /// The scope of a prompt that starts with `stored`.
    fn scope_of(&mut self, stored: &EngineStored) -> Arc<HashScope> {
        let first = stored.extra_keys.first().map_or(&[][..], Vec::as_slice);
        let texts = first.iter().filter_map(|key| match key {
            ExtraKey::Text(text) if stored.adapter.as_ref() != Some(text) => Some(text.as_str()),
            _ => None,
        });
        let key = ScopeKey {
            adapter: stored.adapter.clone(),
            salt: texts.collect(),
            block_size: stored.block_size,
        };
        if let Some((last, scope)) = &self.last_scope
            && *last == key
        {
            return scope.clone();
        }
        let adapter = key.adapter.as_deref();
        let scope = HashScope::adapted(&self.model, adapter, &key.salt, key.block_size);
        let scope = Arc::new(scope);
        self.last_scope = Some((key, scope.clone()));
        scope
    }

    fn remember(
        &mut self,
        hash: EngineHash,
        block: BlockHash,
        scope: &Arc<HashScope>,
        stored: &EngineStored,
    ) {
        let before = self
            .known
            .remove(&hash.0)
            .filter(|known| known.block == block);
        let known = Known {
            block,
            scope: scope.clone(),
            block_size: stored.block_size as u32,
            tiers: before.map_or(0, |known| known.tiers) | bit(stored.tier),
        };
        self.known.insert(hash.0, known);
    }

    /// An engine may hold two copies of a block and remove one: the block is
    /// then missed, which costs less than one that is not there.
    fn remove(&mut self, hashes: &[EngineHash], tier: Tier, placed: &mut Placed) {
        let mut removed = Vec::with_capacity(hashes.len());
        for hash in hashes {
            let Some(known) = self.known.get_mut(&hash.0) else {
                continue;
            };
            if known.tiers & bit(tier) != 0 {
                known.tiers &= !bit(tier);
                removed.push(known.block.short());
            }
            if known.tiers == 0 {
                self.known.remove(&hash.0);
            }
        }
        if !removed.is_empty() {
            let hashes = removed;
            placed.events.push(KvEvent::Removed { hashes, tier });
        }
    }

    /// What is forgotten could not be removed later.
    fn forget_oldest(&mut self, placed: &mut Placed) {
        while self.known.len() > self.capacity
            && let Some((_, known)) = self.known.pop_front()
        {
            let tiers = Tier::ALL
                .into_iter()
                .filter(|tier| known.tiers & bit(*tier) != 0);
            placed.events.extend(tiers.map(|tier| KvEvent::Removed {
                hashes: vec![known.block.short()],
                tier,
            }));
        }
    }
}

fn bit(tier: Tier) -> u8 {
    1 << tier as u8
}

/// Our block for `tokens` after `parent`. Keys that are in the scope already
/// add nothing; others, such as parts of images, make another block.
fn chain(scope: &HashScope, parent: BlockHash, tokens: &[u32], keys: &[ExtraKey]) -> BlockHash {
    let block = scope.chain(parent, tokens);
    let others = keys.iter().filter_map(|key| match key {
        ExtraKey::Other(bytes) => Some(bytes),
        ExtraKey::Text(_) => None,
    });
    others.fold(block, |block, bytes| {
        let words: Vec<u32> = bytes.iter().map(|byte| u32::from(*byte)).collect();
        scope.chain(block, &words)
    })
}

#[cfg(test)]
mod tests;
