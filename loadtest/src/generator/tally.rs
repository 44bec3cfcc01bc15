//! What a lane counts while it runs, for the progress display.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::record::{Outcome, Record};

/// Longer ones are shown as this: an hour, in microseconds.
const LONGEST: u64 = 3_600_000_000;

#[derive(Debug)]
pub(super) struct Tally {
    launched: AtomicU64,
    ended: AtomicU64,
    failed: AtomicU64,
    tokens: AtomicU64,
    /// Microseconds to the first token, from the scheduled time.
    first_token: Mutex<Histogram<u64>>,
}

/// Of all lanes.
#[derive(Clone, Debug)]
pub(super) struct Totals {
    pub(super) launched: u64,
    pub(super) ended: u64,
    pub(super) failed: u64,
    pub(super) tokens: u64,
    pub(super) first_token: Histogram<u64>,
}

impl Tally {
    pub(super) fn launched(&self) {
        self.launched.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn ended(&self, record: &Record) {
        self.ended.fetch_add(1, Ordering::Relaxed);
        if record.outcome != Outcome::Complete {
            self.failed.fetch_add(1, Ordering::Relaxed);
        }
        let tokens = record.chunks.iter().map(|it| u64::from(it.tokens)).sum();
        self.tokens.fetch_add(tokens, Ordering::Relaxed);
        if let Some(first) = record.chunks.first() {
            let latency = first.at.saturating_sub(record.scheduled);
            let mut first_token = lock(&self.first_token);
            first_token.saturating_record(micros(latency));
        }
    }
}

impl Totals {
    pub(super) fn of<'a>(tallies: impl IntoIterator<Item = &'a Tally>) -> Totals {
        let mut totals = Totals {
            launched: 0,
            ended: 0,
            failed: 0,
            tokens: 0,
            first_token: histogram(),
        };
        for tally in tallies {
            totals.launched += tally.launched.load(Ordering::Relaxed);
            totals.ended += tally.ended.load(Ordering::Relaxed);
            totals.failed += tally.failed.load(Ordering::Relaxed);
            totals.tokens += tally.tokens.load(Ordering::Relaxed);
            let added = totals.first_token.add(&*lock(&tally.first_token));
            added.expect("all have the same bounds");
        }
        totals
    }
}

impl Default for Tally {
    fn default() -> Tally {
        Tally {
            launched: AtomicU64::new(0),
            ended: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            tokens: AtomicU64::new(0),
            first_token: Mutex::new(histogram()),
        }
    }
}

/// Of microseconds, to an hour, in steps of one in a thousand.
pub(super) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LONGEST, 3).expect("the bounds are in order")
}

pub(super) fn micros(it: Duration) -> u64 {
    u64::try_from(it.as_micros()).unwrap_or(u64::MAX)
}

/// Counting can't be left half done, so a lock is good after a panic too.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}
