use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

/// Hashes of a prompt of `family` that leaves the others' path at `branch`.
fn chain(family: u128, branch: usize, variant: u128, blocks: usize) -> Vec<BlockHash> {
    let path = 1 + variant + 10 * branch as u128;
    let variant_at = |index: usize| if index < branch { 0 } else { path };
    (0..blocks)
        .map(|index| {
            BlockHash((family + 1) * 1_000_000 + variant_at(index) * 1_000 + index as u128 + 1)
        })
        .collect()
}

fn contents(hashes: &[BlockHash]) -> impl Iterator<Item = Content> + '_ {
    let parents = std::iter::once(&BlockHash::ROOT).chain(hashes);
    parents.zip(hashes).map(|(parent, hash)| Content {
        parent: *parent,
        hash: *hash,
    })
}

/// Takes blocks for `hashes` and fills them.
fn fill(pool: &mut BlockPool, hashes: &[BlockHash]) -> Option<Vec<BlockId>> {
    let prefix = pool.lookup(hashes);
    if hashes.len() - prefix.blocks + prefix.idle > pool.free() {
        return None;
    }
    let mut blocks = pool.reuse(None, hashes);
    while blocks.len() < hashes.len() {
        blocks.push(pool.allocate().expect("counted above"));
    }
    for (block, content) in blocks.iter_mut().zip(contents(hashes)) {
        *block = pool.register(*block, content);
    }
    Some(blocks)
}

/// Applies events to what they should come to.
fn replay(stored: &mut BTreeSet<u64>, events: &[KvEvent]) {
    for event in events {
        match event {
            KvEvent::Stored { hashes, .. } => {
                for hash in hashes {
                    assert!(stored.insert(*hash), "{hash} is stored twice");
                }
            }
            KvEvent::Removed { hashes, .. } => {
                for hash in hashes {
                    assert!(stored.remove(hash), "{hash} was not stored");
                }
            }
            KvEvent::Cleared => stored.clear(),
        }
    }
}

#[test]
fn blank_blocks_are_taken_before_cached_ones_and_tails_before_heads() {
    let mut pool = BlockPool::new(4, 16);
    let first = chain(0, 0, 0, 3);
    let blocks = fill(&mut pool, &first).unwrap();
    pool.release(&blocks);
    assert_eq!((pool.free(), pool.cached()), (4, 3));
    let mut cached = Vec::new();
    while pool.allocate().is_some() {
        cached.push(pool.lookup(&first).blocks);
    }
    assert_eq!(cached, [3, 2, 1, 0]);
}

#[test]
fn the_least_recently_used_prompt_is_evicted_first() {
    let mut pool = BlockPool::new(4, 16);
    let (old, new) = (chain(0, 0, 0, 2), chain(1, 0, 0, 2));
    for hashes in [&old, &new, &old] {
        let blocks = fill(&mut pool, hashes).unwrap();
        pool.release(&blocks);
    }
    pool.allocate();
    assert_eq!((pool.lookup(&old).blocks, pool.lookup(&new).blocks), (2, 1));
}

#[test]
fn who_computes_what_is_cached_goes_on_with_the_cached_block() {
    let mut pool = BlockPool::new(4, 16);
    let hashes = chain(0, 0, 0, 1);
    let content = contents(&hashes).next().unwrap();
    let (a, b) = (pool.allocate().unwrap(), pool.allocate().unwrap());
    assert_eq!(pool.register(a, content), a);
    assert_eq!(pool.register(b, content), a);
    assert_eq!((pool.cached(), pool.free()), (1, 3));
    assert_eq!(pool.drain_events().len(), 1);
    pool.release(&[a]);
    assert_eq!(pool.free(), 3);
    pool.release(&[a]);
    // Free, and found again by one that computed it once more.
    let c = pool.allocate().unwrap();
    assert_eq!(pool.register(c, content), a);
    assert_eq!((pool.cached(), pool.free()), (1, 3));
    pool.release(&[a]);
    assert_eq!(pool.free(), 4);
}

/// Uses a prompt once.
fn pass(pool: &mut BlockPool, hashes: &[BlockHash]) {
    let blocks = fill(pool, hashes).unwrap();
    pool.release(&blocks);
}

#[test]
fn a_flood_of_prompts_that_come_once_leaves_what_is_used_again() {
    let mut pool = BlockPool::new(64, 16);
    let hot = chain(0, 0, 0, 16);
    pass(&mut pool, &hot);
    pass(&mut pool, &hot);
    (1..100).for_each(|family| pass(&mut pool, &chain(family, 0, 0, 20)));
    assert_eq!(pool.lookup(&hot).blocks, 16);
}

#[test]
fn uses_at_one_time_are_one_use() {
    let mut pool = BlockPool::new(64, 16);
    let prompt = chain(0, 0, 0, 16);
    let held: Vec<_> = (0..5).map(|_| fill(&mut pool, &prompt).unwrap()).collect();
    held.iter().for_each(|blocks| pool.release(blocks));
    // Those after the first four were all used as soon as they were cached.
    (1..10).for_each(|family| pass(&mut pool, &chain(family, 0, 0, 20)));
    assert_eq!(pool.lookup(&prompt).blocks, 12);
}

