//! Which plots the page has.

use crate::figures::{CDF_PERCENTS, Figures, Group, Interval, Quantiles, Series, Statistic};
use crate::record::Record;
use crate::report::numbers::{count, decimal, percent};
use crate::report::plot::{self, Axis, Bar, Line, LineChart, Marks, Shade, escaped};
use crate::report::{PolicyPoint, SweepPoint};

/// So many requests the timeline shows.
const TIMELINE: usize = 40;

/// More workers are shown as a profile, without their names.
const MOST_BARS: usize = 40;

const SECONDS: &str = "seconds since start";
const MILLISECONDS: &str = "ms";

/// Of the rates that say something of the server; empty if none does.
pub(super) fn sweep(all: &[SweepPoint]) -> String {
    let points: Vec<_> = all.iter().filter(|it| it.verdict.is_of_server()).collect();
    if points.is_empty() {
        return String::new();
    }
    let left_out = match points.len() == all.len() {
        true => "",
        false => "; without those at which the generator was late or cut short",
    };
    let latency = |of: fn(&Figures) -> &Quantiles| {
        let line = |statistic: Statistic, look: usize| Line {
            name: statistic.name().to_owned(),
            color: look,
            dash: look,
            points: points
                .iter()
                .map(|it| (it.rate, value(of(&it.figures), statistic)))
                .collect(),
        };
        vec![line(Statistic::P50, 0), line(Statistic::P99, 1)]
    };
    let share = |it: &&SweepPoint| it.figures.goodput.as_ref().map(|it| it.share * 100.0);
    let good = Line {
        name: "meet all objectives".to_owned(),
        color: 2,
        dash: 0,
        points: points.iter().map(|it| (it.rate, share(it))).collect(),
    };
    let output = Line {
        name: "output tokens/s".to_owned(),
        color: 0,
        dash: 0,
        points: points
            .iter()
            .map(|it| (it.rate, Some(it.figures.rates.output_tokens)))
            .collect(),
    };
    let figures = [
        (
            "Time to first token by rate",
            MILLISECONDS,
            latency(|it| &it.latency.ttft),
        ),
        (
            "Inter-token latency by rate",
            MILLISECONDS,
            latency(|it| &it.latency.itl),
        ),
        ("Good requests by rate", "%", vec![good]),
        ("Throughput by rate", "tokens/s", vec![output]),
    ];
    let figures = figures.into_iter().filter(|it| has_points(&it.2));
    let draw = |(title, unit, lines): (&str, &str, Vec<Line>)| {
        let highest = points.iter().map(|it| it.rate).fold(0.0, f64::max);
        let lowest = points.iter().map(|it| it.rate).fold(f64::MAX, f64::min);
        let chart = LineChart {
            label: title,
            x: Axis::spanning(lowest, highest),
            y: y_axis(unit, &lines),
            x_title: "requests/s offered",
            y_title: unit,
            lines,
            shade: None,
            marks: Marks::Shown,
        };
        figure(title, &chart.draw())
    };
    let title = format!("Rate against latency{left_out}");
    section(&title, figures.map(draw))
}

/// Distributions of simulated policies, one over the other; empty with fewer
/// than two.
pub(super) fn policies(points: &[PolicyPoint]) -> String {
    if points.len() < 2 {
        return String::new();
    }
    let lines = |of: fn(&Figures) -> &Vec<f64>| {
        let line = |(look, it): (usize, &PolicyPoint)| Line {
            name: it.name(),
            color: look,
            dash: look / 4,
            points: of(&it.figures)
                .iter()
                .zip(CDF_PERCENTS)
                .map(|(ms, percent)| (*ms, Some(percent)))
                .collect(),
        };
        points.iter().enumerate().map(line).collect::<Vec<_>>()
    };
    let figures = [
        ("Time to first token by policy", lines(|it| &it.cdfs.ttft)),
        ("Inter-token latency by policy", lines(|it| &it.cdfs.itl)),
    ];
    let draw = |(title, lines): (&str, Vec<Line>)| {
        let values = || {
            lines
                .iter()
                .flat_map(|it| it.points.iter().map(|(ms, _)| *ms))
        };
        let lowest = values().filter(|it| *it > 0.0).fold(f64::MAX, f64::min);
        let highest = values().fold(0.0, f64::max);
        let chart = LineChart {
            label: title,
            x: Axis::log(lowest.min(highest), highest),
            y: Axis::from_zero(100.0),
            x_title: MILLISECONDS,
            y_title: "%",
            lines,
            shade: None,
            marks: Marks::Hidden,
        };
        figure(title, &chart.draw())
    };
    let figures = figures.into_iter().filter(|it| has_points(&it.1));
    section("Policies side by side", figures.map(draw))
}

