//! What the router makes of a worker's events.

use std::time::Duration;

use crate::client::{blocks, complete, prompt, router_of};
use crate::parts::{Part, router_over, until};
use crate::worker::{Scripted, draining};

const INDEXED: &str = "kvasir_router_index_blocks";
const CONNECTED: &str = "kvasir_router_connected_workers";
const SNAPSHOTS: &str = "kvasir_router_snapshots_total";

/// A router and a worker whose snapshot at event 10 holds blocks 0 and 1.
fn joined() -> (Part, Scripted) {
    let worker = Scripted::by_hand("a");
    let router = router_over(&[worker.address]);
    let joining = worker.subscription(0);
    assert_eq!(joining.position, (0, 0));
    joining.snapshot(10, &blocks(2));
    joining.idle(10);
    router.wait_for(CONNECTED, |n| n == 1.0);
    router.wait_for(INDEXED, |n| n == 2.0);
    (router, worker)
}

/// Tokens of a prompt of four blocks and a bit that the router takes to be
/// cached on the worker.
fn cached(router: &Part) -> u64 {
    let answer = complete(router, &prompt(4 * 16 + 3), 1);
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.planned_cached("a").expect("it is connected")
}

#[test]
fn snapshot_and_events_reach_the_index() {
    let (router, worker) = joined();
    assert_eq!(cached(&router), 32);
    let events = worker.subscription(0);
    events.stored(11, &blocks(4)[2..]);
    router.wait_for(INDEXED, |n| n == 4.0);
    assert_eq!(cached(&router), 64);
    events.removed(12, &blocks(4)[1..2]);
    router.wait_for(INDEXED, |n| n == 3.0);
    assert_eq!(cached(&router), 16, "a prefix ends at its first gap");
    events.cleared(13);
    router.wait_for(INDEXED, |n| n == 0.0);
    assert_eq!(cached(&router), 0);
    assert_eq!(router.metric("kvasir_router_event_gaps_total"), 0.0);
}

#[test]
fn gap_is_repaired_from_where_it_began() {
    let (router, worker) = joined();
    let first = worker.subscription(0);
    first.stored(11, &blocks(3)[2..]);
    first.stored(13, &blocks(5)[4..]);
    let again = worker.subscription(1);
    assert_eq!(again.position, (7, 11));
    again.stored(12, &blocks(4)[3..]);
    again.removed(13, &blocks(1));
    again.stored(14, &blocks(1));
    again.stored(15, &blocks(5)[4..]);
    router.wait_for(INDEXED, |n| n == 5.0);
    assert_eq!(cached(&router), 64);
    assert_eq!(router.metric("kvasir_router_event_gaps_total"), 1.0);
    assert_eq!(router.metric(SNAPSHOTS), 1.0);
    assert_eq!(router.metric(CONNECTED), 1.0);
}

#[test]
fn repeated_events_change_nothing() {
    let (router, worker) = joined();
    let events = worker.subscription(0);
    events.removed(10, &blocks(2));
    events.stored(11, &blocks(3)[2..]);
    router.wait_for(INDEXED, |n| n == 3.0);
    events.removed(11, &blocks(3));
    events.stored(12, &blocks(4)[3..]);
    router.wait_for(INDEXED, |n| n >= 4.0);
    assert_eq!(cached(&router), 64);
}

#[test]
fn gap_that_stays_is_asked_about_ever_more_rarely() {
    let (_router, worker) = joined();
    worker.subscription(0).stored(12, &blocks(4));
    // Every replay lacks event 11, and every snapshot ends before it.
    for n in (1..9).step_by(2) {
        let replay = worker.subscription(n);
        assert_eq!(replay.position, (7, 10));
        replay.idle(10);
        replay.stored(12, &blocks(4));
        let snapshot = worker.subscription(n + 1);
        assert_eq!(snapshot.position, (0, 0));
        snapshot.snapshot(10, &blocks(2));
        snapshot.idle(10);
        snapshot.stored(12, &blocks(4));
    }
    let between = |a: usize, b: usize| worker.subscription(b).at - worker.subscription(a).at;
    // The first wait is 50 ms, each one twice the last.
    assert!(between(1, 2) >= Duration::from_millis(50));
    assert!(between(1, 8) >= Duration::from_millis(50 + 100 + 200 + 400));
}

