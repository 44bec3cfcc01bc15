use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::config::defaults;

const SECOND: Duration = Duration::from_secs(1);

/// Workers in slots 0, 1, ..., and a time to begin with.
fn health(workers: u32) -> (Health, Instant) {
    let mut health = Health::new(defaults());
    for slot in 0..workers {
        health.joined(WorkerSlot(slot), 1);
    }
    (health, Instant::now())
}

fn served() -> Outcome {
    Outcome::Served(Sample::default())
}

fn gap(milliseconds: u64) -> Outcome {
    Outcome::Served(Sample {
        token_gap: Some(Duration::from_millis(milliseconds)),
    })
}

impl Health {
    fn end(&mut self, slot: u32, outcome: Outcome, now: Instant) -> Vec<(WorkerSlot, Mark)> {
        self.ended((WorkerSlot(slot), 1), outcome, now)
    }

    fn shuns(&self, now: Instant) -> Vec<u32> {
        let mut slots: Vec<u32> = self.shunned(now).iter().map(|(slot, _)| slot.0).collect();
        slots.sort_unstable();
        let all = self.workers.iter();
        let mut marked: Vec<u32> = all
            .filter(|(_, worker)| worker.is_shunned(now))
            .map(|(slot, _)| slot.0)
            .collect();
        marked.sort_unstable();
        assert_eq!(slots, marked, "nobody is overlooked");
        slots
    }

    fn fail(&mut self, slot: u32, times: usize, now: Instant) {
        for _ in 0..times {
            self.end(slot, Outcome::Failed, now);
        }
    }
}

#[test]
fn breaker_opens_on_failures_in_a_row_only() {
    let (mut health, now) = health(2);
    health.fail(0, 4, now);
    health.end(0, served(), now);
    health.fail(0, 4, now);
    assert_eq!(health.shuns(now), [0; 0]);
    let marks = health.end(0, Outcome::Failed, now);
    assert_eq!(marks, [(WorkerSlot(0), Mark::BreakerOpened)]);
    assert_eq!(health.shuns(now), [0]);
}

#[test]
fn refusals_cancels_and_client_errors_never_open_it() {
    let (mut health, now) = health(1);
    for _ in 0..1000 {
        health.end(0, Outcome::Neutral, now);
    }
    assert_eq!(health.shuns(now), [0; 0]);
    // Nor do they hide failures.
    health.fail(0, 4, now);
    health.end(0, Outcome::Neutral, now);
    health.fail(0, 1, now);
    assert_eq!(health.shuns(now), [0]);
}

#[test]
fn one_probe_at_a_time_closes_a_half_open_breaker() {
    let (mut health, now) = health(1);
    health.fail(0, 5, now);
    assert_eq!(health.shuns(now + 4 * SECOND), [0]);
    let later = now + 5 * SECOND;
    assert_eq!(health.shuns(later), [0; 0]);
    health.booked(WorkerSlot(0), later);
    assert_eq!(health.shuns(later), [0], "the probe is on its way");
    health.progressed(WorkerSlot(0), 1);
    assert_eq!(health.shuns(later), [0; 0]);
    // On probation until a sequence ends well.
    health.fail(0, 1, later);
    assert_eq!(health.shuns(later), [0]);
}

#[test]
fn open_time_doubles_with_each_failed_probe_and_has_an_end() {
    let (mut health, mut now) = health(1);
    health.fail(0, 5, now);
    for seconds in [5, 10, 20, 40, 80, 80, 80] {
        assert_eq!(health.shuns(now + (seconds - 1) * SECOND), [0], "{seconds}");
        now += seconds * SECOND;
        assert_eq!(health.shuns(now), [0; 0], "{seconds}");
        health.booked(WorkerSlot(0), now);
        health.fail(0, 1, now);
    }
    now += 80 * SECOND;
    health.booked(WorkerSlot(0), now);
    health.end(0, served(), now);
    health.fail(0, 4, now);
    assert_eq!(health.shuns(now), [0; 0], "a success forgets all");
}

#[test]
fn probe_that_never_reports_lets_the_next_one_in() {
    let (mut health, now) = health(1);
    health.fail(0, 5, now);
    let probed = now + 5 * SECOND;
    health.booked(WorkerSlot(0), probed);
    assert_eq!(health.shuns(probed + 4 * SECOND), [0]);
    assert_eq!(health.shuns(probed + 5 * SECOND), [0; 0]);
    // A client that leaves gives it back at once.
    health.booked(WorkerSlot(0), probed + 5 * SECOND);
    health.end(0, Outcome::Neutral, probed + 6 * SECOND);
    assert_eq!(health.shuns(probed + 6 * SECOND), [0; 0]);
}

#[test]
fn many_sequences_that_fail_together_count_as_one_opening() {
    let (mut health, now) = health(1);
    health.fail(0, 500, now);
    assert_eq!(health.shuns(now + 5 * SECOND), [0; 0]);
}