pub(super) fn over_time(figures: &Figures) -> String {
    let series = &figures.series;
    if series.intervals.is_empty() {
        return String::new();
    }
    let rate = |name: &str, look: usize, of: fn(&Interval) -> u64| {
        let value = |it: &Interval| Some(of(it) as f64 / series.interval_s);
        line(series, name, look, value)
    };
    let figures = [
        (
            "Time to first token over time",
            MILLISECONDS,
            p50_p99(series, |it| &it.ttft),
        ),
        (
            "Inter-token latency over time",
            MILLISECONDS,
            p50_p99(series, |it| &it.itl),
        ),
        (
            "Output tokens over time",
            "tokens/s",
            vec![rate("output tokens/s", 0, |it| it.output_tokens)],
        ),
        (
            "Requests over time",
            "requests/s",
            vec![
                rate("scheduled", 3, |it| it.scheduled),
                rate("answered", 0, |it| it.answered),
                rate("failed", 1, |it| it.failed),
            ],
        ),
    ];
    let figures = figures.into_iter().filter(|it| has_points(&it.2));
    let draw = |(title, unit, lines): (&str, &str, Vec<Line>)| {
        let chart = LineChart {
            label: title,
            x: Axis::between(0.0, series.interval_s * series.intervals.len() as f64),
            y: y_axis(unit, &lines),
            x_title: SECONDS,
            y_title: unit,
            lines,
            shade: series.warm_up_until_s.map(|to| Shade {
                to,
                name: "warm-up",
            }),
            marks: Marks::Hidden,
        };
        figure(title, &chart.draw())
    };
    let shaded = match series.warm_up_until_s {
        Some(_) => "; shaded: warm-up, in no other figure",
        None => "",
    };
    let title = format!("Over time, in intervals of {} s{shaded}", series.interval_s);
    section(&title, figures.map(draw))
}

pub(super) fn distributions(figures: &Figures) -> String {
    let cdfs = [
        ("first token", &figures.cdfs.ttft),
        ("end to end", &figures.cdfs.e2e),
        ("between tokens", &figures.cdfs.itl),
        ("per output token", &figures.cdfs.tpot),
    ];
    let measured: Vec<_> = cdfs.iter().filter(|it| !it.1.is_empty()).collect();
    let line = |(look, (name, cdf)): (usize, &&(&str, &Vec<f64>))| Line {
        name: (*name).to_owned(),
        color: look,
        dash: look,
        points: cdf.iter().copied().zip(CDF_PERCENTS.map(Some)).collect(),
    };
    let lines: Vec<_> = measured.iter().enumerate().map(line).collect();
    let values = || measured.iter().flat_map(|it| it.1.iter().copied());
    let mut drawn = Vec::new();
    if !lines.is_empty() {
        let lowest = values().filter(|it| *it > 0.0).fold(f64::MAX, f64::min);
        let highest = values().fold(0.0, f64::max);
        let chart = LineChart {
            label: "share of values up to a latency",
            x: Axis::log(lowest.min(highest), highest),
            y: Axis::from_zero(100.0),
            x_title: MILLISECONDS,
            y_title: "%",
            lines,
            shade: None,
            marks: Marks::Hidden,
        };
        drawn.push(figure("Share of values up to a latency", &chart.draw()));
    }
    drawn.extend(endings(figures));
    section("Distributions", drawn.into_iter())
}

pub(super) fn workers(figures: &Figures) -> String {
    let loads = [
        (
            "Load of decode workers",
            "output tokens/s",
            &figures.decode_workers,
            (|it| it.output_tokens_per_second) as fn(&Group) -> f64,
        ),
        (
            "Load of prefill workers",
            "input tokens/s",
            &figures.prefill_workers,
            |it| it.input_tokens_per_second,
        ),
    ];
    let loads = loads.into_iter().filter(|it| !it.2.is_empty());
    section(
        "Workers",
        loads.map(|(title, unit, groups, load)| {
            let title = format!("{title}, {unit}");
            let drawn = if groups.len() <= MOST_BARS {
                load_bars(&title, groups, load)
            } else {
                load_profile(&title, unit, groups, load)
            };
            figure(&title, &drawn)
        }),
    )
}

