//! Where requests come from, and when.

use std::time::Duration;

use super::Scenario;
use crate::arrival::{Arrival, Schedule};
use crate::planned::{PlannedRequest, Turn, Workload};

pub(super) struct Source {
    workload: Box<dyn Workload>,
    pace: Pace,
    /// Requests that may still be planned.
    budget: u64,
    /// Nothing is scheduled at or after it.
    duration: Option<Duration>,
    before: Duration,
    /// Recorded times are so much farther apart.
    stretch: f64,
    /// Of the last request that had a recorded time, and how many did.
    recorded: (Duration, u64),
}

enum Pace {
    Closed { concurrency: u32 },
    Open(Box<Schedule>),
    Recorded,
}

/// How much is sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Length {
    pub requests: Option<u64>,
    pub duration: Option<Duration>,
}

impl Source {
    pub(super) fn new(workload: Box<dyn Workload>, scenario: &Scenario) -> Source {
        Source {
            workload,
            pace: match &scenario.arrival {
                Arrival::Closed { concurrency } => Pace::Closed {
                    concurrency: *concurrency,
                },
                Arrival::Open(open) => Pace::Open(Box::new(open.schedule(scenario.seed))),
                Arrival::Recorded => Pace::Recorded,
            },
            budget: scenario.length.requests.unwrap_or(u64::MAX),
            duration: scenario.length.duration,
            before: Duration::ZERO,
            stretch: scenario.stretch,
            recorded: (Duration::ZERO, 0),
        }
    }

    /// Requests that are sent at the start: all users of a closed loop, else the
    /// first.
    pub(super) fn first(&mut self) -> Vec<(Duration, PlannedRequest)> {
        let count = match self.pace {
            Pace::Closed { concurrency } => concurrency,
            Pace::Open(_) | Pace::Recorded => 1,
        };
        let all = (0..count).map_while(|_| self.next(Duration::ZERO));
        all.collect()
    }

    pub(super) fn is_closed(&self) -> bool {
        matches!(self.pace, Pace::Closed { .. })
    }

    /// The next that depends on no answer; of a closed loop, whose user is free
    /// at `now`.
    pub(super) fn next(&mut self, now: Duration) -> Option<(Duration, PlannedRequest)> {
        if self.budget == 0 {
            return None;
        }
        let offset = match &mut self.pace {
            Pace::Open(schedule) => Some(schedule.next()?),
            Pace::Closed { .. } => Some(now),
            Pace::Recorded => None,
        };
        let request = self.workload.next()?;
        if let Some(recorded) = request.recorded_at {
            self.recorded = (recorded, self.recorded.1 + 1);
        }
        let recorded = request.recorded_at.map(|it| it.mul_f64(self.stretch));
        let at = offset.or(recorded).unwrap_or(self.before);
        self.before = at;
        self.count(at, request)
    }

    /// The turn after one that was answered at `now`.
    pub(super) fn next_turn(
        &mut self,
        after: Turn,
        answer: &str,
        now: Duration,
    ) -> Option<(Duration, PlannedRequest)> {
        if self.budget == 0 {
            return None;
        }
        let request = self.workload.next_turn(after, answer)?;
        let think = request.turn.map_or(Duration::ZERO, |it| it.think);
        self.count(now + think, request)
    }

    pub(super) fn abandon(&mut self, conversation: u64) {
        self.workload.abandon(conversation);
    }

    /// Requests per second by their recorded times, so far.
    pub(super) fn recorded_rate(&self) -> Option<f64> {
        let (last, count) = self.recorded;
        (!last.is_zero()).then(|| count as f64 / last.as_secs_f64())
    }

    pub(super) fn caveats(&self) -> Vec<String> {
        self.workload.caveats()
    }

    fn count(
        &mut self,
        at: Duration,
        request: PlannedRequest,
    ) -> Option<(Duration, PlannedRequest)> {
        if self.duration.is_some_and(|end| at >= end) {
            return None;
        }
        self.budget -= 1;
        Some((at, request))
    }
}
