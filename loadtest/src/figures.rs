//! What the records of a run amount to. Computed once; every report shows these
//! very numbers.
//!
//! All latencies count from the scheduled time. The time to first token is
//! taken of every request whose first token came, the time between tokens of
//! every token that came, whatever became of the request later; end-to-end time
//! and time per output token are taken of answered requests, those whose answer
//! came to its end in order. Rates are per second of the window from the first
//! scheduled time to the last end of the counted requests. Requests of the
//! warm-up are counted and otherwise left out, but for the series over time,
//! which shows all of the run.

mod group;
#[cfg(test)]
pub(crate) mod made_up;
mod objectives;
mod quantiles;
mod sample;
mod series;
mod tally;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::record::Record;

pub use group::Group;
pub use objectives::{Goodput, Misses, Objective, ObjectiveError, Objectives, Own};
pub use quantiles::{CDF_PERCENTS, Quantiles, Statistic, Times};
pub use sample::{Sample, is_answered, kind, outcome_of_kind, token_gaps};
pub use series::{Interval, Series};
pub use tally::Tally;

/// What was run, where and how: the heading of every report.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RunInfo {
    /// URL, or what was simulated.
    pub target: String,
    pub model: String,
    /// In words, such as `fixed 512/128 tokens`.
    pub workload: String,
    /// In words, such as `Poisson, 20 requests/s`.
    pub arrival: String,
    /// Seconds since the Unix epoch; 0 of a simulation, whose output does not
    /// depend on when and where it ran.
    pub started: u64,
    pub duration: Duration,
    pub seed: u64,
    /// Of Kvasir.
    pub version: String,
    /// Cores of the machine that generated the load.
    pub cores: u32,
    /// Why the figures must not be believed; `None`: the run is valid.
    #[serde(default)]
    pub invalid: Option<String>,
    /// What a reader should know beside, a line each.
    #[serde(default)]
    pub notes: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    pub requests: Requests,
    pub window: Window,
    #[serde(rename = "latency_ms")]
    pub latency: Latency,
    #[serde(rename = "per_second")]
    pub rates: Rates,
    pub tokens: Tokens,
    /// `None`: the server does not tell.
    pub cached: Option<Cached>,
    /// `None`: no objectives were given.
    pub goodput: Option<Goodput>,
    /// By name; empty if no request has one.
    pub tenants: Vec<Group>,
    pub priorities: Vec<Group>,
    pub prefill_workers: Vec<Group>,
    pub decode_workers: Vec<Group>,
    pub series: Series,
    pub cdfs: Cdfs,
}

/// How many requests there were, and how they ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Requests {
    /// All but those of the warm-up: answered and failed.
    pub counted: u64,
    pub warm_up: u64,
    pub answered: u64,
    pub failed: u64,
    /// Counted requests by the [`kind`] of their outcome.
    pub outcomes: BTreeMap<String, u64>,
}

/// What rates refer to, in seconds from the start of the run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Window {
    pub from_s: f64,
    pub to_s: f64,
}

/// Latencies in milliseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// Scheduled time to first token.
    pub ttft: Quantiles,
    /// Between tokens; those that come in one chunk share its gap evenly.
    pub itl: Quantiles,
    /// Between chunks, however many tokens they carry.
    pub gap: Quantiles,
    /// Time per output token after the first, one value a request.
    pub tpot: Quantiles,
    /// Scheduled time to end of answer.
    pub e2e: Quantiles,
    /// Scheduled time to first byte sent: the generator's own delay.
    pub queueing: Quantiles,
}

/// Rates per second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Rates {
    /// Requests scheduled; `None` if all were at once.
    pub offered: Option<f64>,
    /// Requests answered.
    pub requests: f64,
    /// Prompt tokens of requests whose usage is known.
    pub input_tokens: f64,
    /// Tokens that came, whatever became of their request.
    pub output_tokens: f64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tokens {
    pub input: u64,
    pub output: u64,
    /// Of the output, tokens that chunks tell of: fewer if the server sends
    /// several in a chunk without saying so.
    pub seen: u64,
    /// Chunks the output came in.
    pub chunks: u64,
    /// Counted requests whose usage the server told.
    pub with_usage: u64,
}

/// Prompt tokens that the server had in its cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cached {
    /// Requests that tell.
    pub requests: u64,
    pub tokens: u64,
    /// Of so many prompt tokens.
    pub of: u64,
    /// 0 to 1.
    pub share: f64,
}

/// Cumulative distributions: milliseconds at each of [`CDF_PERCENTS`]; empty
/// where nothing was measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cdfs {
    pub ttft: Vec<f64>,
    pub itl: Vec<f64>,
    pub tpot: Vec<f64>,
    pub e2e: Vec<f64>,
}

/// A latency by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Metric {
    Ttft,
    Itl,
    Gap,
    Tpot,
    E2e,
    Queueing,
}

impl RunInfo {
    pub fn is_simulated(&self) -> bool {
        self.started == 0
    }
}

impl Figures {
    pub fn of(records: &[Record], objectives: &Objectives) -> Figures {
        let mut tally = Tally::new(objectives.clone());
        records.iter().for_each(|it| tally.add(it));
        tally.finish()
    }

    /// Share of counted requests that failed, 0 to 1.
    pub fn failed_share(&self) -> f64 {
        share(self.requests.failed, self.requests.counted)
    }

    /// Tokens that a chunk carries on average.
    pub fn tokens_per_chunk(&self) -> f64 {
        share(self.tokens.output, self.tokens.chunks)
    }
}

impl Window {
    pub fn seconds(&self) -> f64 {
        self.to_s - self.from_s
    }
}

impl Latency {
    pub fn of(&self, metric: Metric) -> &Quantiles {
        match metric {
            Metric::Ttft => &self.ttft,
            Metric::Itl => &self.itl,
            Metric::Gap => &self.gap,
            Metric::Tpot => &self.tpot,
            Metric::E2e => &self.e2e,
            Metric::Queueing => &self.queueing,
        }
    }
}

impl Metric {
    pub const ALL: [Metric; 6] = [
        Metric::Ttft,
        Metric::Itl,
        Metric::Gap,
        Metric::Tpot,
        Metric::E2e,
        Metric::Queueing,
    ];

    /// As written in expressions and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Metric::Ttft => "ttft",
            Metric::Itl => "itl",
            Metric::Gap => "gap",
            Metric::Tpot => "tpot",
            Metric::E2e => "e2e",
            Metric::Queueing => "queueing",
        }
    }

    /// As shown to people.
    pub fn title(self) -> &'static str {
        match self {
            Metric::Ttft => "time to first token",
            Metric::Itl => "inter-token latency",
            Metric::Gap => "gap between chunks",
            Metric::Tpot => "time per output token",
            Metric::E2e => "end to end",
            Metric::Queueing => "queueing of the client",
        }
    }
}

/// 0 of nothing.
fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        0.0
    } else {
        part as f64 / whole as f64
    }
}

/// Three decimals: microseconds, where the unit is milliseconds. Short decimals
/// survive JSON unchanged.
fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}
