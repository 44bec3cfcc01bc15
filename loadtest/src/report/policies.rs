//! Simulated policies side by side, and what only a simulation knows.

use super::PolicyPoint;
use super::grid::Grid;
use super::numbers::{decimal, percent};
use super::table::ms;
use crate::figures::Statistic;
use crate::simulate::ClusterFigures;

pub(super) const HEADING: [&str; 10] = [
    "policy",
    "ttft p50 ms",
    "ttft p99 ms",
    "itl p99 ms",
    "e2e p50 ms",
    "output tok/s",
    "good",
    "hit rate",
    "imbalance",
    "failed",
];

/// A row for each policy.
pub fn policies_table(points: &[PolicyPoint]) -> String {
    let mut grid = Grid::new(HEADING);
    points.iter().for_each(|it| grid.row(cells(it)));
    grid.to_string()
}

/// How well one cluster was used.
pub fn cluster_table(cluster: &ClusterFigures) -> String {
    let mut grid = Grid::default();
    for (name, text) in facts(cluster) {
        grid.row([format!("{name}  {text}")]);
    }
    grid.to_string()
}

pub(super) fn cells(point: &PolicyPoint) -> Vec<String> {
    let (cluster, figures) = (&point.cluster, &point.figures);
    let latency = &figures.latency;
    let good = figures.goodput.as_ref();
    vec![
        point.name(),
        ms(&latency.ttft, Statistic::P50),
        ms(&latency.ttft, Statistic::P99),
        ms(&latency.itl, Statistic::P99),
        ms(&latency.e2e, Statistic::P50),
        decimal(figures.rates.output_tokens, 0),
        good.map_or("-".to_owned(), |it| percent(it.share)),
        percent(cluster.hit_rate),
        decimal(cluster.prefill_imbalance, 2),
        figures.requests.failed.to_string(),
    ]
}

pub(super) fn facts(cluster: &ClusterFigures) -> Vec<(&'static str, String)> {
    let bound = cluster.bound.map(|it| {
        format!(
            "; at most {} with one cache of all workers' blocks, {} with an unlimited one",
            percent(it.shared),
            percent(it.unlimited)
        )
    });
    let mut facts = vec![
        ("policy", cluster.policy.clone()),
        (
            "hit rate",
            percent(cluster.hit_rate) + &bound.unwrap_or_default(),
        ),
        (
            "imbalance",
            format!(
                "busiest over mean: {} of prompt tokens computed, {} of tokens generated",
                decimal(cluster.prefill_imbalance, 2),
                decimal(cluster.decode_imbalance, 2)
            ),
        ),
        (
            "utilisation",
            format!(
                "{} of all workers, {} of the busiest",
                percent(cluster.utilisation),
                percent(cluster.utilisation_of_busiest)
            ),
        ),
    ];
    if cluster.split > 0.0 {
        let split = format!("{} of requests", percent(cluster.split));
        facts.push(("prefill split off", split));
    }
    if cluster.replaced > 0 {
        facts.push(("placed again", format!("{} requests", cluster.replaced)));
    }
    if cluster.preempted > 0 {
        facts.push(("preempted", format!("{} times", cluster.preempted)));
    }
    facts
}
