//! The pool of KV blocks: reference counts, prefix cache, eviction.
//!
//! A block is free when no sequence references it. Free blocks keep their
//! content until they are taken again, in the order of `eviction`: blank ones
//! first, then what was used once, then what was used again. Only full blocks
//! have an identity, and no two blocks have the same: whoever computed what is
//! cached already goes on with the cached one. What becomes and ceases to be
//! cached is told as [`KvEvent`]s.

mod eviction;
mod ghosts;
mod lists;

use kvcache_index::{BlockHash, KvEvent, Tier};
use rustc_hash::FxHashMap;

use crate::runner::BlockId;
use eviction::Eviction;

/// Which block holds what, and who may take it.
#[derive(Debug)]
pub struct BlockPool {
    block_size: usize,
    blocks: Vec<Block>,
    eviction: Eviction,
    cached: FxHashMap<BlockHash, BlockId>,
    /// Blocks that begin with the end of a prompt, by its identity: to be copied
    /// from, as their sequences write on in them.
    ends: FxHashMap<BlockHash, BlockId>,
    /// Blocks that lost their content and still have it, until they are
    /// written; `None`: nobody wants to know.
    evicted: Option<Vec<(BlockId, Content)>>,
    tier: Tier,
    events: Vec<KvEvent>,
}

#[derive(Clone, Debug, Default)]
struct Block {
    references: u32,
    /// Set while the block is in the cache.
    content: Option<Content>,
    /// Set while the block is in `ends`.
    end: Option<BlockHash>,
}

/// A cached block's identity and its predecessor's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Content {
    pub parent: BlockHash,
    pub hash: BlockHash,
}

/// How much of a prompt is cached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CachedPrefix {
    /// Blocks in a row from the first.
    pub blocks: usize,
    /// Those of them that are free: reusing them takes them from the pool.
    pub idle: usize,
}

impl BlockPool {
    /// `total_blocks` of `block_size` tokens, all blank.
    pub fn new(total_blocks: usize, block_size: usize) -> BlockPool {
        let total = u32::try_from(total_blocks).unwrap_or(u32::MAX);
        BlockPool {
            block_size: block_size.max(1),
            blocks: vec![Block::default(); total as usize],
            eviction: Eviction::new(total),
            cached: FxHashMap::default(),
            ends: FxHashMap::default(),
            evicted: None,
            tier: Tier::Device,
            events: Vec::new(),
        }
    }

    /// The same, of blocks in `tier`.
    pub fn in_tier(self, tier: Tier) -> BlockPool {
        BlockPool { tier, ..self }
    }

    /// From now on [`BlockPool::take_evicted`] tells what was evicted.
    pub fn keep_evicted(&mut self) {
        self.evicted.get_or_insert_default();
    }

    /// Blocks evicted since the last call, and what was in them.
    pub fn take_evicted(&mut self) -> Vec<(BlockId, Content)> {
        self.evicted
            .as_mut()
            .map(std::mem::take)
            .unwrap_or_default()
    }

    /// Tokens in a block.
    pub fn block_size(&self) -> usize {
        self.block_size
    }

    pub fn total(&self) -> usize {
        self.blocks.len()
    }

    /// Blocks that no sequence references, with cached content or without.
    pub fn free(&self) -> usize {
        self.eviction.free()
    }

    /// Blocks with cached content, referenced or free.
    pub fn cached(&self) -> usize {
        self.cached.len()
    }

    /// Where `hash` is cached.
    pub fn find(&self, hash: BlockHash) -> Option<BlockId> {
        self.cached.get(&hash).copied()
    }

    /// The longest cached prefix of a prompt whose full blocks have `hashes`.
    pub fn lookup(&self, hashes: &[BlockHash]) -> CachedPrefix {
        let mut prefix = CachedPrefix::default();
        for block in hashes.iter().map_while(|hash| self.cached.get(hash)) {
            prefix.blocks += 1;
            prefix.idle += usize::from(self.blocks[block.0 as usize].references == 0);
        }
        prefix
    }

    /// References the cached blocks with `hashes`, up to the first that is not
    /// cached. The first follows what the cached block `parent` holds; `None`:
    /// it starts a prompt.
    pub fn reuse(&mut self, parent: Option<BlockId>, hashes: &[BlockHash]) -> Vec<BlockId> {
        let mut found: Vec<BlockId> = Vec::new();
        for id in hashes.iter().map_while(|hash| self.cached.get(hash)) {
            let parent = found.last().copied().or(parent).map(|parent| parent.0);
            let block = &mut self.blocks[id.0 as usize];
            if block.references == 0 {
                self.eviction.hold(id.0);
                self.eviction.used_again(id.0, parent);
            } else {
                self.eviction.shared(id.0, parent);
            }
            block.references += 1;
            found.push(*id);
        }
        found
    }

