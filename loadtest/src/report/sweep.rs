//! The rates of a sweep: what was measured at each, and whether it held.

use std::io::{self, Write};

use serde::{Deserialize, Serialize};

use super::grid::Grid;
use super::numbers::{count, decimal, percent};
use super::table::ms;
use crate::figures::{Figures, Metric, Statistic};

/// A rate of a sweep and what was measured under it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SweepPoint {
    /// Requests per second, as offered.
    pub rate: f64,
    pub verdict: Verdict,
    pub figures: Figures,
}

/// What a run at a rate says of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Enough requests met the objectives.
    Holds,
    Misses,
    /// The generator fell behind, so that it says nothing.
    GeneratorLate,
    /// It ended before its time, so that it says nothing.
    CutShort,
}

impl Verdict {
    pub fn is_of_server(self) -> bool {
        matches!(self, Verdict::Holds | Verdict::Misses)
    }

    pub fn words(self) -> &'static str {
        match self {
            Verdict::Holds => "holds",
            Verdict::Misses => "misses",
            Verdict::GeneratorLate => "generator late",
            Verdict::CutShort => "cut short",
        }
    }
}

pub(super) const SWEEP_HEADING: [&str; 12] = [
    "rate/s",
    "verdict",
    "requests",
    "failed",
    "good",
    "answered/s",
    "output tok/s",
    "ttft p50 ms",
    "ttft p99 ms",
    "itl p50 ms",
    "itl p99 ms",
    "e2e p99 ms",
];

pub(super) fn sweep_cells(point: &SweepPoint) -> [String; 12] {
    let figures = &point.figures;
    let latency = &figures.latency;
    let good = figures.goodput.as_ref();
    [
        decimal(point.rate, 2),
        point.verdict.words().to_owned(),
        count(figures.requests.counted),
        percent(figures.failed_share()),
        good.map_or("-".to_owned(), |it| percent(it.share)),
        decimal(figures.rates.requests, 2),
        decimal(figures.rates.output_tokens, 1),
        ms(&latency.ttft, Statistic::P50),
        ms(&latency.ttft, Statistic::P99),
        ms(&latency.itl, Statistic::P50),
        ms(&latency.itl, Statistic::P99),
        ms(&latency.e2e, Statistic::P99),
    ]
}

/// A row for each rate of a sweep.
pub fn sweep_table(points: &[SweepPoint]) -> String {
    let mut grid = Grid::new(SWEEP_HEADING);
    points.iter().for_each(|it| grid.row(sweep_cells(it)));
    grid.to_string()
}

/// A row for each rate, with all quantiles of all latencies in milliseconds; an
/// empty field was not measured.
pub fn sweep_csv(points: &[SweepPoint], to: &mut dyn Write) -> io::Result<()> {
    let counts = "rate,verdict,requests,answered,failed,good_share,answered_per_second,\
                  output_tokens_per_second";
    let latencies =
        each_latency(|metric, statistic| format!("{}_{}_ms", metric.name(), statistic.name()));
    writeln!(to, "{counts},{}", latencies.join(","))?;
    for SweepPoint {
        rate,
        verdict,
        figures,
    } in points
    {
        let requests = &figures.requests;
        let good = figures.goodput.as_ref().map(|it| it.share.to_string());
        let values = each_latency(|metric, statistic| value(figures, metric, statistic));
        writeln!(
            to,
            "{rate},{},{},{},{},{},{},{},{}",
            verdict.words().replace(' ', "_"),
            requests.counted,
            requests.answered,
            requests.failed,
            good.unwrap_or_default(),
            figures.rates.requests,
            figures.rates.output_tokens,
            values.join(",")
        )?;
    }
    Ok(())
}

fn each_latency(cell: impl Fn(Metric, Statistic) -> String) -> Vec<String> {
    let of = |metric| Statistic::ALL.map(|statistic| cell(metric, statistic));
    Metric::ALL.into_iter().flat_map(of).collect()
}

fn value(figures: &Figures, metric: Metric, statistic: Statistic) -> String {
    let quantiles = figures.latency.of(metric);
    match quantiles.count {
        0 => String::new(),
        _ => quantiles.get(statistic).to_string(),
    }
}
