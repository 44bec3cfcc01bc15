//! A circuit breaker: opens on failures in a row, and closes by a probe.
//!
//! Only failures of the worker itself come here. An open breaker half-opens
//! with time; then one sequence at a time is let through, as a lease: a probe
//! that never reports lets the next one in when its time is over.

use std::time::Instant;

use super::Config;

/// An open time doubles no further than to this many times the first.
const MAX_GROWTH: u32 = 16;

#[derive(Debug, Default)]
pub struct Breaker {
    state: State,
    /// Failures since the last success.
    failures: u32,
    /// Times it has opened since the last success.
    opened: u32,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Closed,
    Open {
        until: Instant,
    },
    /// The next sequence is a probe.
    HalfOpen,
    /// A probe runs, and has until then to report.
    Probing {
        until: Instant,
    },
}

impl Breaker {
    /// Whether a sequence may be sent.
    pub fn admits(&self, now: Instant) -> bool {
        match self.state {
            State::Closed | State::HalfOpen => true,
            State::Open { until } | State::Probing { until } => now >= until,
        }
    }

    /// Not marked, and no probe is owed.
    pub fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed)
    }

    /// A sequence is sent, allowed or for want of others.
    pub fn booked(&mut self, now: Instant, config: &Config) {
        if !self.is_closed() && self.admits(now) {
            let until = now + config.breaker_open.0;
            self.state = State::Probing { until };
        }
    }

    /// The probe got something: others may follow. The next failure opens it
    /// again at once.
    pub fn progressed(&mut self) {
        if matches!(self.state, State::Probing { .. }) {
            self.state = State::Closed;
        }
    }

    pub fn succeeded(&mut self) {
        if !matches!(self.state, State::Open { .. }) {
            *self = Breaker::default();
        }
    }

    /// The probe ended without a verdict: the next one may go.
    pub fn gave_up_probe(&mut self) {
        if matches!(self.state, State::Probing { .. }) {
            self.state = State::HalfOpen;
        }
    }

    /// Whether this failure opened it. Sequences that were sent before it
    /// opened and fail after count no more.
    pub fn failed(&mut self, now: Instant, config: &Config) -> bool {
        if matches!(self.state, State::Open { until } if now < until) {
            return false;
        }
        self.failures = self.failures.saturating_add(1);
        if self.failures < config.breaker_failures {
            return false;
        }
        let growth = 1u32.checked_shl(self.opened).unwrap_or(MAX_GROWTH);
        let time = config.breaker_open.0 * growth.min(MAX_GROWTH);
        self.opened = self.opened.saturating_add(1).min(MAX_GROWTH);
        self.state = State::Open { until: now + time };
        true
    }
}