#[test]
fn what_comes_back_after_its_eviction_stays_longer() {
    let mut pool = BlockPool::new(64, 16);
    let comes_back = chain(0, 0, 0, 16);
    pass(&mut pool, &comes_back);
    (1..5).for_each(|family| pass(&mut pool, &chain(family, 0, 0, 20)));
    assert_eq!(pool.lookup(&comes_back).blocks, 0);
    pass(&mut pool, &comes_back);
    (5..100).for_each(|family| pass(&mut pool, &chain(family, 0, 0, 20)));
    assert_eq!(pool.lookup(&comes_back).blocks, 16);
}

#[test]
fn what_was_hot_gives_way_to_what_is() {
    let mut pool = BlockPool::new(64, 16);
    for family in 0..10 {
        let hot = chain(family, 0, 0, 16);
        for _ in 0..3 {
            pass(&mut pool, &hot);
            pass(&mut pool, &chain(100 + family, 0, 0, 30));
        }
        assert_eq!(pool.lookup(&hot).blocks, 16, "{family}");
    }
    assert_eq!(pool.lookup(&chain(0, 0, 0, 16)).blocks, 0);
}

#[test]
fn a_cached_block_keeps_its_identity() {
    let mut pool = BlockPool::new(1, 16);
    let hashes = chain(0, 0, 0, 2);
    let block = pool.allocate().unwrap();
    for content in contents(&hashes) {
        assert_eq!(pool.register(block, content), block);
    }
    assert_eq!(pool.lookup(&hashes).blocks, 1);
    assert_eq!(pool.cached(), 1);
}

#[test]
fn blocks_in_a_row_are_told_in_one_event_with_their_parent() {
    let mut pool = BlockPool::new(8, 16);
    let long = chain(0, 3, 0, 3);
    let blocks = fill(&mut pool, &long[..2]).unwrap();
    let more = fill(&mut pool, &long).unwrap();
    let short: Vec<u64> = long.iter().map(|hash| hash.short()).collect();
    let stored = KvEvent::stored(0, short.clone());
    assert_eq!(pool.drain_events(), [stored]);
    let branch = chain(0, 2, 7, 3);
    let other = fill(&mut pool, &branch).unwrap();
    let stored = KvEvent::stored(short[1], vec![branch[2].short()]);
    assert_eq!(pool.drain_events(), [stored]);
    for blocks in [&blocks, &more, &other] {
        pool.release(blocks);
    }
    assert_eq!((0..9).map_while(|_| pool.allocate()).count(), 8);
    let removed = pool.drain_events();
    assert!(matches!(&removed[..], [KvEvent::Removed { hashes, .. }] if hashes.len() == 4));
}

/// The pool in the plainest way: lists of free blocks in the order they go,
/// and for each cached block what it is.
struct Naive {
    total: usize,
    /// Blank, on probation, protected.
    free: [Vec<BlockId>; 3],
    content: BTreeMap<BlockId, Cached>,
    ghosts: Vec<BlockHash>,
    clock: usize,
}

#[derive(Clone, Copy)]
struct Cached {
    hash: BlockHash,
    is_protected: bool,
    cached_at: usize,
}

impl Naive {
    fn new(total: u32) -> Naive {
        Naive {
            total: total as usize,
            free: [(0..total).map(BlockId).collect(), Vec::new(), Vec::new()],
            content: BTreeMap::new(),
            ghosts: Vec::new(),
            clock: 0,
        }
    }

    fn free(&self) -> Vec<BlockId> {
        self.free.concat()
    }

    fn cached(&self, hash: BlockHash) -> Option<BlockId> {
        let found = self.content.iter().find(|(_, held)| held.hash == hash);
        found.map(|(block, _)| *block)
    }