#[test]
fn new_epoch_purges_the_old_blocks_at_once() {
    let (router, mut worker) = joined();
    worker.kill();
    router.wait_for(CONNECTED, |n| n == 0.0);
    assert_eq!(router.metric(INDEXED), 2.0);
    let restarted = worker.again(8);
    let events = restarted.subscription(0);
    assert_eq!(events.position, (7, 10));
    router.wait_for(INDEXED, |n| n == 0.0);
    events.snapshot(0, &[]);
    events.idle(0);
    router.wait_for(CONNECTED, |n| n == 1.0);
    assert_eq!(cached(&router), 0);
    events.snapshot(3, &blocks(1));
    router.wait_for(INDEXED, |n| n == 1.0);
    assert_eq!(cached(&router), 16);
}

#[test]
fn epoch_that_changes_in_mid_stream_needs_a_snapshot() {
    let (router, worker) = joined();
    worker.subscription(0).of_epoch(8).stored(11, &blocks(4));
    let again = worker.subscription(1);
    assert_eq!(again.position, (7, 10));
    again.of_epoch(8).stored(11, &blocks(4));
    let snapshot = worker.subscription(2);
    assert_eq!(snapshot.position, (0, 0));
    snapshot.of_epoch(8).snapshot(20, &blocks(3));
    router.wait_for(INDEXED, |n| n == 3.0);
    assert_eq!(cached(&router), 48);
}

#[test]
fn snapshot_cut_short_is_asked_for_again() {
    let worker = Scripted::by_hand("a");
    let router = router_over(&[worker.address]);
    let broken = worker.subscription(0);
    broken.snapshot_part(10, &blocks(1), (true, false));
    broken.idle(10);
    broken.cut();
    let interrupted = worker.subscription(1);
    assert_eq!(interrupted.position, (0, 0));
    interrupted.snapshot_part(10, &blocks(1), (true, false));
    interrupted.idle(10);
    interrupted.stored(11, &blocks(4));
    let whole = worker.subscription(2);
    assert_eq!(whole.position, (0, 0));
    whole.snapshot_part(10, &blocks(1), (true, false));
    whole.snapshot_part(10, &blocks(3)[1..], (false, true));
    whole.idle(10);
    whole.stored(11, &blocks(4)[3..]);
    router.wait_for(INDEXED, |n| n == 4.0);
    router.wait_for(CONNECTED, |n| n == 1.0);
    assert_eq!(cached(&router), 64);
}

#[test]
fn same_epoch_goes_on_after_a_lost_connection_without_purge() {
    let (router, mut worker) = joined();
    worker.subscription(0).stored(11, &blocks(3)[2..]);
    router.wait_for(INDEXED, |n| n == 3.0);
    worker.kill();
    router.wait_for(CONNECTED, |n| n == 0.0);
    let back = worker.again(7);
    let events = back.subscription(0);
    assert_eq!(events.position, (7, 11));
    assert_eq!(router.metric(INDEXED), 3.0);
    events.idle(11);
    router.wait_for(CONNECTED, |n| n == 1.0);
    assert_eq!(cached(&router), 48);
    events.stored(12, &blocks(4)[3..]);
    router.wait_for(INDEXED, |n| n == 4.0);
    assert_eq!(router.metric(SNAPSHOTS), 1.0);
}

#[test]
fn subscription_that_gets_no_answer_is_made_again() {
    let (router, worker) = joined();
    worker.ignore_subscriptions(1);
    worker.subscription(0).stored(12, &blocks(4));
    let again = worker.subscription(1);
    assert_eq!(again.position, (7, 10));
    again.idle(10);
    again.stored(11, &blocks(3)[2..]);
    router.wait_for(INDEXED, |n| n == 3.0);
    router.wait_for(CONNECTED, |n| n == 1.0);
}

#[test]
fn draining_worker_gets_nothing_new() {
    let (first, second) = (Scripted::ranked("a", 0), Scripted::ranked("b", 1));
    let router = router_of(&[&first, &second]);
    let ask = || complete(&router, &prompt(20), 1);
    assert_eq!(ask().decode_worker(), "a");
    let drains = |worker: &Scripted| {
        worker.subscription(0).status(0, draining());
    };
    drains(&first);
    until("its drain to be known", || {
        ask().planned_cached("a").is_none()
    });
    let before = first.asked().len();
    for _ in 0..5 {
        assert_eq!(ask().decode_worker(), "b");
    }
    assert_eq!(first.asked().len(), before);
    drains(&second);
    until("nobody to be left", || ask().status == 503);
    assert_eq!(ask().code(), "no_worker");
}
