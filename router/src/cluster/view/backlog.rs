//! Prompt work that waits on one worker, between two of its reports.
//!
//! A worker reports at the end of a step, and steps with a prompt in them take
//! long. Meanwhile what it had drains, at the rate it is known for; without that
//! a worker that is nearly done would look as busy as one that has just begun.

/// A worker that is silent for so long may be stuck: what it has waits on.
const SILENCE: f64 = 1.0;

/// Times are in seconds.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Backlog {
    /// As of `at`.
    tokens: f64,
    at: f64,
    /// It drains until then.
    until: f64,
}

impl Backlog {
    /// What is left at `now` of a worker that computes so many tokens per second;
    /// 0: unknown.
    pub(super) fn left(&self, now: f64, tokens_per_second: f64) -> f64 {
        let time = (now.min(self.until) - self.at).max(0.0);
        (self.tokens - time * tokens_per_second).max(0.0)
    }

    /// By the worker's own word, and what it does not know of yet.
    pub(super) fn report(&mut self, now: f64, tokens: u64) {
        *self = Backlog {
            tokens: tokens as f64,
            at: now,
            until: now + SILENCE,
        };
    }

    pub(super) fn add(&mut self, now: f64, tokens_per_second: f64, tokens: u64) {
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

    const RATE: f64 = 1000.0;

    #[test]
    fn drains_between_reports_at_the_rate_that_is_known() {
        let mut backlog = Backlog::default();
        backlog.report(0.125, 300);
        assert_eq!(backlog.left(0.125, RATE), 300.0);
        assert_eq!(backlog.left(0.25, RATE), 175.0);
        assert_eq!(backlog.left(0.25, 0.0), 300.0);
        assert_eq!(backlog.left(0.875, RATE), 0.0);
        backlog.add(0.25, RATE, 100);
        assert_eq!(backlog.left(0.375, RATE), 150.0);
        backlog.withdraw(100);
        assert_eq!(backlog.left(0.375, RATE), 50.0);
        backlog.report(0.375, 120);
        assert_eq!(backlog.left(0.375, RATE), 120.0);
    }

    #[test]
    fn does_not_drain_where_nothing_is_heard_of() {
        let mut backlog = Backlog::default();
        backlog.report(0.0, 5000);
        assert_eq!(backlog.left(60.0, RATE), 4000.0);
        // More work is no sign of life, but for a worker that had none.
        backlog.add(60.0, RATE, 100);
        assert_eq!(backlog.left(61.0, RATE), 4100.0);
        backlog.report(61.0, 0);
        backlog.add(90.0, RATE, 200);
        assert_eq!(backlog.left(90.125, RATE), 75.0);
    }
}
