//! The prefix index: block hash to the workers that hold it.
//!
//! Hashes chain, so a block's hash stands for its whole prefix and one flat
//! table answers prefix queries: walk a prompt's hashes from the first, and
//! keep the workers that hold every block so far. A block in the middle of a
//! prefix may be evicted before those after it; such later blocks don't count.

use rustc_hash::{FxHashMap, FxHashSet};
use smallvec::SmallVec;

use crate::KvEvent;

/// A worker's number in the index, given by its owner; reused after
/// [`PrefixIndex::remove_worker`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkerSlot(pub u32);

/// Which workers hold which blocks. Workers of different models or block sizes
/// share the index: their hashes differ.
#[derive(Debug, Default)]
pub struct PrefixIndex {
    holders: FxHashMap<u64, SmallVec<[WorkerSlot; 4]>>,
    held: FxHashMap<WorkerSlot, FxHashSet<u64>>,
}

/// For each worker that holds a prompt's first block: how many blocks in a row
/// it holds from there.
pub type Overlaps = SmallVec<[(WorkerSlot, usize); 8]>;

impl PrefixIndex {
    /// Applies one event of `worker`. Repeats change nothing.
    pub fn apply(&mut self, worker: WorkerSlot, event: &KvEvent) {
        match event {
            KvEvent::Stored { hashes, .. } => {
                let held = self.held.entry(worker).or_default();
                for &hash in hashes {
                    if held.insert(hash) {
                        self.holders.entry(hash).or_default().push(worker);
                    }
                }
            }
            KvEvent::Removed { hashes } => {
                let Some(held) = self.held.get_mut(&worker) else {
                    return;
                };
                for hash in hashes {
                    if held.remove(hash) {
                        unlist(&mut self.holders, *hash, worker);
                    }
                }
            }
            KvEvent::Cleared => self.remove_worker(worker),
        }
    }

    /// Forgets all blocks of `worker`.
    pub fn remove_worker(&mut self, worker: WorkerSlot) {
        for hash in self.held.remove(&worker).unwrap_or_default() {
            unlist(&mut self.holders, hash, worker);
        }
    }

    /// The longest held prefix of every worker, for a prompt whose full blocks
    /// have `hashes`.
    pub fn overlaps(&self, hashes: &[u64]) -> Overlaps {
        let mut overlaps = Overlaps::new();
        let mut alive: SmallVec<[WorkerSlot; 8]> = match hashes.first() {
            Some(first) => self.holders_of(*first).into(),
            None => SmallVec::new(),
        };
        let mut depth = 0;
        for hash in hashes {
            let holders = self.holders_of(*hash);
            alive.retain(|worker| {
                let holds = holders.contains(worker);
                if !holds {
                    overlaps.push((*worker, depth));
                }
                holds
            });
            if alive.is_empty() {
                break;
            }
            depth += 1;
        }
        overlaps.extend(alive.into_iter().map(|worker| (worker, depth)));
        overlaps
    }

    /// Number of blocks `worker` holds.
    pub fn blocks_of(&self, worker: WorkerSlot) -> usize {
        self.held.get(&worker).map_or(0, FxHashSet::len)
    }

    /// Number of different blocks.
    pub fn len(&self) -> usize {
        self.holders.len()
    }

    /// Whether no worker holds anything.
    pub fn is_empty(&self) -> bool {
        self.holders.is_empty()
    }

    fn holders_of(&self, hash: u64) -> &[WorkerSlot] {
        self.holders.get(&hash).map_or(&[], |holders| holders)
    }
}

fn unlist(holders: &mut FxHashMap<u64, SmallVec<[WorkerSlot; 4]>>, hash: u64, worker: WorkerSlot) {
    if let Some(list) = holders.get_mut(&hash) {
        list.retain(|holder| *holder != worker);
        if list.is_empty() {
            holders.remove(&hash);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Op {
        Store(u32, u64, u64),
        Remove(u32, u64),
        Clear(u32),
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            6 => (0..4u32, 1..20u64, 1..6u64).prop_map(|(w, from, n)| Op::Store(w, from, n)),
            3 => (0..4u32, 1..24u64).prop_map(|(w, hash)| Op::Remove(w, hash)),
            1 => (0..4u32).prop_map(Op::Clear),
        ]
    }

    fn naive_overlap(held: &BTreeSet<u64>, query: &[u64]) -> usize {
        query.iter().take_while(|hash| held.contains(hash)).count()
    }

    proptest! {
        #[test]
        fn agrees_with_a_naive_map(ops in prop::collection::vec(op(), 0..80), from in 1..10u64, n in 0..20u64) {
            let mut index = PrefixIndex::default();
            let mut naive: BTreeMap<u32, BTreeSet<u64>> = BTreeMap::new();
            for op in ops {
                match op {
                    Op::Store(w, from, n) => {
                        let hashes: Vec<u64> = (from..from + n).collect();
                        naive.entry(w).or_default().extend(&hashes);
                        index.apply(WorkerSlot(w), &KvEvent::Stored { parent: 0, hashes });
                    }
                    Op::Remove(w, hash) => {
                        naive.entry(w).or_default().remove(&hash);
                        index.apply(WorkerSlot(w), &KvEvent::Removed { hashes: vec![hash] });
                    }
                    Op::Clear(w) => {
                        naive.remove(&w);
                        index.apply(WorkerSlot(w), &KvEvent::Cleared);
                    }
                }
            }
            let query: Vec<u64> = (from..from + n).collect();
            let got: BTreeMap<u32, usize> = index.overlaps(&query).into_iter().map(|(w, n)| (w.0, n)).collect();
            for (w, held) in &naive {
                prop_assert_eq!(got.get(w).copied().unwrap_or(0), naive_overlap(held, &query));
                prop_assert_eq!(index.blocks_of(WorkerSlot(*w)), held.len());
            }
            let distinct: BTreeSet<u64> = naive.values().flatten().copied().collect();
            prop_assert_eq!(index.len(), distinct.len());
        }
    }
}
