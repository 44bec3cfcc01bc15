use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

/// Hashes of a prompt of `family` that leaves the others' path at `branch`.
fn chain(family: u128, branch: usize, variant: u128, blocks: usize) -> Vec<BlockHash> {
    let variant_at = |index: usize| if index < branch { 0 } else { 1 + variant };
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
    let mut blocks = pool.reuse(hashes);
    while blocks.len() < hashes.len() {
        blocks.push(pool.allocate().expect("counted above"));
    }
    for (block, content) in blocks.iter().zip(contents(hashes)) {
        pool.register(*block, content);
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
fn a_block_computed_twice_is_cached_once_and_the_second_stays_private() {
    let mut pool = BlockPool::new(4, 16);
    let hashes = chain(0, 0, 0, 1);
    let content = contents(&hashes).next().unwrap();
    let (a, b) = (pool.allocate().unwrap(), pool.allocate().unwrap());
    pool.register(a, content);
    pool.register(b, content);
    assert_eq!(pool.cached(), 1);
    assert_eq!(pool.drain_events().len(), 1);
    pool.release(&[b]);
    assert_eq!(pool.reuse(&hashes), [a]);
    pool.release(&[a]);
    pool.release(&[a]);
    assert_eq!((pool.free(), pool.cached()), (4, 1));
}

#[test]
fn a_cached_block_keeps_its_identity() {
    let mut pool = BlockPool::new(1, 16);
    let hashes = chain(0, 0, 0, 2);
    let block = pool.allocate().unwrap();
    for content in contents(&hashes) {
        pool.register(block, content);
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

/// The pool in the plainest way: a list of free blocks in the order they go.
struct Naive {
    free: Vec<BlockId>,
    content: BTreeMap<BlockId, BlockHash>,
}

impl Naive {
    fn new(total: u32) -> Naive {
        Naive {
            free: (0..total).map(BlockId).collect(),
            content: BTreeMap::new(),
        }
    }

    fn cached(&self, hash: BlockHash) -> Option<BlockId> {
        let found = self.content.iter().find(|(_, held)| **held == hash);
        found.map(|(block, _)| *block)
    }

    fn fill(&mut self, hashes: &[BlockHash]) -> Option<Vec<BlockId>> {
        let reused: Vec<BlockId> = hashes.iter().map_while(|it| self.cached(*it)).collect();
        let free: Vec<BlockId> = self.free.clone();
        let left: Vec<BlockId> = free.into_iter().filter(|it| !reused.contains(it)).collect();
        let fresh = hashes.len() - reused.len();
        if fresh > left.len() {
            return None;
        }
        self.free = left[fresh..].to_vec();
        for block in &left[..fresh] {
            self.content.remove(block);
        }
        let blocks = [reused, left[..fresh].to_vec()].concat();
        for (block, hash) in blocks.iter().zip(hashes) {
            if self.cached(*hash).is_none() {
                self.content.insert(*block, *hash);
            }
        }
        Some(blocks)
    }

    fn release(&mut self, blocks: &[BlockId], others: &[Vec<BlockId>]) {
        for block in blocks.iter().rev() {
            if others.iter().any(|held| held.contains(block)) {
                continue;
            }
            match self.content.contains_key(block) {
                true => self.free.push(*block),
                false => self.free.insert(0, *block),
            }
        }
    }
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
        let mut stored = BTreeSet::new();
        for op in ops {
            match op {
                Op::Fill(hashes) => {
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
            prop_assert_eq!(pool.free(), naive.free.len());
            prop_assert_eq!(pool.free() + referenced.len(), pool.total());
            prop_assert!(naive.free.iter().all(|block| !referenced.contains(block)));
            replay(&mut stored, &pool.drain_events());
            let content: BTreeSet<u64> = pool.content().map(|it| it.hash.short()).collect();
            let expected: BTreeSet<u64> = naive.content.values().map(|it| it.short()).collect();
            prop_assert_eq!(&content, &expected);
            prop_assert_eq!(&stored, &content);
            prop_assert_eq!(pool.cached(), content.len());
        }
    }
}
