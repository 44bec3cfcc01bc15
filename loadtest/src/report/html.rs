//! One page that needs nothing else: figures as tables and plots, to be read
//! offline and to be printed.

mod plots;
mod tables;

use super::Report;
use super::numbers::{decimal, percent, utc};
use super::plot::escaped;
use crate::figures::{Figures, RunInfo};

const STYLE: &str = include_str!("html/style.css");

pub fn html(report: &Report<'_>) -> String {
    let Report {
        info,
        figures,
        records,
        sweep,
        policies,
    } = *report;
    let title = escaped(&format!("Load test of {}", info.target));
    let sections = [
        banner(info),
        cards(figures),
        tables::facts(info, figures),
        tables::latencies(figures),
        emptiness(figures).to_owned(),
        tables::policies(policies),
        plots::policies(policies),
        plots::sweep(sweep),
        tables::sweep(sweep),
        plots::over_time(figures),
        plots::distributions(figures),
        plots::workers(figures),
        plots::timeline(records),
        tables::breakdowns(figures),
        definitions(),
    ];
    let sections = sections.concat();
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"/>\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\
         <title>{title}</title><style>{STYLE}</style></head><body><main>\
         <header><h1>{title}</h1><p>{}</p></header>{sections}</main></body></html>\n",
        escaped(&subtitle(info))
    )
}

fn subtitle(info: &RunInfo) -> String {
    let parts = [
        info.model.clone(),
        info.workload.clone(),
        info.arrival.clone(),
        match info.is_simulated() {
            true => String::new(),
            false => utc(info.started),
        },
    ];
    let parts: Vec<_> = parts.into_iter().filter(|it| !it.is_empty()).collect();
    parts.join(" · ")
}

fn banner(info: &RunInfo) -> String {
    let reason = info.invalid.as_ref();
    reason.map_or_else(String::new, |it| {
        let reason = escaped(it);
        format!(
            "<p class=\"invalid\"><strong>Invalid run, do not use these figures:</strong> \
             {reason}</p>"
        )
    })
}

/// The few numbers that are looked for first.
fn cards(figures: &Figures) -> String {
    let latency = &figures.latency;
    let mut cards = vec![
        ("requests/s answered", decimal(figures.rates.requests, 1)),
        ("output tokens/s", decimal(figures.rates.output_tokens, 0)),
    ];
    if latency.ttft.count > 0 {
        cards.push(("ms to first token, p50", decimal(latency.ttft.p50, 1)));
        cards.push(("ms to first token, p99", decimal(latency.ttft.p99, 1)));
    }
    if latency.itl.count > 0 {
        cards.push(("ms between tokens, p50", decimal(latency.itl.p50, 1)));
        cards.push(("ms between tokens, p99", decimal(latency.itl.p99, 1)));
    }
    if let Some(goodput) = &figures.goodput {
        cards.push(("meet all objectives", percent(goodput.share)));
    }
    cards.push(("failed", percent(figures.failed_share())));
    let card = |(name, value): &(&str, String)| {
        format!("<div class=\"card\"><b>{value}</b><span>{name}</span></div>")
    };
    let cards: String = cards.iter().map(card).collect();
    format!("<section class=\"cards\">{cards}</section>")
}

/// Why there are no plots of latencies, if there are none.
fn emptiness(figures: &Figures) -> &'static str {
    match figures.latency.ttft.count {
        0 => "<p class=\"empty\">Not one token came: there are no latencies to plot.</p>",
        _ => "",
    }
}

fn definitions() -> String {
    "<footer><p>All latencies count from the time a request was scheduled for, so that neither a \
     stalled server nor a late generator can hide them. Inter-token latency: tokens of one chunk \
     share its gap evenly. End to end and time per output token: answered requests only. Rates: \
     per second from the first scheduled request to the last end, warm-up left out. Quantiles: \
     HDR histogram, three significant digits.</p></footer>"
        .to_owned()
}
