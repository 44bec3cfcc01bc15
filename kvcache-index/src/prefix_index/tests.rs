use std::time::Duration;

use super::*;
use crate::Tier;

mod cap;
mod model;
mod stress;

const NOW: Duration = Duration::ZERO;

fn store(index: &PrefixIndex, worker: u32, parent: u64, hashes: impl IntoIterator<Item = u64>) {
    let stored = KvEvent::stored(parent, hashes.into_iter().collect());
    index.apply(WorkerSlot(worker), &stored);
}

fn remove(index: &PrefixIndex, worker: u32, hashes: impl IntoIterator<Item = u64>) {
    let removed = KvEvent::removed(hashes.into_iter().collect());
    index.apply(WorkerSlot(worker), &removed);
}

/// Blocks in a row that each worker holds of the chain 1, 2, .. `blocks`.
fn depths(index: &PrefixIndex, blocks: u64, now: Duration) -> Vec<(u32, u32)> {
    let hashes: Vec<u64> = (1..=blocks).collect();
    let found = index.overlaps(&hashes, now);
    let mut depths: Vec<_> = found.iter().map(|o| (o.worker.0, o.blocks)).collect();
    depths.sort_unstable();
    depths
}

fn tidy(index: &PrefixIndex, now: Duration) {
    while index.tidy(now) {}
}

#[test]
fn a_prefix_counts_up_to_the_first_block_missing() {
    let index = PrefixIndex::default();
    store(&index, 0, 0, 1..=50);
    store(&index, 1, 0, 1..=30);
    remove(&index, 0, [20]);
    assert_eq!(depths(&index, 60, NOW), [(0, 19), (1, 30)]);
    store(&index, 0, 19, [20]);
    assert_eq!(depths(&index, 60, NOW), [(0, 50), (1, 30)]);
    assert_eq!(depths(&index, 25, NOW), [(0, 25), (1, 25)]);
}

#[test]
fn blocks_removed_in_any_order_leave_the_others() {
    for order in [vec![48, 49, 50], vec![50, 49, 48], vec![49, 50, 48]] {
        let index = PrefixIndex::default();
        store(&index, 0, 0, 1..=50);
        store(&index, 1, 0, 1..=50);
        remove(&index, 1, order);
        assert_eq!(depths(&index, 50, NOW), [(0, 50), (1, 47)]);
        assert_eq!(index.blocks_of(WorkerSlot(1)), 47);
        assert_eq!(index.len(), 50);
    }
}

#[test]
fn tiers_are_counted_by_the_fastest() {
    let index = PrefixIndex::default();
    let worker = WorkerSlot(3);
    store(&index, 3, 0, 1..=4);
    for (tier, hashes) in [(Tier::Host, 3..=6), (Tier::Disk, 5..=8)] {
        let event = KvEvent::Stored {
            parent: hashes.start() - 1,
            hashes: hashes.collect(),
            tier,
        };
        index.apply(worker, &event);
    }
    index.predict(
        worker,
        &(1..=10).collect::<Vec<_>>(),
        Duration::from_secs(1),
    );
    let found = index.overlaps(&(1..=12).collect::<Vec<_>>(), NOW);
    let overlap = found.of(worker).copied().unwrap();
    assert_eq!(overlap.blocks, 10);
    assert_eq!(Tier::ALL.map(|tier| overlap.in_tier(tier)), [4, 2, 2, 0]);
    assert_eq!(overlap.predicted(), 2);
    // Gone from the device, blocks 3 and 4 are still on the host.
    remove(&index, 3, 1..=4);
    let found = index.overlaps(&[3, 4, 5], NOW);
    assert_eq!(found.of(worker).unwrap().in_tier(Tier::Host), 3);
    assert_eq!(index.blocks_of(worker), 6);
}

#[test]
fn a_prediction_ends_unless_it_is_refreshed_or_comes_true() {
    let index = PrefixIndex::default();
    let at = Duration::from_millis;
    let hashes: Vec<u64> = (1..=10).collect();
    for worker in 0..3 {
        index.predict(WorkerSlot(worker), &hashes, at(1000));
    }
    index.predict(WorkerSlot(1), &hashes, at(2000));
    index.predict(WorkerSlot(1), &hashes, at(500));
    store(&index, 2, 0, 1..=4);
    assert_eq!(depths(&index, 10, at(999)), [(0, 10), (1, 10), (2, 10)]);
    assert_eq!(depths(&index, 10, at(1100)), [(1, 10), (2, 4)]);
    assert_eq!(depths(&index, 10, at(2100)), [(2, 4)]);
    assert_eq!(index.blocks_of(WorkerSlot(1)), 0);
    assert_eq!(index.len(), 10);
    tidy(&index, at(2100));
    assert_eq!(index.len(), 4);
}

#[test]
fn a_removed_worker_leaves_no_ghost_and_its_slot_starts_anew() {
    let index = PrefixIndex::default();
    store(&index, 0, 0, 1..=20);
    store(&index, 1, 0, 1..=20);
    index.remove_worker(WorkerSlot(0));
    assert_eq!(depths(&index, 20, NOW), [(1, 20)]);
    store(&index, 0, 0, 1..=5);
    assert_eq!(depths(&index, 20, NOW), [(0, 5), (1, 20)]);
    index.apply(WorkerSlot(0), &KvEvent::Cleared);
    index.remove_worker(WorkerSlot(1));
    tidy(&index, NOW);
    assert!(index.is_empty());
    assert_eq!(depths(&index, 20, NOW), []);
}

#[test]
fn lanes_and_runs_of_workers_that_left_are_used_again() {
    let index = PrefixIndex::default();
    let mut after_warm_up = 0;
    for round in 0..2000u64 {
        for worker in 0..8u64 {
            let first = (round * 8 + worker) * 100 + 1;
            store(&index, worker as u32, 0, first..first + 100);
        }
        for worker in 0..8 {
            index.remove_worker(WorkerSlot(worker));
        }
        if round == 200 {
            after_warm_up = index.memory();
        }
    }
    assert!(index.memory() < after_warm_up * 2, "{}", index.memory());
}

#[test]
fn malformed_events_do_no_harm() {
    let index = PrefixIndex::default();
    store(&index, 0, 0, [5, 5, 5, 0, 6]);
    store(&index, 0, 5, [5]);
    store(&index, 0, 99, [7, 5, 8, 7]);
    remove(&index, 0, [0, 5, 5, 7, 8, 6]);
    tidy(&index, NOW);
    assert_eq!((index.len(), index.blocks_of(WorkerSlot(0))), (0, 0));
}

#[test]
fn the_same_calls_give_the_same_answer() {
    let answer = || {
        let index = PrefixIndex::with_memory_cap(MIN_MEMORY);
        for round in 0..3000u64 {
            let first = round % 700 * 50 + 1;
            store(&index, (round % 13) as u32, 0, first..first + 60);
            if round % 100 == 99 {
                index.remove_worker(WorkerSlot((round % 13) as u32));
            }
        }
        let hashes: Vec<u64> = (1..=60).collect();
        let found = index.overlaps(&hashes, NOW);
        (found.as_slice().to_vec(), index.len(), index.memory())
    };
    assert_eq!(answer(), answer());
}
