//! The memory an index reports is what it has from the allocator.

use std::alloc::System;
use std::time::Duration;

use cap::Cap;
use kvcache_index::{KvEvent, PrefixIndex, WorkerSlot};

#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, usize::MAX);

fn check(index: &PrefixIndex, before: usize) {
    // Read first: reporting must not change what is reported.
    let (reported, taken) = (index.memory(), ALLOCATOR.allocated() - before);
    assert_eq!(reported, taken);
}

/// Without the test harness, whose threads would allocate too.
fn main() {
    // What a thread keeps for its lookups, of any index.
    PrefixIndex::default().overlaps(&[1], Duration::ZERO);
    for cap in [usize::MAX, 2 << 20] {
        let before = ALLOCATOR.allocated();
        let index = PrefixIndex::with_memory_cap(cap);
        check(&index, before);
        for chain in 0..3000u64 {
            // The event itself is the caller's.
            let first = chain * 40 + 1;
            for worker in 0..1 + chain as u32 % 20 {
                let stored = KvEvent::stored(0, (first..first + 40).collect());
                index.apply(WorkerSlot(worker), &stored);
            }
            let tail = KvEvent::removed((first + 35..first + 40).rev().collect());
            index.apply(WorkerSlot(0), &tail);
            if chain % 500 == 499 {
                index.remove_worker(WorkerSlot(chain as u32 % 20));
                let hashes: Vec<u64> = (first..first + 50).collect();
                index.predict(WorkerSlot(7), &hashes, Duration::from_millis(chain));
            }
            if chain % 50 == 0 {
                drop(tail);
                check(&index, before);
            }
        }
        while index.tidy(Duration::from_secs(9)) {}
        check(&index, before);
        assert!(index.memory() <= cap);
    }
}
