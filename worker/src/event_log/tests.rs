use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kvcache_index::{Feed, PrefixIndex, WorkerSlot};
use proptest::prelude::*;

use super::*;

const WORKER: WorkerSlot = WorkerSlot(0);

fn stored(parent: u64, hashes: &[u64]) -> KvEvent {
    KvEvent::stored(parent, hashes.to_vec())
}

fn removed(hashes: &[u64]) -> KvEvent {
    KvEvent::removed(hashes.to_vec())
}

fn parents(parts: &[Vec<Run>]) -> BTreeMap<u64, u64> {
    let mut blocks = BTreeMap::new();
    for run in parts.iter().flatten() {
        let mut parent = run.parent;
        for &hash in &run.hashes {
            assert_eq!(blocks.insert(hash, parent), None, "block {hash} twice");
            parent = hash;
        }
    }
    blocks
}

#[test]
fn numbers_events_from_one() {
    let mut log = EventLog::new(9, 1000);
    log.append(stored(0, &[1, 2]));
    log.append(removed(&[2]));
    let events = log.after(0, 10).unwrap();
    let seqs: Vec<u64> = events.iter().map(|event| event.seq).collect();
    assert_eq!(seqs, [1, 2]);
    assert_eq!(log.after(1, 10).unwrap()[0].event, removed(&[2]));
    assert_eq!(log.after(2, 10), Some(vec![]));
}

#[test]
fn a_number_from_the_future_is_not_of_this_epoch() {
    let mut log = EventLog::new(9, 1000);
    log.append(stored(0, &[1]));
    assert_eq!(log.after(2, 10), None);
}

#[test]
fn forgets_the_oldest_events_when_full() {
    let mut log = EventLog::new(9, 12);
    for hash in 1..=5 {
        log.append(stored(0, &[hash]));
    }
    assert_eq!(log.after(2, 10), None);
    assert_eq!(log.after(3, 10).unwrap().len(), 2);
    assert_eq!(log.snapshot().seq, 5);
    assert_eq!(parents(&log.snapshot().into_parts(100)).len(), 5);
}

#[test]
fn a_long_event_becomes_several_that_chain() {
    let hashes: Vec<u64> = (1..=HASHES_PER_EVENT as u64 + 1).collect();
    let mut log = EventLog::new(9, 100_000);
    log.append(stored(0, &hashes));
    log.append(removed(&hashes));
    let events = log.after(0, 10).unwrap();
    assert_eq!(events.len(), 4);
    assert_eq!(
        events[1].event,
        stored(HASHES_PER_EVENT as u64, &hashes[HASHES_PER_EVENT..])
    );
    assert_eq!(log.snapshot().into_parts(10), [vec![]]);
}

#[test]
fn an_empty_snapshot_has_one_part() {
    let log = EventLog::new(9, 10);
    assert_eq!(log.snapshot().into_parts(10), [vec![]]);
}

#[test]
fn snapshot_keeps_forks_and_orphans() {
    let mut log = EventLog::new(9, 1000);
    log.append(stored(0, &[1, 2, 3]));
    log.append(stored(1, &[20, 30]));
    log.append(stored(0, &[7, 8]));
    log.append(removed(&[7]));
    let expected = BTreeMap::from([(1, 0), (2, 1), (3, 2), (20, 1), (30, 20), (8, 7)]);
    for size in 1..8 {
        let parts = log.snapshot().into_parts(size);
        assert_eq!(parents(&parts), expected);
        let longest = parts
            .iter()
            .map(|part| part.iter().map(|run| run.hashes.len()).sum())
            .max();
        assert!(longest <= Some(size));
    }
}

#[derive(Clone, Debug)]
enum Op {
    Store(u64, u64),
    Remove(u64),
    Clear,
    Read,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (1..40u64, 1..6u64).prop_map(|(from, n)| Op::Store(from, n)),
        3 => (1..45u64).prop_map(Op::Remove),
        1 => Just(Op::Clear),
        4 => Just(Op::Read),
    ]
}

/// Where a block's events say that it is.
fn tier(hash: u64) -> Tier {
    match hash % 3 {
        0 => Tier::Host,
        _ => Tier::Device,
    }
}

proptest! {
    /// However seldom a subscriber reads, replays and snapshots leave it with
    /// exactly the blocks that are stored.
    #[test]
    fn a_subscriber_always_catches_up(ops in prop::collection::vec(op(), 1..120), capacity in 5..60usize) {
        let mut log = EventLog::new(7, capacity);
        let index = PrefixIndex::default();
        let mut feed = Feed::default();
        for op in ops.into_iter().chain([Op::Read]) {
            match op {
                Op::Store(from, n) => {
                    let hashes: Vec<u64> = (from..from + n).collect();
                    log.append(KvEvent::Stored {
                        parent: from - 1,
                        hashes,
                        tier: tier(from),
                    });
                }
                Op::Remove(hash) => log.append(KvEvent::Removed {
                    hashes: vec![hash],
                    tier: tier(hash),
                }),
                Op::Clear => log.append(KvEvent::Cleared),
                Op::Read => catch_up(&log, &mut feed, &index),
            }
        }
        while index.tidy(Duration::ZERO) {}
        let stored: BTreeSet<u64> = log.stored.values().flatten().map(|(hash, _)| *hash).collect();
        prop_assert_eq!(index.blocks_of(WORKER), stored.len());
        prop_assert_eq!(index.len(), stored.len());
        for hash in stored {
            let overlaps = index.overlaps(&[hash], Duration::ZERO);
            let fastest = log.stored.iter().find(|(_, stored)| stored.contains_key(&hash));
            let in_tier = |tier: &Tier| overlaps.of(WORKER).map(|overlap| overlap.in_tier(*tier));
            prop_assert_eq!(fastest.and_then(|(tier, _)| in_tier(tier)), Some(1));
        }
    }
}

fn catch_up(log: &EventLog, feed: &mut Feed, index: &PrefixIndex) {
    let (epoch, seq) = feed.position();
    let events = (epoch == log.epoch())
        .then(|| log.after(seq, usize::MAX))
        .flatten();
    let Some(events) = events else {
        let snapshot = log.snapshot();
        feed.snapshot(log.epoch(), snapshot.seq, true);
        index.remove_worker(WORKER);
        for run in snapshot.into_parts(3).into_iter().flatten() {
            let event = KvEvent::Stored {
                parent: run.parent,
                hashes: run.hashes,
                tier: run.tier,
            };
            index.apply(WORKER, &event);
        }
        return;
    };
    for numbered in events {
        feed.event(log.epoch(), numbered.seq).unwrap();
        index.apply(WORKER, &numbered.event);
    }
}
