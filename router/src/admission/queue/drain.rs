//! How fast the queue moves: turns that come free per second of queueing.
//!
//! Both are counted over the last minute or so, older ones weighing less, so
//! that a burst of releases is not taken for a rate, a stall shows as a falling
//! rate, and what was true long ago is forgotten. Time in which nobody waits
//! says nothing of capacity and does not count.

use std::time::Duration;

const HALF_LIFE: Duration = Duration::from_secs(30);
/// Fewer turns than this are no evidence.
const MIN_TURNS: f64 = 2.0;

#[derive(Debug, Default)]
pub(super) struct DrainRate {
    turns: f64,
    /// In which somebody waited.
    seconds: f64,
    at: Duration,
}

impl DrainRate {
    /// Time passed up to `now`; `busy` if somebody waited all the while.
    pub(super) fn advance(&mut self, now: Duration, busy: bool) {
        let passed = now.saturating_sub(self.at);
        if passed.is_zero() {
            return;
        }
        self.at = now;
        let passed = passed.as_secs_f64();
        let kept = (-passed / HALF_LIFE.as_secs_f64()).exp2();
        self.turns *= kept;
        self.seconds *= kept;
        if busy {
            self.seconds += passed;
        }
    }

    /// A turn came free while somebody waited.
    pub(super) fn turn(&mut self) {
        self.turns += 1.0;
    }

    /// Turns per second; `None` without evidence.
    pub(super) fn rate(&self) -> Option<f64> {
        let known = self.turns >= MIN_TURNS && self.seconds > 0.0;
        known.then(|| self.turns / self.seconds)
    }
}
