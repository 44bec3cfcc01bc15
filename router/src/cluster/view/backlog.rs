//! Prompt work that waits on one worker, between two of its reports.
//!
//! A worker reports at the end of a step, and steps with a prompt in them take
//! long. Meanwhile what it had drains, at the rate it is known for; without that
//! a worker that is nearly done would look as busy as one that has just begun.

use std::time::Duration;

/// A worker that is silent for so long may be stuck: what it has waits on.
const SILENCE: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Backlog {
    /// As of `at`.
    tokens: f64,
    at: Duration,
    /// It drains until then.
    until: Duration,
}

impl Backlog {
    /// What is left at `now` of a worker that computes so many tokens per second;
    /// 0: unknown.
    pub(super) fn left(&self, now: Duration, tokens_per_second: f32) -> f64 {
        let time = now.min(self.until).saturating_sub(self.at);
        let drained = time.as_secs_f64() * f64::from(tokens_per_second.max(0.0));
        (self.tokens - drained).max(0.0)
    }

    /// By the worker's own word, and what it does not know of yet.
    pub(super) fn report(&mut self, now: Duration, tokens: u64) {
        *self = Backlog {
            tokens: tokens as f64,
            at: now,
            until: now + SILENCE,
        };
    }

    pub(super) fn add(&mut self, now: Duration, tokens_per_second: f32, tokens: u64) {
        let left = self.left(now, tokens_per_second);
        if left == 0.0 {
            self.until = now + SILENCE;
        }
        self.tokens = left + tokens as f64;
        self.at = now;
    }

    /// Work that never reached the worker.
    pub(super) fn withdraw(&mut self, tokens: u64) {
        self.tokens = (self.tokens - tokens as f64).max(0.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: f32 = 1000.0;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn drains_between_reports_at_the_rate_that_is_known() {
        let mut backlog = Backlog::default();
        backlog.report(ms(100), 300);
        assert_eq!(backlog.left(ms(100), RATE), 300.0);
        assert_eq!(backlog.left(ms(250), RATE), 150.0);
        assert_eq!(backlog.left(ms(250), 0.0), 300.0);
        assert_eq!(backlog.left(ms(900), RATE), 0.0);
        backlog.add(ms(250), RATE, 100);
        assert_eq!(backlog.left(ms(300), RATE), 200.0);
        backlog.withdraw(100);
        assert_eq!(backlog.left(ms(300), RATE), 100.0);
        backlog.report(ms(300), 120);
        assert_eq!(backlog.left(ms(300), RATE), 120.0);
    }

    #[test]
    fn does_not_drain_where_nothing_is_heard_of() {
        let mut backlog = Backlog::default();
        backlog.report(ms(0), 5000);
        assert_eq!(backlog.left(ms(60_000), RATE), 4000.0);
        // More work is no sign of life, but for a worker that had none.
        backlog.add(ms(60_000), RATE, 100);
        assert_eq!(backlog.left(ms(61_000), RATE), 4100.0);
        backlog.report(ms(61_000), 0);
        backlog.add(ms(90_000), RATE, 100);
        assert_eq!(backlog.left(ms(90_050), RATE), 50.0);
    }
}
