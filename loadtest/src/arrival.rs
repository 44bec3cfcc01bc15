//! Arrivals: when requests are sent.
//!
//! An open loop has a [`Schedule`] that knows nothing of answers; a closed loop
//! sends the next request when one is answered, and is just a number. Recorded
//! times are those of the workload's requests.

mod rate;
mod schedule;

use std::fmt;

use clap::Args;
use runtime::config::Check;

pub use rate::{Piece, Rate, RateError};
pub use schedule::Schedule;

/// When requests are sent.
#[derive(Clone, Debug, Args)]
#[group(skip)]
#[command(next_help_heading = "Arrivals")]
pub struct ArrivalConfig {
    /// Open loop: requests per second, whether answers come or not. Also pieces,
    /// one after the other: 10@30s,50@30s are steps, 10..100@2m is a ramp; it
    /// ends after them unless the last has no time, as in 10..100@2m,100
    #[arg(long, value_name = "RATE")]
    pub rate: Option<Rate>,

    /// How requests are spaced at --rate, or that they come as recorded
    /// [default: poisson; with --trace and without --rate: recorded]
    #[arg(long, value_name = "KIND", value_enum)]
    pub arrival: Option<ArrivalKind>,

    /// Of --arrival gamma, in vLLM's sense: 1 is poisson, less comes in bursts,
    /// more is more even [default: 1]
    #[arg(long, value_name = "B")]
    pub burstiness: Option<f64>,

    /// Closed loop: so many requests at a time, the next when one is answered
    /// [default: 1, without --rate and recorded times]
    #[arg(long, value_name = "N")]
    pub concurrency: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum ArrivalKind {
    /// Equal times between requests
    Constant,
    /// Independent of each other, as the requests of many users are
    Poisson,
    /// As poisson, with --burstiness
    Gamma,
    /// When the trace says; --trace-speed makes it faster
    Recorded,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Arrival {
    /// At least 1 at a time.
    Closed {
        concurrency: u32,
    },
    Open(OpenLoop),
    /// [`crate::planned::PlannedRequest::recorded_at`].
    Recorded,
}

/// Requests that do not wait for answers.
#[derive(Clone, Debug, PartialEq)]
pub struct OpenLoop {
    pub rate: Rate,
    pub gaps: Gaps,
}

/// How the times between requests are distributed; their mean is by the rate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Gaps {
    Constant,
    Exponential,
    /// The shape of a gamma distribution, above 0: the coefficient of variation
    /// is one over its root.
    Gamma {
        burstiness: f64,
    },
}

impl fmt::Display for Arrival {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Arrival::Closed { concurrency } => write!(f, "closed loop, {concurrency} at a time"),
            Arrival::Recorded => f.write_str("open loop, as recorded"),
            Arrival::Open(OpenLoop { rate, gaps }) => {
                write!(f, "open loop, {rate} requests/s, {gaps}")
            }
        }
    }
}

impl fmt::Display for Gaps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Gaps::Constant => f.write_str("evenly"),
            Gaps::Exponential => f.write_str("Poisson"),
            Gaps::Gamma { burstiness } => write!(f, "gamma, burstiness {burstiness}"),
        }
    }
}

impl OpenLoop {
    /// When requests are to be sent, from the start of the run.
    pub fn schedule(&self, seed: u64) -> Schedule {
        Schedule::new(self, seed)
    }
}

impl ArrivalConfig {
    /// `has_recorded_times`: the workload says when.
    pub fn arrival(&self, has_recorded_times: bool) -> Arrival {
        if let Some(concurrency) = self.concurrency {
            return Arrival::Closed { concurrency };
        }
        if self.arrival == Some(ArrivalKind::Recorded) {
            return Arrival::Recorded;
        }
        match &self.rate {
            Some(rate) => Arrival::Open(OpenLoop {
                rate: rate.clone(),
                gaps: self.gaps(),
            }),
            None if has_recorded_times => Arrival::Recorded,
            None => Arrival::Closed { concurrency: 1 },
        }
    }

    pub fn gaps(&self) -> Gaps {
        match self.arrival {
            Some(ArrivalKind::Constant) => Gaps::Constant,
            Some(ArrivalKind::Gamma) => Gaps::Gamma {
                burstiness: self.burstiness.unwrap_or(1.0),
            },
            _ => Gaps::Exponential,
        }
    }

    /// What shows only together with the workload.
    pub fn check_with(&self, has_recorded_times: bool, mistakes: &mut Vec<String>) {
        if self.arrival == Some(ArrivalKind::Recorded) && !has_recorded_times {
            mistakes.push("--arrival recorded needs --trace".to_owned());
        }
    }
}

impl Check for ArrivalConfig {
    fn check(&self, mistakes: &mut Vec<String>) {
        let is_recorded = self.arrival == Some(ArrivalKind::Recorded);
        let is_gamma = self.arrival == Some(ArrivalKind::Gamma);
        let positive = |it: f64| it.is_finite() && it > 0.0;
        let rules = [
            (
                self.rate.is_some() && self.concurrency.is_some(),
                "--rate (open loop) and --concurrency (closed loop) exclude each other",
            ),
            (
                is_recorded && self.rate.is_some(),
                "--arrival recorded excludes --rate; --trace-speed makes it faster",
            ),
            (
                self.arrival.is_some() && self.concurrency.is_some(),
                "--arrival has no meaning with --concurrency, which waits for answers",
            ),
            (
                self.burstiness.is_some() && !is_gamma,
                "--burstiness needs --arrival gamma",
            ),
            (
                self.burstiness.is_some_and(|it| !positive(it)),
                "--burstiness must be above 0",
            ),
            (
                self.concurrency == Some(0),
                "--concurrency must be at least 1",
            ),
        ];
        let broken = rules.into_iter().filter(|(is_broken, _)| *is_broken);
        mistakes.extend(broken.map(|(_, mistake)| mistake.to_owned()));
    }
}

#[cfg(test)]
mod tests;
