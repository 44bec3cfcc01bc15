//! Waits between failures: they double, and differ from process to process, so
//! that a fleet does not come back to etcd at one instant.

use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(super) struct Backoff {
    next: Duration,
    /// Short again after a calm until this time.
    calm_at: Option<Instant>,
}

impl Backoff {
    pub(super) fn new() -> Backoff {
        Backoff {
            next: FIRST,
            calm_at: None,
        }
    }

    /// How long to wait after a failure at `now`; `random` is 0 to 1.
    pub(super) fn next(&mut self, now: Instant, random: f64) -> Duration {
        if self.calm_at.is_some_and(|calm_at| now >= calm_at) {
            self.next = FIRST;
        }
        let wait = self.next.mul_f64(0.5 + random / 2.0);
        self.next = (self.next * 2).min(LONGEST);
        self.calm_at = Some(now + wait + LONGEST);
        wait
    }
}

/// From 0 to 1, of no quality.
pub(super) fn random() -> f64 {
    // The standard library seeds its hash maps from the system's randomness.
    RandomState::new().hash_one(0u8) as f64 / u64::MAX as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_until_there_is_calm() {
        let (mut backoff, mut now) = (Backoff::new(), Instant::now());
        let mut waits = Vec::new();
        for calm in [0, 0, 0, 0, 0, 0, 0, 4_999, 5_000] {
            now += Duration::from_millis(calm);
            let wait = backoff.next(now, 1.0);
            now += wait;
            waits.push(wait.as_millis());
        }
        assert_eq!(waits, [100, 200, 400, 800, 1600, 3200, 5000, 5000, 100]);
    }

    #[test]
    fn waits_differ_between_processes() {
        let wait = |random| Backoff::new().next(Instant::now(), random);
        assert_eq!(wait(0.0), Duration::from_millis(50));
        assert_eq!(wait(0.5), Duration::from_millis(75));
        let numbers: Vec<f64> = (0..100).map(|_| random()).collect();
        assert!(numbers.iter().all(|it| (0.0..=1.0).contains(it)));
        assert!(numbers.iter().any(|it| *it != numbers[0]));
    }
}
