//! Whether bodies of some size cost more than their size explains.

use anyhow::Result;

use super::Plan;
use super::load::{self, http};
use super::prompts::WORKER;
use crate::bar::Bar;
use crate::text::write_prompts;

/// Sizes in KB; the first two are mostly fixed cost, and shown only.
const SIZES: [usize; 11] = [1, 16, 64, 128, 192, 208, 220, 232, 256, 512, 1024];
const MOSTLY_FIXED: usize = 2;

const CONCURRENCY: &str = "--concurrency=20";
/// KB sent of each size.
const VOLUME: usize = 32 * 1024;
const MOST_REQUESTS: usize = 1000;

/// What a size costs for each of its KB.
struct PerKb {
    cpu_us: f64,
    latency_ms: f64,
}

pub fn run(plan: &Plan) -> Result<Vec<Bar>> {
    let worker = plan.binary.worker(&plan.model, &WORKER)?;
    let router = plan.router.router(&[worker.address()?], &[])?;
    let (url, model) = (http(router.address()?), worker.model()?);
    let file = plan.file("bodies.jsonl");
    let mut costs = Vec::new();
    for (number, size) in SIZES.into_iter().enumerate() {
        let requests = (VOLUME / size).clamp(40, MOST_REQUESTS);
        // 100 bytes are around the prompt.
        write_prompts(&file, 100 + number as u64, requests, size * 1000 - 100)?;
        let flags = ["--prompts", &file, "--prompt-format=text", CONCURRENCY];
        let flags = [&flags[..], &["--output-tokens=1", "--requests=1000000"]].concat();
        let before = router.cpu()?;
        let found = load::run(plan, &url, &model, &flags)?;
        let kb = size as f64;
        let cost = PerKb {
            cpu_us: (router.cpu()? - before) * 1e6 / found.answered / kb,
            latency_ms: found.ttft.p50 / kb,
        };
        println!(
            "{size:5} KB: {:6.2} us of CPU a KB, {:7.4} ms at p50 a KB, p50 {:.1} ms, p99 {:.1} ms",
            cost.cpu_us, cost.latency_ms, found.ttft.p50, found.ttft.p99
        );
        costs.push(cost);
    }
    std::fs::remove_file(&file)?;
    let costs = &costs[MOSTLY_FIXED..];
    Ok(vec![
        steepest("CPU a KB", costs, "us", |it| it.cpu_us),
        steepest("latency a KB", costs, "ms", |it| it.latency_ms),
    ])
}

/// How much more a KB costs in a body than in a smaller one, at most: a cliff
/// shows as a step up.
fn steepest(what: &str, costs: &[PerKb], unit: &str, of: fn(&PerKb) -> f64) -> Bar {
    let costs: Vec<f64> = costs.iter().map(of).collect();
    let (first, last) = (costs[0], costs[costs.len() - 1]);
    Bar {
        what: format!("bodies of 64 KB to 1 MB: {what}, the largest step up"),
        measured: step_up(&costs),
        at_most: 1.5,
        unit: "times",
        note: format!("20 at a time; {first:.3} {unit} in 64 KB, {last:.3} in 1 MB"),
    }
}

/// The most that one of them is above the least before it.
fn step_up(costs: &[f64]) -> f64 {
    let mut least = f64::INFINITY;
    let steps = costs.iter().map(|cost| {
        let step = cost / least;
        least = least.min(*cost);
        step
    });
    steps.fold(0.0, f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_up_is_held_against_the_least_before_it() {
        assert_eq!(step_up(&[4.0, 2.0, 1.0]), 0.5);
        assert_eq!(step_up(&[4.0, 2.0, 3.0, 5.0, 1.0]), 2.5);
    }
}
