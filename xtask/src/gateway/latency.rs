//! What a router adds: the same load once to workers, once through a router to
//! the same workers, in turns.

use anyhow::Result;

use super::Plan;
use super::load::{self, Found, http};
use crate::bar::{Bar, median};
use crate::part::Part;

const TURNS: u64 = 5;

/// Requests per second. The first is the bar's; the second shows what a router
/// adds on a machine that the workers and the generator do not fill already.
const RATES: [u64; 2] = [500, 200];

/// 200 prompt and 100 output tokens, as token ids: what both sides can take.
const LOAD: &str = "--prompt-format tokens --token-ids 300..1000 --input-tokens 200 \
                    --output-tokens 100 --duration 8s --warm-up 1s";

/// Each in steps of its own: the streams of one worker all have a token at once,
/// and of too few workers it is measured how long a machine takes for the batch.
/// More than these cost more than a machine of two cores has.
const WORKERS: usize = 4;

/// Short steps, so that where in a step a request comes makes little difference.
const WORKER: [&str; 7] = [
    "--sim-step-time=2ms",
    "--sim-decode-time=0us",
    "--sim-context-time=0us",
    "--sim-prefill-tokens-per-second=1e9",
    "--max-sequences=1024",
    "--max-batch-tokens=8192",
    "--kv-blocks=200000",
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
    let of_workers = || workers.iter().map(Part::cpu).sum::<Result<f64>>();
    let mut bars = Vec::new();
    for rate in RATES {
        let before = (router.cpu()?, of_workers()?);
        let mut pairs = Vec::new();
        for turn in 0..TURNS {
            // Prompts that were not sent before, by either side.
            let take = |url: &str, side: u64| {
                let (seed, rate) = (rate * 100 + 2 * turn + side, rate.to_string());
                let seed = seed.to_string();
                let mut flags: Vec<&str> = LOAD.split_whitespace().collect();
                flags.extend(["--seed", &seed, "--rate", &rate]);
                load::run(plan, url, &model, &flags)
            };
            let pair = (take(&direct, 0)?, take(&routed, 1)?);
            println!("direct {:?}\nrouter {:?}", pair.0, pair.1);
            pairs.push(pair);
        }
        let turns = Turns { rate, pairs };
        let requests = turns.requests();
        println!(
            "{rate} requests/s: CPU per request: router {:.0} us; worker {:.0} us",
            (router.cpu()? - before.0) * 1e6 / requests,
            (of_workers()? - before.1) * 1e6 / requests / 2.0,
        );
        bars.extend([
            turns.added("first token, p50", 0.3, |it| it.ttft.p50),
            turns.added("first token, p99", 2.0, |it| it.ttft.p99),
            turns.added("end, p50", 0.3, |it| it.e2e.p50),
            turns.added("end, p99", 2.0, |it| it.e2e.p99),
        ]);
    }
    Ok(bars)
}

/// What was found direct and through the router, turn by turn.
struct Turns {
    rate: u64,
    pairs: Vec<(Found, Found)>,
}

impl Turns {
    /// Sent through the router. Those of the warm-up, one second in eight, cost
    /// as well.
    fn requests(&self) -> f64 {
        let answered = self.pairs.iter().map(|(_, routed)| routed.answered);
        answered.sum::<f64>() * 8.0 / 7.0
    }

    fn added(&self, what: &str, at_most: f64, quantity: fn(&Found) -> f64) -> Bar {
        let of = |side: fn(&(Found, Found)) -> &Found| {
            median(self.pairs.iter().map(|it| quantity(side(it))).collect())
        };
        let added = |(direct, routed): &(Found, Found)| quantity(routed) - quantity(direct);
        Bar {
            what: format!("added at {} requests/s, to the {what}", self.rate),
            measured: median(self.pairs.iter().map(added).collect()),
            at_most,
            unit: "ms",
            note: format!(
                "median of {} turns; direct {:.3}, through the router {:.3}",
                self.pairs.len(),
                of(|it| &it.0),
                of(|it| &it.1)
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::load::Quantiles;
    use super::*;

    #[test]
    fn what_is_added_is_the_middle_of_the_turns() {
        let found = |p50: f64| {
            let quantiles = Quantiles { p50, p99: p50 };
            Found {
                answered: 7.0,
                input_tokens: 0.0,
                ttft: quantiles,
                e2e: quantiles,
            }
        };
        let turns = Turns {
            rate: 500,
            pairs: vec![
                (found(1.0), found(1.25)),
                (found(2.0), found(12.0)),
                (found(3.0), found(3.5)),
            ],
        };
        let bar = turns.added("end, p50", 0.5, |it| it.e2e.p50);
        assert_eq!((bar.measured, bar.holds()), (0.5, true));
        assert_eq!(
            bar.note,
            "median of 3 turns; direct 2.000, through the router 3.500"
        );
        assert_eq!(turns.requests(), 24.0);
    }
}