#[test]
fn new_start_of_a_worker_begins_without_marks() {
    let (mut health, now) = health(1);
    health.fail(0, 5, now);
    health.set_ready(WorkerSlot(0), false);
    health.joined(WorkerSlot(0), 1);
    assert_eq!(health.shuns(now), [0], "the same start keeps them");
    health.joined(WorkerSlot(0), 2);
    assert_eq!(health.shuns(now), [0; 0]);
    // What the former start still failed at is not this one's fault.
    health.fail(0, 5, now);
    assert_eq!(health.shuns(now), [0; 0]);
}

#[test]
fn worker_that_is_not_ready_is_shunned_until_it_is() {
    let (mut health, now) = health(2);
    health.set_ready(WorkerSlot(1), false);
    assert_eq!(health.shuns(now), [1]);
    health.set_ready(WorkerSlot(1), true);
    assert_eq!(health.shuns(now), [0; 0]);
}

/// One interval: `failures` of 40 sequences fail on each worker, alternating
/// with successes so that no breaker opens; then the sweep.
fn interval(health: &mut Health, failures: &[u32], now: Instant) -> Vec<(WorkerSlot, Mark)> {
    health.end(0, Outcome::Neutral, now);
    for (slot, failures) in (0..).zip(failures) {
        for n in 0..40 {
            let failed = n * failures / 40 != (n + 1) * failures / 40;
            health.end(slot, if failed { Outcome::Failed } else { served() }, now);
        }
    }
    health.end(0, Outcome::Neutral, now + 10 * SECOND)
}

#[test]
fn worker_that_fails_more_than_the_others_is_ejected_for_a_time() {
    let (mut health, now) = health(6);
    let marks = interval(&mut health, &[0, 0, 30, 0, 1, 0], now);
    let failures = Mark::Ejected(Reason::Failures);
    assert_eq!(marks, [(WorkerSlot(2), failures)]);
    let ejected = now + 10 * SECOND;
    assert_eq!(health.shuns(ejected + 9 * SECOND), [2]);
    assert_eq!(health.shuns(ejected + 10 * SECOND), [0; 0]);
}

#[test]
fn ejections_grow_with_each_and_shrink_with_good_intervals() {
    let (mut health, mut now) = health(6);
    for lasts in [10, 20, 30] {
        interval(&mut health, &[0, 0, 30, 0, 0, 0], now);
        now += 10 * SECOND;
        assert_eq!(health.shuns(now + (lasts - 1) * SECOND), [2], "{lasts}");
        now += lasts * SECOND;
        assert_eq!(health.shuns(now), [0; 0], "{lasts}");
    }
    for _ in 0..2 {
        interval(&mut health, &[0; 6], now);
        now += 10 * SECOND;
    }
    interval(&mut health, &[0, 0, 30, 0, 0, 0], now);
    now += 10 * SECOND;
    assert_eq!(health.shuns(now + 19 * SECOND), [2]);
    assert_eq!(health.shuns(now + 20 * SECOND), [0; 0]);
}

#[test]
fn never_more_than_the_share_is_out() {
    let (mut health, now) = health(6);
    let marks = interval(&mut health, &[30, 30, 30, 30, 30, 31], now);
    let out: Vec<u32> = marks.iter().map(|(slot, _)| slot.0).collect();
    assert_eq!(out, [0, 5], "the worst, then the first of equals");
}

#[test]
fn few_failures_or_few_sequences_eject_nobody() {
    let (mut few_failures, now) = health(8);
    assert_eq!(
        interval(&mut few_failures, &[0, 0, 1, 0, 0, 0, 0, 0], now),
        []
    );
    let (mut few_sequences, now) = health(8);
    few_sequences.end(0, Outcome::Neutral, now);
    few_sequences.fail(3, 4, now);
    assert_eq!(
        few_sequences.end(0, Outcome::Neutral, now + 10 * SECOND),
        []
    );
}

#[test]
fn worker_much_slower_than_the_median_is_ejected_but_slower_hardware_is_not() {
    let (mut health, now) = health(4);
    health.end(0, Outcome::Neutral, now);
    for (slot, milliseconds) in [(0, 10), (1, 20), (2, 12), (3, 90)] {
        for _ in 0..30 {
            health.end(slot, gap(milliseconds), now);
        }
    }
    let marks = health.end(0, Outcome::Neutral, now + 10 * SECOND);
    assert_eq!(marks, [(WorkerSlot(3), Mark::Ejected(Reason::Slowness))]);
}

proptest! {
    #[test]
    fn whatever_happens_every_mark_ends(
        events in proptest::collection::vec((0..5u32, 0..4u8, 0..3000u64), 1..400),
    ) {
        let (mut health, mut now) = health(5);
        for (slot, what, milliseconds) in events {
            now += Duration::from_millis(milliseconds);
            match what {
                0 => { health.end(slot, Outcome::Failed, now); }
                1 => { health.end(slot, served(), now); }
                2 => { health.end(slot, Outcome::Neutral, now); }
                _ => health.booked(WorkerSlot(slot), now),
            }
            let ejected = health.workers.values().filter(|it| it.record.is_ejected(now));
            prop_assert!(ejected.count() <= 1);
        }
        prop_assert_eq!(health.shuns(now + 101 * SECOND), [0u32; 0]);
    }
}
