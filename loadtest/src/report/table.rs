//! The summary for the terminal.

use super::grid::{Grid, printable};
use super::numbers::{count, decimal, percent, utc};
use crate::figures::{
    Figures, Goodput, Group, Latency, Metric, Misses, Quantiles, RunInfo, Statistic,
};

/// The first line says so if the run is invalid.
pub fn table(info: &RunInfo, figures: &Figures) -> String {
    let mut lines = Vec::new();
    if let Some(reason) = &info.invalid {
        let reason = printable(reason);
        lines.push(format!("INVALID RUN, do not use these figures: {reason}"));
    }
    lines.extend(heading(info));
    lines.extend(facts(figures).iter().map(labelled));
    lines.extend(info.notes.iter().map(|it| labelled(&("note", it.clone()))));
    let mut parts = vec![lines.join("\n") + "\n", latencies(figures).to_string()];
    for (by, groups) in breakdowns(figures) {
        if !groups.is_empty() {
            parts.push(breakdown(by, groups).to_string());
        }
    }
    parts.join("\n")
}

/// What the figures say besides latencies, by label.
pub(super) fn facts(figures: &Figures) -> Vec<(&'static str, String)> {
    let mut facts = vec![("requests", requests(figures))];
    if figures.requests.answered < figures.requests.counted || has_flaws(figures) {
        facts.push(("endings", endings(figures)));
    }
    facts.push(("rates", rates(figures)));
    if let Some(cached) = &figures.cached {
        let (tokens, of) = (count(cached.tokens), count(cached.of));
        let share = percent(cached.share);
        facts.push((
            "cached",
            format!("{tokens} of {of} prompt tokens ({share})"),
        ));
    }
    if let Some(goodput) = &figures.goodput {
        facts.push(("goodput", good(goodput)));
    }
    if let Some(fact) = chunking(figures) {
        facts.push(("chunks", fact));
    }
    facts
}

/// A latency's number, or a dash if nothing was measured.
pub(super) fn ms(quantiles: &Quantiles, statistic: Statistic) -> String {
    if quantiles.count == 0 {
        return "-".to_owned();
    }
    decimal(quantiles.get(statistic), 2)
}

/// Latencies worth a row. The gap between chunks is one only where it differs
/// from the time between tokens.
pub(super) fn shown(latency: &Latency) -> impl Iterator<Item = (Metric, &Quantiles)> {
    let same = latency.gap == latency.itl;
    Metric::ALL
        .into_iter()
        .filter(move |it| *it != Metric::Gap || !same)
        .map(|it| (it, latency.of(it)))
}

