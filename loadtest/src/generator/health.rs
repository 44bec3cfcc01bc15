//! Whether the generator itself kept up. A run in which it did not measured the
//! generator, and is invalid.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::tally::{histogram, micros};

/// What the generator may add before a run is invalid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HealthLimits {
    pub delay_p99: Duration,
    pub stall: Duration,
}

/// The generator's own share in what was measured.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GeneratorHealth {
    /// From when a request was due to its first byte, less the time it waited
    /// for a connection: all of it the generator's.
    pub delay_p50: Duration,
    pub delay_p99: Duration,
    pub delay_max: Duration,
    /// The longest time an event loop was kept from its work.
    pub longest_stall: Duration,
    /// Why the run is invalid, in words; empty: it is valid.
    pub faults: Vec<String>,
}

/// As lanes measure them.
#[derive(Clone, Debug)]
pub(super) struct Delays {
    own: Histogram<u64>,
    longest_stall: Duration,
}

impl Default for HealthLimits {
    fn default() -> HealthLimits {
        HealthLimits {
            delay_p99: Duration::from_millis(5),
            stall: Duration::from_millis(250),
        }
    }
}

impl GeneratorHealth {
    pub fn is_valid(&self) -> bool {
        self.faults.is_empty()
    }
}

impl Delays {
    pub(super) fn delayed(&mut self, by: Duration) {
        self.own.saturating_record(micros(by));
    }

    pub(super) fn stalled(&mut self, stall: Duration) {
        self.longest_stall = self.longest_stall.max(stall);
    }

    pub(super) fn merge(&mut self, other: &Delays) {
        self.own.add(&other.own).expect("all have the same bounds");
        self.stalled(other.longest_stall);
    }

    pub(super) fn judge(&self, limits: HealthLimits) -> GeneratorHealth {
        let at = |quantile| Duration::from_micros(self.own.value_at_quantile(quantile));
        let mut health = GeneratorHealth {
            delay_p50: at(0.5),
            delay_p99: at(0.99),
            delay_max: at(1.0),
            longest_stall: self.longest_stall,
            faults: Vec::new(),
        };
        if health.delay_p99 > limits.delay_p99 {
            health.faults.push(format!(
                "the generator sent late: p99 {:.1?}, limit {:.1?}; lower the rate or use a \
                 larger machine",
                health.delay_p99, limits.delay_p99
            ));
        }
        if health.longest_stall > limits.stall {
            health.faults.push(format!(
                "the generator stood still for {:.1?}, limit {:.1?}; keep other work off its \
                 machine",
                health.longest_stall, limits.stall
            ));
        }
        health
    }
}

impl Default for Delays {
    fn default() -> Delays {
        Delays {
            own: histogram(),
            longest_stall: Duration::ZERO,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: HealthLimits = HealthLimits {
        delay_p99: Duration::from_millis(5),
        stall: Duration::from_millis(250),
    };

    fn ms(it: u64) -> Duration {
        Duration::from_millis(it)
    }

    /// 100 requests of which `late` were 50 ms late.
    fn delays(late: u64) -> Delays {
        let mut delays = Delays::default();
        (0..100).for_each(|it| delays.delayed(if it < late { ms(50) } else { ms(1) }));
        delays
    }

    #[test]
    fn a_run_is_invalid_once_p99_is_over_the_limit() {
        assert!(delays(1).judge(LIMITS).is_valid());
        let health = delays(2).judge(LIMITS);
        assert_eq!(health.faults.len(), 1, "{health:?}");
        assert!(health.faults[0].contains("sent late: p99 50"), "{health:?}");
    }

    #[test]
    fn a_run_is_invalid_after_a_stall_in_any_lane() {
        let mut all = Delays::default();
        let mut stalled = Delays::default();
        stalled.stalled(ms(250));
        all.merge(&stalled);
        assert!(all.judge(LIMITS).is_valid());
        stalled.stalled(ms(251));
        all.merge(&stalled);
        assert!(!all.judge(LIMITS).is_valid());
        assert_eq!(all.judge(LIMITS).longest_stall, ms(251));
    }
}
