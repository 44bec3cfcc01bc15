//! The index against a naive map, over a tree of prompts.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

const WORKERS: u32 = 5;
const BLOCKS: usize = 48;

#[derive(Clone, Debug)]
enum Op {
    /// Part of the path to a block, from a share of its length on.
    Store {
        worker: u32,
        block: usize,
        from: u8,
        tier: Tier,
    },
    /// The last blocks of a path: from the end, from the front, or one alone.
    Remove {
        worker: u32,
        block: usize,
        blocks: u8,
        tier: Tier,
        order: u8,
    },
    Predict {
        worker: u32,
        block: usize,
        ms: u64,
    },
    Clear {
        worker: u32,
    },
    Leave {
        worker: u32,
    },
    Wait {
        ms: u64,
    },
    Tidy,
}

fn op() -> impl Strategy<Value = Op> {
    let worker = 0..WORKERS;
    let block = 0..BLOCKS;
    let tier = prop::sample::select(vec![Tier::Device, Tier::Device, Tier::Host, Tier::Shared]);
    prop_oneof![
        8 => (worker.clone(), block.clone(), 0..4u8, tier.clone())
            .prop_map(|(worker, block, from, tier)| Op::Store { worker, block, from, tier }),
        6 => (worker.clone(), block.clone(), 1..12u8, tier, 0..4u8)
            .prop_map(|(worker, block, blocks, tier, order)| Op::Remove { worker, block, blocks, tier, order }),
        3 => (worker.clone(), block, 1..600u64)
            .prop_map(|(worker, block, ms)| Op::Predict { worker, block, ms }),
        1 => worker.clone().prop_map(|worker| Op::Clear { worker }),
        1 => worker.prop_map(|worker| Op::Leave { worker }),
        1 => (1..300u64).prop_map(|ms| Op::Wait { ms }),
        1 => Just(Op::Tidy),
    ]
}

/// Parents: block i + 1 follows one of the blocks before it, mostly the last.
fn tree() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(0..12usize, BLOCKS).prop_map(|steps| {
        let parent = |(i, step): (usize, &usize)| match step {
            0 => 0,
            1 => i / 2,
            2 => i.saturating_sub(3),
            _ => i,
        };
        steps.iter().enumerate().map(parent).collect()
    })
}

type Hold = (BTreeSet<Tier>, Option<u64>);

/// The naive map: for each worker, each block's tiers and predicted end.
#[derive(Debug, Default)]
struct Naive {
    held: BTreeMap<u32, BTreeMap<u64, Hold>>,
    now: u64,
}

impl Naive {
    fn is_held(&self, worker: u32, hash: u64) -> Option<Option<Tier>> {
        let (tiers, until) = self.held.get(&worker)?.get(&hash)?;
        match tiers.first() {
            Some(tier) => Some(Some(*tier)),
            None => until.filter(|until| self.now / 16 < *until).map(|_| None),
        }
    }