pub(super) fn breakdowns(figures: &Figures) -> [(&'static str, &[Group]); 4] {
    [
        ("tenant", &figures.tenants),
        ("priority", &figures.priorities),
        ("prefill worker", &figures.prefill_workers),
        ("decode worker", &figures.decode_workers),
    ]
}

/// How long it was, and what it takes to repeat it.
pub(super) fn run(info: &RunInfo) -> String {
    let seconds = decimal(info.duration.as_secs_f64(), 1);
    let (seed, version) = (info.seed, &info.version);
    match info.is_simulated() {
        true => format!("{seconds} s simulated, seed {seed}, kvasir {version}"),
        false => format!(
            "{seconds} s, seed {seed}, kvasir {version}, {} cores",
            info.cores
        ),
    }
}

fn heading(info: &RunInfo) -> Vec<String> {
    let target = if info.model.is_empty() {
        info.target.clone()
    } else {
        format!("{}, model {}", info.target, info.model)
    };
    let run = match info.is_simulated() {
        true => run(info),
        false => format!("{}, {}", utc(info.started), run(info)),
    };
    let facts = [
        ("target", target),
        ("workload", info.workload.clone()),
        ("arrival", info.arrival.clone()),
        ("run", run),
    ];
    facts.iter().map(labelled).collect()
}

fn labelled((label, text): &(&str, String)) -> String {
    format!("{label:<9} {}", printable(text))
}

fn requests(figures: &Figures) -> String {
    let requests = &figures.requests;
    let share = percent(figures.failed_share());
    let (answered, failed) = (count(requests.answered), count(requests.failed));
    let warm_up = match requests.warm_up {
        0 => String::new(),
        n => format!("; {} of the warm-up left out", count(n)),
    };
    format!(
        "{} counted: {answered} answered, {failed} failed ({share}){warm_up}",
        count(requests.counted)
    )
}

fn has_flaws(figures: &Figures) -> bool {
    figures.requests.outcomes.keys().any(|it| it != "complete")
}

fn endings(figures: &Figures) -> String {
    let outcomes = figures.requests.outcomes.iter();
    let each: Vec<_> = outcomes
        .map(|(kind, n)| format!("{kind} {}", count(*n)))
        .collect();
    each.join(", ")
}

fn rates(figures: &Figures) -> String {
    let rates = &figures.rates;
    let offered = rates
        .offered
        .map(|it| format!(" of {} offered", decimal(it, 2)));
    let input = if figures.tokens.with_usage == 0 {
        "input tokens unknown".to_owned()
    } else {
        format!("{} input tokens/s", decimal(rates.input_tokens, 1))
    };
    format!(
        "{} requests/s{}, {input}, {} output tokens/s",
        decimal(rates.requests, 2),
        offered.unwrap_or_default(),
        decimal(rates.output_tokens, 1)
    )
}

fn good(goodput: &Goodput) -> String {
    let Misses {
        incomplete,
        ttft,
        itl,
        tpot,
        e2e,
    } = goodput.missed;
    let missed = [
        ("ttft", ttft),
        ("itl", itl),
        ("tpot", tpot),
        ("e2e", e2e),
        ("incomplete", incomplete),
    ];
    let missed = missed.iter().filter(|it| it.1 > 0);
    let missed: Vec<_> = missed
        .map(|(it, n)| format!("{it} {}", count(*n)))
        .collect();
    let missed = if missed.is_empty() {
        String::new()
    } else {
        format!("; missed: {}", missed.join(", "))
    };
    format!(
        "{} requests/s, {} meet {}{missed}",
        decimal(goodput.per_second, 2),
        percent(goodput.share),
        goodput.objectives
    )
}

/// Where chunks are not tokens, what that means for the latencies.
fn chunking(figures: &Figures) -> Option<String> {
    let tokens = figures.tokens;
    let per_chunk = figures.tokens_per_chunk();
    if per_chunk < 1.05 {
        return None;
    }
    let per_chunk = decimal(per_chunk, 2);
    let told = tokens.seen as f64 > 0.95 * tokens.output as f64;
    Some(if told {
        format!("{per_chunk} tokens each; those of a chunk share its gap evenly")
    } else {
        format!("{per_chunk} tokens each by usage, untold: inter-token latency is per chunk")
    })
}

fn latencies(figures: &Figures) -> Grid {
    let statistics = Statistic::ALL.map(Statistic::name);
    let heading = ["latency (ms)", "count"].into_iter().chain(statistics);
    let mut grid = Grid::new(heading);
    for (metric, quantiles) in shown(&figures.latency) {
        let values = Statistic::ALL.map(|it| ms(quantiles, it));
        let cells = [metric.title().to_owned(), count(quantiles.count)];
        grid.row(cells.into_iter().chain(values));
    }
    grid
}

fn breakdown(by: &str, groups: &[Group]) -> Grid {
    let mut grid = Grid::new(group_heading(by));
    groups.iter().for_each(|it| grid.row(group_cells(it)));
    grid
}

pub(super) fn group_heading(by: &str) -> [String; 10] {
    [
        format!("by {by}"),
        "requests".to_owned(),
        "failed".to_owned(),
        "input tok/s".to_owned(),
        "output tok/s".to_owned(),
        "cached".to_owned(),
        "ttft p50 ms".to_owned(),
        "ttft p99 ms".to_owned(),
        "tpot p50 ms".to_owned(),
        "e2e p99 ms".to_owned(),
    ]
}

pub(super) fn group_cells(group: &Group) -> [String; 10] {
    [
        group.name.clone(),
        count(group.requests),
        count(group.failed),
        decimal(group.input_tokens_per_second, 1),
        decimal(group.output_tokens_per_second, 1),
        group.cached_share.map_or("-".to_owned(), percent),
        ms(&group.ttft, Statistic::P50),
        ms(&group.ttft, Statistic::P99),
        ms(&group.tpot, Statistic::P50),
        ms(&group.e2e, Statistic::P99),
    ]
}
