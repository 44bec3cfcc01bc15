//! How many retries the whole router may make: a share of its sequences plus a
//! floor, over a sliding window.
//!
//! After Finagle's `RetryBudget` and linkerd's: a failing worker costs a few
//! retries, a failing cluster is not asked ever more. Pure: time is an argument.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Sequences and retries are forgotten after this time.
const WINDOW: Duration = Duration::from_secs(10);
/// The window moves on in such steps.
const STEP: Duration = Duration::from_secs(1);

/// What a budget allows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Allowance {
    /// Retries per sequence.
    pub share: f64,
    /// Retries per second, whatever the traffic.
    pub floor: f64,
}

#[derive(Debug)]
pub struct RetryBudget {
    allowance: Allowance,
    /// Of one step each, oldest first.
    steps: VecDeque<Count>,
}

#[derive(Debug)]
struct Count {
    since: Instant,
    sequences: u32,
    retries: u32,
}

impl RetryBudget {
    pub fn new(allowance: Allowance) -> RetryBudget {
        RetryBudget {
            allowance,
            steps: VecDeque::new(),
        }
    }

    /// A new sequence came.
    pub fn deposit(&mut self, now: Instant) {
        let step = self.step(now);
        step.sequences = step.sequences.saturating_add(1);
    }

    /// Takes one retry, or tells how long to wait before asking again.
    pub fn withdraw(&mut self, now: Instant) -> Result<(), Duration> {
        self.step(now);
        let sum = |of: fn(&Count) -> u32| -> f64 {
            self.steps.iter().map(|step| f64::from(of(step))).sum()
        };
        let earned = self.allowance.share * sum(|step| step.sequences);
        let floor = self.allowance.floor * WINDOW.as_secs_f64();
        if sum(|step| step.retries) + 1.0 > earned + floor {
            let oldest = self.steps.iter().find(|step| step.retries > 0);
            let frees = oldest.map_or(now + STEP, |step| step.since + WINDOW);
            return Err(frees.saturating_duration_since(now).min(STEP));
        }
        let step = self.step(now);
        step.retries = step.retries.saturating_add(1);
        Ok(())
    }

    /// The step that `now` is in, with those before the window forgotten.
    fn step(&mut self, now: Instant) -> &mut Count {
        while self
            .steps
            .front()
            .is_some_and(|step| now.saturating_duration_since(step.since) >= WINDOW)
        {
            self.steps.pop_front();
        }
        let current = self.steps.back().map(|step| step.since);
        if current.is_none_or(|since| now.saturating_duration_since(since) >= STEP) {
            self.steps.push_back(Count {
                since: now,
                sequences: 0,
                retries: 0,
            });
        }
        let last = self.steps.len() - 1;
        &mut self.steps[last]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn budget(share: f64, floor: f64) -> (RetryBudget, Instant) {
        (RetryBudget::new(Allowance { share, floor }), Instant::now())
    }

    fn most(budget: &mut RetryBudget, now: Instant) -> usize {
        std::iter::from_fn(|| budget.withdraw(now).ok())
            .take(10_000)
            .count()
    }

    #[test]
    fn floor_is_there_without_traffic() {
        let (mut budget, now) = budget(0.2, 3.0);
        assert_eq!(most(&mut budget, now), 30);
        assert_eq!(most(&mut budget, now + 9 * SECOND), 0);
        assert_eq!(most(&mut budget, now + 10 * SECOND), 30);
    }

    #[test]
    fn traffic_earns_its_share() {
        let (mut budget, now) = budget(0.2, 0.0);
        for _ in 0..100 {
            budget.deposit(now);
        }
        assert_eq!(most(&mut budget, now + SECOND), 20);
        assert_eq!(most(&mut budget, now + 10 * SECOND), 0, "forgotten");
    }

    #[test]
    fn who_is_refused_is_told_when_to_ask_again() {
        let (mut budget, now) = budget(0.0, 0.1);
        assert_eq!(budget.withdraw(now), Ok(()));
        let asked = now + Duration::from_millis(9_400);
        assert_eq!(budget.withdraw(now + SECOND), Err(SECOND));
        assert_eq!(budget.withdraw(asked), Err(Duration::from_millis(600)));
        assert_eq!(budget.withdraw(now + 10 * SECOND), Ok(()));
    }

    proptest! {
        #[test]
        fn in_no_window_more_than_is_allowed(
            events in proptest::collection::vec((any::<bool>(), 0..700u64), 1..300),
        ) {
            let (mut budget, start) = budget(0.5, 0.3);
            let (mut now, mut sequences, mut retries) = (start, Vec::new(), Vec::new());
            for (is_new, milliseconds) in events {
                now += Duration::from_millis(milliseconds);
                if is_new {
                    budget.deposit(now);
                    sequences.push(now);
                } else if budget.withdraw(now).is_ok() {
                    retries.push(now);
                    let within = |times: &[Instant], window: Duration| {
                        times.iter().filter(|at| now - **at < window).count() as f64
                    };
                    // A step's retries may be forgotten a step before its sequences.
                    let allowed = 0.5 * within(&sequences, WINDOW) + 3.0;
                    prop_assert!(within(&retries, WINDOW - STEP) <= allowed);
                }
            }
        }
    }
}
