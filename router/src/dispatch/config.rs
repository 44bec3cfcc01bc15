//! How often sequences are tried, and how long they wait to be.

use runtime::config::{Check, HumanDuration};

use super::retry_budget::Allowance;

#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
pub struct Config {
    /// Retries that sequences may cause in all, as a share of them, beside
    /// --retry-floor
    #[arg(long, default_value_t = 0.2, value_name = "SHARE")]
    pub retry_share: f64,
    /// Retries per second that are allowed whatever the traffic
    #[arg(long, default_value_t = 50.0, value_name = "RATE")]
    pub retry_floor: f64,
    /// Longest wait of a failed sequence for a retry to be allowed
    #[arg(long, default_value = "10s", value_name = "DURATION")]
    pub retry_wait: HumanDuration,
    /// Longest wait of a sequence for a worker when none is there: to connect,
    /// to start again, or to answer
    #[arg(long, default_value = "3s", value_name = "DURATION")]
    pub worker_wait: HumanDuration,
    /// A sequence without its first token after this time is started on other
    /// workers too, and the first to have it goes on [default: never]
    #[arg(long, value_name = "DURATION")]
    pub hedge_prefill_after: Option<HumanDuration>,
}

impl Config {
    pub(super) fn allowance(&self) -> Allowance {
        Allowance {
            share: self.retry_share,
            floor: self.retry_floor,
        }
    }
}

impl Default for Config {
    /// What the flags say when none is given.
    fn default() -> Config {
        crate::config::defaults()
    }
}

impl Check for Config {
    fn check(&self, mistakes: &mut Vec<String>) {
        for (flag, number) in [
            ("--retry-share", self.retry_share),
            ("--retry-floor", self.retry_floor),
        ] {
            if !(number.is_finite() && number >= 0.0) {
                mistakes.push(format!("{flag} must be 0 or more"));
            }
        }
        if self
            .hedge_prefill_after
            .is_some_and(|time| time.0.is_zero())
        {
            mistakes
                .push("--hedge-prefill-after must be above 0; leave it out for none".to_owned());
        }
    }
}
