//! How closely workers are watched.

use std::time::Duration;

use runtime::config::{Check, HumanDuration};

use crate::cluster::health;

/// So many missing heartbeats in a row are silence.
const MISSED_HEARTBEATS: u32 = 3;

#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
pub struct Config {
    /// First wait before a lost worker is tried again; doubles up to
    /// --reconnect-max
    #[arg(long, default_value = "50ms", value_name = "DURATION")]
    pub reconnect_min: HumanDuration,
    /// Longest wait before a lost worker is tried again
    #[arg(long, default_value = "2s", value_name = "DURATION")]
    pub reconnect_max: HumanDuration,
    /// How often an idle worker says that it is there. One that is silent for 3
    /// of these gets no new work and is asked
    #[arg(long, default_value = "500ms", value_name = "DURATION")]
    pub health_interval: HumanDuration,
    /// A worker that does not answer when asked is lost after this time; its
    /// sequences go on elsewhere
    #[arg(long, default_value = "2s", value_name = "DURATION")]
    pub health_timeout: HumanDuration,
    /// A worker whose engine takes longer than this for one step, or for a
    /// sequence's next token, is stuck, unless --stuck-factor allows for more;
    /// its sequences go on elsewhere
    #[arg(long, default_value = "30s", value_name = "DURATION")]
    pub stuck_after: HumanDuration,
    /// A step may take so many times the longest of the worker's recent ones
    #[arg(long, default_value_t = 10, value_name = "N")]
    pub stuck_factor: u32,
    #[command(flatten)]
    pub health: health::Config,
}

impl Config {
    /// Silence after which a worker is asked.
    pub(super) fn silence(&self) -> Duration {
        self.health_interval.0 * MISSED_HEARTBEATS
    }

    /// How long a step may take on a worker with such a longest step.
    pub(super) fn patience(&self, longest_step: Duration) -> Duration {
        self.stuck_after.0.max(longest_step * self.stuck_factor)
    }
}

impl Check for Config {
    fn check(&self, mistakes: &mut Vec<String>) {
        if self.reconnect_min.0 > self.reconnect_max.0 {
            mistakes.push("--reconnect-min must not exceed --reconnect-max".to_owned());
        }
        let times = [
            ("--health-interval", self.health_interval),
            ("--health-timeout", self.health_timeout),
            ("--stuck-after", self.stuck_after),
        ];
        for (flag, time) in times {
            if time.0 < Duration::from_millis(1) {
                mistakes.push(format!("{flag} must be at least 1ms"));
            }
        }
        self.health.check(mistakes);
    }
}
