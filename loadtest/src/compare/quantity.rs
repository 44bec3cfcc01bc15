//! What two runs are compared by.

use std::fmt;

use crate::figures::{Figures, Metric, Statistic};
use crate::report::{decimal, percent};

/// A number of a run. Written `p99(ttft)`, `rate(output_tokens)`, `errors`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Quantity {
    Latency(Metric, Statistic),
    Rate(Rate),
    /// Share of prompt tokens that were cached.
    Cached,
    /// Share of requests that failed.
    Errors,
}

/// A rate per second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rate {
    Requests,
    InputTokens,
    OutputTokens,
    Goodput,
}

impl Quantity {
    /// Those that a comparison lists, in order.
    pub fn shown() -> impl Iterator<Item = Quantity> {
        let metrics = [Metric::Ttft, Metric::Itl, Metric::Tpot, Metric::E2e];
        let statistics = [
            Statistic::Mean,
            Statistic::P50,
            Statistic::P90,
            Statistic::P99,
        ];
        let latencies = metrics
            .into_iter()
            .flat_map(move |metric| statistics.map(|it| Quantity::Latency(metric, it)));
        let rates = Rate::ALL.map(Quantity::Rate);
        latencies
            .chain(rates)
            .chain([Quantity::Cached, Quantity::Errors])
    }

    /// `None`: not measured.
    pub fn of(self, figures: &Figures) -> Option<f64> {
        let some_requests = figures.requests.counted > 0;
        match self {
            Quantity::Latency(metric, statistic) => {
                let quantiles = figures.latency.of(metric);
                (quantiles.count > 0).then(|| quantiles.get(statistic))
            }
            Quantity::Rate(Rate::Requests) => some_requests.then_some(figures.rates.requests),
            Quantity::Rate(Rate::OutputTokens) => {
                some_requests.then_some(figures.rates.output_tokens)
            }
            Quantity::Rate(Rate::InputTokens) => {
                (figures.tokens.with_usage > 0).then_some(figures.rates.input_tokens)
            }
            Quantity::Rate(Rate::Goodput) => {
                let goodput = figures.goodput.as_ref().filter(|it| it.of > 0);
                goodput.map(|it| it.per_second)
            }
            Quantity::Cached => figures.cached.map(|it| it.share),
            Quantity::Errors => some_requests.then(|| figures.failed_share()),
        }
    }

    /// For a table's first column, with the unit.
    pub fn title(self) -> String {
        match self {
            Quantity::Latency(metric, statistic) => {
                format!("{} {} (ms)", metric.title(), statistic.name())
            }
            Quantity::Rate(Rate::Requests) => "requests/s".to_owned(),
            Quantity::Rate(Rate::InputTokens) => "input tokens/s".to_owned(),
            Quantity::Rate(Rate::OutputTokens) => "output tokens/s".to_owned(),
            Quantity::Rate(Rate::Goodput) => "good requests/s".to_owned(),
            Quantity::Cached => "cached".to_owned(),
            Quantity::Errors => "failed".to_owned(),
        }
    }

    pub fn shown_as(self, value: f64) -> String {
        match self {
            Quantity::Cached | Quantity::Errors => percent(value),
            _ => decimal(value, 2),
        }
    }
}

impl Rate {
    pub const ALL: [Rate; 4] = [
        Rate::Requests,
        Rate::InputTokens,
        Rate::OutputTokens,
        Rate::Goodput,
    ];

    /// As written in expressions.
    pub fn name(self) -> &'static str {
        match self {
            Rate::Requests => "requests",
            Rate::InputTokens => "input_tokens",
            Rate::OutputTokens => "output_tokens",
            Rate::Goodput => "goodput",
        }
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Quantity::Latency(metric, statistic) => {
                write!(f, "{}({})", statistic.name(), metric.name())
            }
            Quantity::Rate(rate) => write!(f, "rate({})", rate.name()),
            Quantity::Cached => f.write_str("cached"),
            Quantity::Errors => f.write_str("errors"),
        }
    }
}
