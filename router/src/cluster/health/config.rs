//! When workers are shunned, and for how long.

use runtime::config::{Check, HumanDuration};

#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
pub struct Config {
    /// Failures of a worker in a row, without a success between them, after
    /// which it gets no work for a while
    #[arg(long, default_value_t = 5, value_name = "N")]
    pub breaker_failures: u32,
    /// Time without work after that; then one sequence tries it. Doubles each
    /// time the try fails, up to 16 times this
    #[arg(long, default_value = "5s", value_name = "DURATION")]
    pub breaker_open: HumanDuration,
    /// How often workers are compared with each other
    #[arg(long, default_value = "10s", value_name = "DURATION")]
    pub outlier_interval: HumanDuration,
    /// Sequences that a worker must have ended since the last comparison to
    /// take part in it
    #[arg(long, default_value_t = 20, value_name = "N")]
    pub outlier_min_sequences: u32,
    /// A worker whose tokens come so many times slower than the median of all
    /// may be ejected; more than workers differ by design
    #[arg(long, default_value_t = 4.0, value_name = "FACTOR")]
    pub outlier_slowness: f64,
    /// Share of workers that may be ejected at a time
    #[arg(long, default_value_t = 0.34, value_name = "SHARE")]
    pub outlier_max_share: f64,
    /// First ejection of a worker; the n-th in a row lasts n times as long, up
    /// to 10 times this
    #[arg(long, default_value = "10s", value_name = "DURATION")]
    pub outlier_ejection: HumanDuration,
}

impl Default for Config {
    /// What the flags say when none is given.
    fn default() -> Config {
        crate::config::defaults()
    }
}

impl Check for Config {
    fn check(&self, mistakes: &mut Vec<String>) {
        if self.breaker_failures == 0 {
            mistakes.push("--breaker-failures must be at least 1".to_owned());
        }
        let times = [
            ("--breaker-open", self.breaker_open),
            ("--outlier-interval", self.outlier_interval),
            ("--outlier-ejection", self.outlier_ejection),
        ];
        for (flag, time) in times {
            if time.0.is_zero() {
                mistakes.push(format!("{flag} must be above 0"));
            }
        }
        if !(0.0..=1.0).contains(&self.outlier_max_share) {
            mistakes.push("--outlier-max-share must be from 0 to 1".to_owned());
        }
        if !(self.outlier_slowness.is_finite() && self.outlier_slowness > 1.0) {
            mistakes.push("--outlier-slowness must be above 1".to_owned());
        }
    }
}