    fn apply(&mut self, index: &PrefixIndex, op: &Op, path: &[u64]) {
        match op {
            Op::Store {
                worker, from, tier, ..
            } => {
                let from = path.len() * usize::from(*from) / 4;
                let parent = if from == 0 { 0 } else { path[from - 1] };
                let event = KvEvent::Stored {
                    parent,
                    hashes: path[from..].to_vec(),
                    tier: *tier,
                };
                index.apply(WorkerSlot(*worker), &event);
                let held = self.held.entry(*worker).or_default();
                for hash in &path[from..] {
                    let (tiers, until) = held.entry(*hash).or_default();
                    tiers.insert(*tier);
                    *until = None;
                }
            }
            Op::Remove {
                worker,
                blocks,
                tier,
                order,
                ..
            } => {
                let mut hashes = path[path.len().saturating_sub(usize::from(*blocks))..].to_vec();
                match order {
                    0 => hashes.reverse(),
                    1 => hashes.truncate(1),
                    2 => hashes.rotate_left(1),
                    _ => {}
                }
                let held = self.held.entry(*worker).or_default();
                for hash in &hashes {
                    if let Some((tiers, until)) = held.get_mut(hash) {
                        tiers.remove(tier);
                        if tiers.is_empty() && until.is_none() {
                            held.remove(hash);
                        }
                    }
                }
                index.apply(
                    WorkerSlot(*worker),
                    &KvEvent::Removed {
                        hashes,
                        tier: *tier,
                    },
                );
            }
            Op::Predict { worker, ms, .. } => {
                let until = self.now + ms;
                index.predict(WorkerSlot(*worker), path, Duration::from_millis(until));
                let held = self.held.entry(*worker).or_default();
                for hash in path {
                    let (tiers, end) = held.entry(*hash).or_default();
                    if tiers.is_empty() {
                        *end = (*end).max(Some(until.div_ceil(16)));
                    }
                }
            }
            Op::Clear { worker } => {
                self.held.remove(worker);
                index.apply(WorkerSlot(*worker), &KvEvent::Cleared);
            }
            Op::Leave { worker } => {
                self.held.remove(worker);
                index.remove_worker(WorkerSlot(*worker));
            }
            Op::Wait { ms } => self.now += ms,
            Op::Tidy => tidy(index, Duration::from_millis(self.now)),
        }
    }

    fn check(&self, index: &PrefixIndex, path: &[u64]) -> Result<(), TestCaseError> {
        let found = index.overlaps(path, Duration::from_millis(self.now));
        for worker in 0..WORKERS {
            let kinds: Vec<_> = path
                .iter()
                .map_while(|hash| self.is_held(worker, *hash))
                .collect();
            let overlap = found.of(WorkerSlot(worker));
            let blocks = overlap.map_or(0, |overlap| overlap.blocks as usize);
            prop_assert_eq!(blocks, kinds.len(), "worker {}", worker);
            for tier in Tier::ALL {
                let expected = kinds.iter().filter(|kind| **kind == Some(tier)).count();
                prop_assert_eq!(overlap.map_or(0, |o| o.in_tier(tier) as usize), expected);
            }
            let predicted = kinds.iter().filter(|kind| kind.is_none()).count();
            prop_assert_eq!(overlap.map_or(0, |o| o.predicted() as usize), predicted);
        }
        Ok(())
    }

    fn check_counts(&self, index: &PrefixIndex) -> Result<(), TestCaseError> {
        for worker in 0..WORKERS {
            let held = self.held.get(&worker).into_iter().flatten();
            let observed = held.filter(|(_, (tiers, _))| !tiers.is_empty()).count();
            prop_assert_eq!(index.blocks_of(WorkerSlot(worker)), observed);
        }
        tidy(index, Duration::from_millis(self.now));
        let held = |hash: &u64| (0..WORKERS).any(|worker| self.is_held(worker, *hash).is_some());
        let all: BTreeSet<u64> = self
            .held
            .values()
            .flat_map(|held| held.keys().copied())
            .collect();
        prop_assert_eq!(index.len(), all.iter().filter(|hash| held(hash)).count());
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn agrees_with_a_naive_map(
        tree in tree(),
        ops in prop::collection::vec(op(), 0..120),
        queries in prop::collection::vec(0..BLOCKS, 1..12),
        spread in any::<bool>(),
    ) {
        let hash_of = |block: usize| match spread {
            true => (block as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15),
            false => block as u64,
        };
        let path = |block: usize| {
            let up = |block: &usize| Some(tree[*block - 1]).filter(|block| *block > 0);
            let mut path: Vec<u64> = std::iter::successors(Some(block + 1), up).map(hash_of).collect();
            path.reverse();
            path
        };
        let index = PrefixIndex::default();
        let mut naive = Naive::default();
        for (i, op) in ops.iter().enumerate() {
            let block = match op {
                Op::Store { block, .. } | Op::Remove { block, .. } | Op::Predict { block, .. } => *block,
                _ => 0,
            };
            naive.apply(&index, op, &path(block));
            naive.check(&index, &path(queries[i % queries.len()]))?;
        }
        for query in queries {
            naive.check(&index, &path(query))?;
        }
        naive.check_counts(&index)?;
    }
}
