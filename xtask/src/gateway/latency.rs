//! What a router adds: the same load once to workers, once through a router to
//! the same workers, in turns.

use anyhow::Result;

use super::Plan;
use super::bar::{Bar, median};
use super::load::{self, Found, http};
use super::part::Part;

const TURNS: u64 = 5;

/// 200 prompt and 100 output tokens, as token ids: what both sides can take.
const LOAD: &str = "--prompt-format tokens --token-ids 300..1000 --input-tokens 200 \
                    --output-tokens 100 --rate 500 --duration 8s --warm-up 1s";

/// As many as such a load takes of real ones, each in steps of its own: of one
/// worker all streams would have a token at once, and what is measured would be
/// how long a machine of two cores takes for the batch.
const WORKERS: usize = 10;

/// Short steps, so that where in a step a request comes makes little difference.
const WORKER: [&str; 7] = [
    "--sim-step-time=5ms",
    "--sim-decode-time=0us",
    "--sim-context-time=0us",
    "--sim-prefill-tokens-per-second=1e9",
    "--max-sequences=1024",
    "--max-batch-tokens=8192",
    "--kv-blocks=20000",
];

pub fn run(plan: &Plan) -> Result<Vec<Bar>> {
    let workers = (0..WORKERS).map(|_| plan.binary.worker("demo", &WORKER));
    let workers = workers.collect::<Result<Vec<_>>>()?;
    let addresses = workers
        .iter()
        .map(Part::address)
        .collect::<Result<Vec<_>>>()?;
    let model = workers[0].model()?;
    let router = plan.router.router(&addresses, &[])?;
    let routed = http(router.address()?);
    let direct: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    let direct = format!("grpc://{}", direct.join(","));
    let mut pairs = Vec::new();
    let of_workers = || workers.iter().map(Part::cpu).sum::<Result<f64>>();
    let before = (router.cpu()?, of_workers()?);
    for turn in 0..TURNS {
        // Prompts that were not sent before, by either side.
        let take = |url: &str, seed: u64| {
            let seed = seed.to_string();
            let mut flags: Vec<&str> = LOAD.split_whitespace().collect();
            flags.extend(["--seed", &seed]);
            load::run(plan, url, &model, &flags)
        };
        let pair = (take(&direct, 2 * turn)?, take(&routed, 2 * turn + 1)?);
        println!("direct {:?}\nrouter {:?}", pair.0, pair.1);
        pairs.push(pair);
    }
    let requests: f64 = pairs.iter().map(|(_, routed)| routed.answered).sum();
    let cost = |seconds: f64| seconds * 1e6 / requests;
    println!(
        "CPU per request: router {:.0} us; workers, of both sides, {:.0} us",
        cost(router.cpu()? - before.0),
        cost(of_workers()? - before.1),
    );
    Ok(vec![
        added("time to first token, p50", &pairs, 0.3, |it| it.ttft.p50),
        added("time to first token, p99", &pairs, 2.0, |it| it.ttft.p99),
        added("end to end, p50", &pairs, 0.3, |it| it.e2e.p50),
        added("end to end, p99", &pairs, 2.0, |it| it.e2e.p99),
    ])
}

fn added(what: &str, pairs: &[(Found, Found)], at_most: f64, quantity: fn(&Found) -> f64) -> Bar {
    let of = |side: fn(&(Found, Found)) -> &Found| {
        let values = pairs.iter().map(|pair| quantity(side(pair)));
        median(values.collect())
    };
    let differences = pairs
        .iter()
        .map(|(direct, routed)| quantity(routed) - quantity(direct));
    Bar {
        what: format!("added at 500 requests/s: {what}"),
        measured: median(differences.collect()),
        at_most,
        unit: "ms",
        note: format!(
            "median of {TURNS} turns; direct {:.3}, through the router {:.3}",
            of(|pair| &pair.0),
            of(|pair| &pair.1)
        ),
    }
}