    fn fill(&mut self, hashes: &[BlockHash]) -> Option<Vec<BlockId>> {
        let reused: Vec<BlockId> = hashes.iter().map_while(|it| self.cached(*it)).collect();
        let left: Vec<BlockId> = self
            .free()
            .into_iter()
            .filter(|it| !reused.contains(it))
            .collect();
        let fresh = hashes.len() - reused.len();
        if fresh > left.len() {
            return None;
        }
        let blocks = [reused.clone(), left[..fresh].to_vec()].concat();
        let idle = self.free();
        self.free
            .iter_mut()
            .for_each(|list| list.retain(|it| !blocks.contains(it)));
        let mut protects = true;
        for block in &reused {
            let is_old = self.clock - self.content[block].cached_at >= self.total / 16;
            let is_again = is_old || idle.contains(block);
            let cached = self.content.get_mut(block).unwrap();
            cached.is_protected |= is_again && protects;
            protects = cached.is_protected;
        }
        for block in &left[..fresh] {
            if let Some(cached) = self.content.remove(block) {
                self.ghosts.push(cached.hash);
            }
            self.ghosts = self
                .ghosts
                .split_off(self.ghosts.len().saturating_sub(self.total));
        }
        for (block, &hash) in blocks.iter().zip(hashes).skip(reused.len()) {
            self.clock += 1;
            // Blocks that were taken leave a gap until their turn to be forgotten.
            let ghost = self.ghosts.iter_mut().rfind(|it| **it == hash);
            protects &= ghost.is_some();
            if ghost.is_some() {
                self.ghosts
                    .iter_mut()
                    .filter(|it| **it == hash)
                    .for_each(|it| *it = BlockHash::ROOT);
            }
            let (is_protected, cached_at) = (protects, self.clock);
            self.content.insert(
                *block,
                Cached {
                    hash,
                    is_protected,
                    cached_at,
                },
            );
        }
        Some(blocks)
    }

    fn release(&mut self, blocks: &[BlockId], others: &[Vec<BlockId>]) {
        for block in blocks.iter().rev() {
            if others.iter().any(|held| held.contains(block)) {
                continue;
            }
            let protected = self.content[block].is_protected;
            self.free[1 + usize::from(protected)].push(*block);
            if self.free[2].len() > self.total / 2 {
                let oldest = self.free[2].remove(0);
                self.content.get_mut(&oldest).unwrap().is_protected = false;
                self.free[1].push(oldest);
            }
        }
    }
}

#[test]
fn ends_of_prompts_are_known_until_their_blocks_are_taken() {
    let mut pool = BlockPool::new(4, 16);
    let (end, full) = (BlockHash(7), BlockHash(8));
    let (first, second) = (pool.allocate().unwrap(), pool.allocate().unwrap());
    pool.register_end(first, end);
    pool.register_end(second, end);
    pool.release(&[first]);
    assert_eq!(pool.allocate(), Some(first));
    assert_eq!(pool.find_end(end), Some(second));
    pool.release(&[second]);
    assert_eq!(pool.find_end(end), Some(second));
    assert_eq!(pool.allocate(), Some(second));
    assert_eq!(pool.find_end(end), None);
    // A full block stays, as long as it is cached.
    let third = pool.allocate().unwrap();
    let content = Content {
        parent: BlockHash::ROOT,
        hash: full,
    };
    assert_eq!(pool.register(third, content), third);
    pool.register_end(third, full);
    pool.release(&[third]);
    assert_eq!(pool.find_end(full), Some(third));
    pool.allocate().unwrap();
    assert_eq!(pool.allocate(), Some(third));
    assert_eq!(pool.find_end(full), None);
}

#[derive(Clone, Debug)]
enum Op {
    Fill(Vec<BlockHash>),
    Release(usize),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => (0..2u128, 0..4usize, 0..3u128, 1..8usize)
            .prop_map(|(family, branch, variant, blocks)| Op::Fill(chain(family, branch, variant, blocks))),
        2 => any::<usize>().prop_map(Op::Release),
    ]
}

proptest! {
    #[test]
    fn agrees_with_a_naive_pool(total in 1..24u32, ops in prop::collection::vec(op(), 0..80)) {
        let mut pool = BlockPool::new(total as usize, 16);
        let mut naive = Naive::new(total);
        let mut held: Vec<Vec<BlockId>> = Vec::new();
        let (mut stored, mut parents) = (BTreeSet::new(), BTreeMap::new());
        for op in ops {
            match op {
                Op::Fill(hashes) => {
                    parents.extend(contents(&hashes).map(|it| (it.hash.short(), it.parent.short())));
                    let blocks = fill(&mut pool, &hashes);
                    prop_assert_eq!(&blocks, &naive.fill(&hashes));
                    held.extend(blocks);
                }
                Op::Release(_) if held.is_empty() => {}
                Op::Release(which) => {
                    let blocks = held.swap_remove(which % held.len());
                    pool.release(&blocks);
                    naive.release(&blocks, &held);
                }
            }
            let referenced: BTreeSet<BlockId> = held.iter().flatten().copied().collect();
            let free = naive.free();
            prop_assert_eq!(pool.free(), free.len());
            prop_assert_eq!(pool.free() + referenced.len(), pool.total());
            prop_assert!(free.iter().all(|block| !referenced.contains(block)));
            replay(&mut stored, &pool.drain_events());
            let content: BTreeSet<u64> = pool.content().map(|it| it.hash.short()).collect();
            let expected: BTreeSet<u64> = naive.content.values().map(|it| it.hash.short()).collect();
            prop_assert_eq!(&content, &expected);
            prop_assert_eq!(&stored, &content);
            prop_assert_eq!(pool.cached(), content.len());
            for hash in &content {
                let parent = parents[hash];
                prop_assert!(parent == BlockHash::ROOT.short() || content.contains(&parent));
            }
        }
    }
}
