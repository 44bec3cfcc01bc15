//! Readers beside writers. A steady worker holds what it holds throughout, so
//! every lookup must find exactly that of it, whatever others do to the runs it
//! shares. The control shows that the check can see what tearing would do.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use super::*;

const STEADY: u32 = 0;
const HELD: u64 = 40;

/// A cheap generator of numbers below `n`.
fn next(state: &mut u64, n: u64) -> u64 {
    *state = state
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1);
    (*state >> 33) % n
}

/// Workers other than the steady one come, go, and hold parts of its chain and
/// branches of their own.
fn churn(index: &PrefixIndex, writer: u64, change: u64, state: &mut u64) {
    let worker = 1 + writer as u32 * 4 + next(state, 4) as u32;
    let (from, blocks) = (1 + next(state, HELD), 1 + next(state, 20));
    let branch = 1000 + change * 8 + writer * 1_000_000_000;
    match next(state, 12) {
        // All of the chain, whose list of holders is so replaced and used again.
        8..10 => store(index, worker, 0, 1..=HELD),
        10..12 => remove(index, worker, (1..=HELD).rev()),
        0..3 => store(index, worker, from - 1, from..=(from + blocks).min(HELD)),
        3 => store(index, worker, from - 1, branch..branch + blocks),
        4 => remove(index, worker, (from..=(from + blocks).min(HELD)).rev()),
        5 => remove(index, worker, [from]),
        6 => {
            let hashes: Vec<u64> = (1..=from).collect();
            index.predict(WorkerSlot(worker), &hashes, Duration::from_millis(change));
        }
        _ => index.remove_worker(WorkerSlot(worker)),
    }
    if change.is_multiple_of(64) {
        index.tidy(Duration::from_millis(change));
    }
}

/// Lookups while `disturb` runs `changes` times on each of two threads; those
/// that did not find what the steady worker holds, and all.
fn lookups_missing(
    disturb: impl Fn(&PrefixIndex, u64, u64, &mut u64) + Sync,
    changes: u64,
) -> (u64, u64) {
    let index = PrefixIndex::default();
    // Some come before the steady worker in lists of holders, some after it.
    (1..=8)
        .step_by(2)
        .for_each(|worker| store(&index, worker, 0, [1]));
    store(&index, STEADY, 0, 1..=HELD);
    let (stop, wrong, all) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let read = || {
        let prompt: Vec<u64> = (1..=HELD + 5).collect();
        let mut overlaps = Overlaps::default();
        while !stop.load(Relaxed) {
            index.overlaps_into(&prompt, NOW, &mut overlaps);
            let found = overlaps
                .of(WorkerSlot(STEADY))
                .map(|overlap| overlap.blocks);
            all.fetch_add(1, Relaxed);
            wrong.fetch_add(u64::from(found != Some(HELD as u32)), Relaxed);
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(read);
        scope.spawn(read);
        let write = |writer: u64| {
            let mut state = writer + 1;
            (0..changes).for_each(|change| disturb(&index, writer, change, &mut state));
        };
        let writers = [scope.spawn(move || write(0)), scope.spawn(move || write(1))];
        for writer in writers {
            writer.join().unwrap();
        }
        stop.store(true, Relaxed);
    });
    (wrong.into_inner(), all.into_inner())
}

#[test]
fn readers_always_find_what_a_worker_steadily_holds() {
    let (wrong, all) = lookups_missing(churn, 60_000);
    assert_eq!(wrong, 0, "of {all} lookups");
    assert!(all > 100, "only {all} lookups ran beside the writers");
}

/// A change made of two, with a moment between in which the block is gone.
#[test]
fn control_a_change_in_two_steps_is_seen_torn() {
    let torn = |index: &PrefixIndex, writer: u64, change: u64, state: &mut u64| {
        churn(index, writer, change, state);
        remove(index, STEADY, [20]);
        std::thread::yield_now();
        store(index, STEADY, 19, [20]);
    };
    // On a busy machine the threads may run one after the other for a while.
    let seen = (0..100).any(|_| lookups_missing(torn, 10_000).0 > 0);
    assert!(seen, "no lookup saw it");
}

/// What a lookup finds of worker 2, if `change` comes at the worst time.
fn found_beside(index: &PrefixIndex, change: impl Fn()) -> Option<u32> {
    let changed = std::cell::Cell::new(false);
    let once = || {
        if !changed.replace(true) {
            change();
        }
    };
    let prompt: Vec<u64> = (1..=10).collect();
    let mut overlaps = Overlaps::default();
    let mut done = false;
    while !done {
        let root = index.shared.root.load();
        let is_current = || Arc::ptr_eq(&root, &index.shared.root.load());
        done = walk::walk(&root, (is_current, &once), (&prompt, 0), &mut overlaps);
    }
    assert!(changed.get(), "the lookup came to no run");
    overlaps.of(WorkerSlot(2)).map(|overlap| overlap.blocks)
}

/// Nothing grows in these changes: a lookup would start again for that alone.
#[test]
fn a_list_used_again_while_it_is_read_is_read_anew() {
    let index = PrefixIndex::default();
    (1..=3).for_each(|worker| store(&index, worker, 0, 1..=10));
    (5..=7).for_each(|worker| store(&index, worker, 0, [200]));
    (5..=7).for_each(|worker| remove(&index, worker, [200]));
    let found = found_beside(&index, || {
        remove(&index, 1, 1..=10);
        // Three others take the list that three had.
        (5..=7).for_each(|worker| store(&index, worker, 0, [200]));
    });
    assert_eq!(found, Some(10));
}

#[test]
fn a_run_used_again_while_it_is_read_is_read_anew() {
    let index = PrefixIndex::default();
    store(&index, 1, 0, 201..=240);
    remove(&index, 1, 201..=240);
    store(&index, 1, 0, 1..=10);
    store(&index, 2, 0, 1..=5);
    let found = found_beside(&index, || {
        // The run that both have is free, and another prompt's.
        remove(&index, 1, 1..=10);
        remove(&index, 2, 1..=5);
        store(&index, 1, 0, 201..=240);
        store(&index, 2, 0, 1..=5);
    });
    assert_eq!(found, Some(5));
}

#[test]
fn a_segment_replaced_while_it_is_read_is_read_anew() {
    let index = PrefixIndex::default();
    store(&index, 2, 0, 1..=10);
    let found = found_beside(&index, || {
        remove(&index, 2, 1..=10);
        store(&index, 3, 0, 1000..=9000);
        store(&index, 2, 0, 1..=10);
    });
    assert_eq!(found, Some(10));
}
