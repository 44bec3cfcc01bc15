//! A router before 100 workers that hold a million blocks: how soon it knows
//! them, and what it costs while nothing happens.

use std::net::SocketAddr;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::Plan;
use super::load::{self, http};
use super::streams::get;
use crate::bar::Bar;
use crate::metrics::sum;

const WORKERS: usize = 100;
const BLOCKS: f64 = 1e6;
const BLOCKS_METRIC: &str = "kvasir_router_index_blocks";

/// All workers in one process, which has a router of its own to fill them by:
/// each gets as many prompts as the others.
const CLUSTER: [&str; 11] = [
    "up",
    "--workers=100",
    "--device=sim",
    "--port=0",
    "--threads=1",
    "--policy=round-robin",
    "--sim-speed=1000",
    "--sim-prefill-tokens-per-second=1e7",
    "--max-model-len=20000",
    "--max-batch-tokens=20000",
    "--kv-blocks=11000",
];

/// 1,000 blocks each.
const FILL: &str = "--prompt-format tokens --token-ids 300..1000 --input-tokens 16001 \
                    --output-tokens 1 --requests 1000 --concurrency 4";

const STARTS: usize = 3;
const JOIN_LIMIT: Duration = Duration::from_secs(30);

/// Before the measurement, for what a start leaves to be done.
const SETTLE: Duration = Duration::from_secs(3);
const IDLE: Duration = Duration::from_secs(30);

pub fn run(plan: &Plan) -> Result<Vec<Bar>> {
    let cluster = plan.binary.start(&CLUSTER)?;
    let own = cluster.address()?;
    let workers = cluster.said.iter().filter_map(|line| {
        let address = line.split_whitespace().last()?.strip_prefix("grpc://")?;
        address.parse().ok()
    });
    let workers: Vec<SocketAddr> = workers.collect();
    ensure!(
        workers.len() == WORKERS,
        "{} workers started",
        workers.len()
    );
    let flags: Vec<&str> = FILL.split_whitespace().collect();
    load::run(plan, &http(own), "kvasir-demo", &flags)?;
    let held = blocks(own)?;
    ensure!(held >= BLOCKS, "the workers hold {held} blocks");

    let mut took = Vec::new();
    for _ in 1..STARTS {
        took.push(start(plan, &workers, held)?.0);
    }
    let (last, router) = start(plan, &workers, held)?;
    took.push(last);
    sleep(SETTLE);
    let (before, since) = (router.cpu()?, Instant::now());
    sleep(IDLE);
    let share = (router.cpu()? - before) / since.elapsed().as_secs_f64();
    let longest = took.iter().copied().fold(0.0, f64::max);
    Ok(vec![
        Bar {
            what: format!("from the start of a router to {WORKERS} workers' blocks in its index"),
            measured: longest,
            at_most: 1.0,
            unit: "s",
            note: format!("the longest of {STARTS} starts; {held:.0} blocks"),
        },
        Bar {
            what: format!("idle with {WORKERS} workers"),
            measured: share * 100.0,
            at_most: 2.0,
            unit: "% of a core",
            note: format!("over {IDLE:?}; {:.0} MB resident", router.resident()? / 1e3),
        },
    ])
}

/// Starts a router; seconds until it has `held` blocks in its index.
fn start(plan: &Plan, workers: &[SocketAddr], held: f64) -> Result<(f64, crate::part::Part)> {
    let began = Instant::now();
    let router = plan.router.router(workers, &[])?;
    let address = router.address()?;
    let joined = began.elapsed();
    while blocks(address)? < held {
        ensure!(began.elapsed() < JOIN_LIMIT, "the index does not fill");
        sleep(Duration::from_millis(5));
    }
    let took = began.elapsed().as_secs_f64();
    println!(
        "joined after {:.3} s, knew all after {took:.3} s",
        joined.as_secs_f64()
    );
    Ok((took, router))
}

fn blocks(router: SocketAddr) -> Result<f64> {
    sum(&get(router, "/metrics")?, BLOCKS_METRIC).with_context(|| format!("no {BLOCKS_METRIC}"))
}