/// The requests around the one that waited longest for its first token; empty
/// without records.
pub(super) fn timeline(records: &[Record]) -> String {
    let mut records: Vec<_> = records.iter().filter(|it| !it.warm_up).collect();
    records.sort_by_key(|it| (it.scheduled, it.number));
    let waited = |it: &&Record| {
        let first = it.chunks.first();
        first.map(|first| first.at.saturating_sub(it.scheduled))
    };
    let Some(slowest) = (0..records.len()).max_by_key(|it| waited(&records[*it])) else {
        return String::new();
    };
    let from = slowest.saturating_sub(TIMELINE / 2);
    let from = from.min(records.len().saturating_sub(TIMELINE));
    let to = (from + TIMELINE).min(records.len());
    let shown = &records[from..to];
    let title = format!("{} requests around the slowest first token", shown.len());
    let drawn = plot::timeline(&title, shown);
    format!(
        "<section><h2>Timeline of tokens</h2><div class=\"plots\"><figure class=\"wide\">\
         <figcaption>{title}</figcaption>{drawn}</figure></div></section>"
    )
}

fn endings(figures: &Figures) -> Option<String> {
    let requests = &figures.requests;
    let bar = |(kind, n): (&String, &u64)| Bar {
        name: kind.replace('_', " "),
        value: *n as f64,
        text: format!(
            "{} ({})",
            count(*n),
            percent(*n as f64 / requests.counted as f64)
        ),
        color: 1,
    };
    let flaws = requests.outcomes.iter().filter(|it| it.0 != "complete");
    let bars: Vec<_> = flaws.map(bar).collect();
    if bars.is_empty() {
        return None;
    }
    let title = format!("Not complete, of {} requests", count(requests.counted));
    Some(figure(&title, &plot::bars(&title, &bars)))
}

fn load_bars(title: &str, groups: &[Group], load: fn(&Group) -> f64) -> String {
    let bar = |it: &Group| Bar {
        name: it.name.clone(),
        value: load(it),
        text: decimal(load(it), 1),
        color: 0,
    };
    plot::bars(title, &groups.iter().map(bar).collect::<Vec<_>>())
}

fn load_profile(title: &str, unit: &str, groups: &[Group], load: fn(&Group) -> f64) -> String {
    let mut loads: Vec<_> = groups.iter().map(load).collect();
    loads.sort_by(|a, b| b.total_cmp(a));
    let ranked = loads.iter().enumerate();
    let lines = vec![Line {
        name: unit.to_owned(),
        color: 0,
        dash: 0,
        points: ranked.map(|(i, it)| (i as f64 + 1.0, Some(*it))).collect(),
    }];
    let chart = LineChart {
        label: title,
        x: Axis::between(1.0, groups.len() as f64),
        y: y_axis(unit, &lines),
        x_title: "workers, most loaded first",
        y_title: "per second",
        lines,
        shade: None,
        marks: Marks::Hidden,
    };
    chart.draw()
}

fn p50_p99(series: &Series, of: fn(&Interval) -> &Quantiles) -> Vec<Line> {
    vec![
        line(series, "p50", 0, |it| value(of(it), Statistic::P50)),
        line(series, "p99", 1, |it| value(of(it), Statistic::P99)),
    ]
}

/// A point in the middle of each interval.
fn line(
    series: &Series,
    name: &str,
    look: usize,
    value: impl Fn(&Interval) -> Option<f64>,
) -> Line {
    let intervals = series.intervals.iter().enumerate();
    Line {
        name: name.to_owned(),
        color: look,
        dash: look,
        points: intervals
            .map(|(i, it)| ((i as f64 + 0.5) * series.interval_s, value(it)))
            .collect(),
    }
}

fn value(quantiles: &Quantiles, statistic: Statistic) -> Option<f64> {
    (quantiles.count > 0).then(|| quantiles.get(statistic))
}

fn has_points(lines: &[Line]) -> bool {
    lines
        .iter()
        .any(|it| it.points.iter().any(|it| it.1.is_some()))
}

fn y_axis(unit: &str, lines: &[Line]) -> Axis {
    let values = || {
        lines
            .iter()
            .flat_map(|it| it.points.iter().filter_map(|it| it.1))
    };
    let highest = values().fold(0.0, f64::max);
    if unit == MILLISECONDS {
        Axis::spanning(values().fold(f64::MAX, f64::min), highest)
    } else {
        Axis::from_zero(highest)
    }
}

fn figure(title: &str, drawing: &str) -> String {
    let title = escaped(title);
    format!("<figure><figcaption>{title}</figcaption>{drawing}</figure>")
}

/// Empty without figures.
fn section(title: &str, figures: impl Iterator<Item = String>) -> String {
    let figures: String = figures.collect();
    if figures.is_empty() {
        return String::new();
    }
    let title = escaped(title);
    format!("<section><h2>{title}</h2><div class=\"plots\">{figures}</div></section>")
}