    /// A private block without content, evicting a cached one if need be;
    /// `None` if all are referenced.
    pub fn allocate(&mut self) -> Option<BlockId> {
        let id = BlockId(self.eviction.take()?);
        let block = &mut self.blocks[id.0 as usize];
        block.references = 1;
        if let Some(end) = block.end.take() {
            self.ends.remove(&end);
        }
        if let Some(content) = block.content.take() {
            self.cached.remove(&content.hash);
            self.eviction.evicted(content.hash.short());
            if let Some(evicted) = &mut self.evicted {
                evicted.push((id, content));
            }
            self.tell_removed(content.hash);
        }
        Some(id)
    }

    /// Gives back one reference to each of a sequence's `blocks`.
    pub fn release(&mut self, blocks: &[BlockId]) {
        for id in blocks.iter().rev() {
            let block = &mut self.blocks[id.0 as usize];
            debug_assert!(block.references > 0, "block {id:?} released twice");
            block.references -= 1;
            if block.references > 0 {
                continue;
            }
            match block.content {
                Some(_) => self.eviction.free_cached(id.0),
                None => self.eviction.free_blank(id.0),
            }
        }
    }

    /// The referenced `block` now holds all of `content`. Gives the block to go
    /// on with: another one, referenced in its place, if that content was cached
    /// there already.
    #[must_use]
    pub fn register(&mut self, block: BlockId, content: Content) -> BlockId {
        debug_assert!(
            self.blocks[block.0 as usize].references > 0,
            "block {block:?} is nobody's"
        );
        if let Some(&cached) = self.cached.get(&content.hash) {
            return self.replace(block, cached);
        }
        let entry = &mut self.blocks[block.0 as usize];
        if entry.content.is_some() {
            return block;
        }
        entry.content = Some(content);
        let parent = self.cached.get(&content.parent).map(|parent| parent.0);
        let hash = content.hash.short();
        self.eviction.cached(block.0, hash, parent);
        self.cached.insert(content.hash, block);
        self.tell_stored(content);
        block
    }

    /// The referenced `block` begins with the end of a prompt.
    pub fn register_end(&mut self, block: BlockId, end: BlockHash) {
        if self.cached.contains_key(&end) || self.blocks[block.0 as usize].end.is_some() {
            return;
        }
        self.blocks[block.0 as usize].end = Some(end);
        // The latest is likely to stay longest.
        if let Some(earlier) = self.ends.insert(end, block) {
            self.blocks[earlier.0 as usize].end = None;
        }
    }

    /// A block that begins with that end of a prompt, or is all of it, whether
    /// anybody holds it or not: what it holds is there until the block is
    /// allocated and written.
    pub fn find_end(&self, end: BlockHash) -> Option<BlockId> {
        self.find(end).or_else(|| self.ends.get(&end).copied())
    }

    /// The content of the referenced `block` is not what it is said to be.
    pub fn forget(&mut self, block: BlockId) {
        let entry = &mut self.blocks[block.0 as usize];
        if let Some(end) = entry.end.take() {
            self.ends.remove(&end);
        }
        if let Some(content) = entry.content.take() {
            self.cached.remove(&content.hash);
            self.tell_removed(content.hash);
        }
    }

    /// References `cached` in place of `block`.
    fn replace(&mut self, block: BlockId, cached: BlockId) -> BlockId {
        if block == cached {
            return block;
        }
        let entry = &mut self.blocks[cached.0 as usize];
        if entry.references == 0 {
            self.eviction.hold(cached.0);
        }
        entry.references += 1;
        self.release(&[block]);
        cached
    }

    /// Takes the changes of cached content since the last call, in order.
    pub fn drain_events(&mut self) -> Vec<KvEvent> {
        std::mem::take(&mut self.events)
    }

    /// All cached blocks, in no order.
    pub fn content(&self) -> impl Iterator<Item = Content> + '_ {
        self.blocks.iter().filter_map(|block| block.content)
    }

    fn tell_stored(&mut self, content: Content) {
        let (parent, hash) = (parent_of(content), content.hash.short());
        if let Some(KvEvent::Stored { hashes, .. }) = self.events.last_mut()
            && hashes.last() == Some(&parent)
        {
            hashes.push(hash);
            return;
        }
        self.events.push(KvEvent::Stored {
            parent,
            hashes: vec![hash],
            tier: self.tier,
        });
    }

    fn tell_removed(&mut self, hash: BlockHash) {
        if let Some(KvEvent::Removed { hashes, .. }) = self.events.last_mut() {
            hashes.push(hash.short());
            return;
        }
        self.events.push(KvEvent::Removed {
            hashes: vec![hash.short()],
            tier: self.tier,
        });
    }
}

/// As events name it: 0 if the block starts a prompt.
fn parent_of(content: Content) -> u64 {
    match content.parent {
        BlockHash::ROOT => 0,
        parent => parent.short(),
    }
}

#[cfg(test)]
mod tests;
