//! Made-up records that look like those of a real run, for tests and pictures
//! of reports: Poisson arrivals, four workers of which one is slower, a stall,
//! and failures of several kinds. No measurement.

use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rand_distr::{Distribution, Exp, LogNormal};

use crate::record::{Chunk, Outcome, Record, Usage};

pub struct MadeUp {
    pub seed: u64,
    pub requests: u64,
    /// Requests per second.
    pub rate: f64,
    /// Multiplies what the server takes.
    pub slowness: f64,
}

const WARM_UP: Duration = Duration::from_secs(3);
const STALL: (f64, f64) = (30.0, 31.5);

impl MadeUp {
    pub fn records(&self) -> Vec<Record> {
        let mut random = StdRng::seed_from_u64(self.seed);
        let between = Exp::new(self.rate).expect("a rate is positive");
        let mut at = 0.0;
        (0..self.requests)
            .map(|number| {
                at += between.sample(&mut random);
                self.record(number, at, &mut random)
            })
            .collect()
    }

    fn record(&self, number: u64, at: f64, random: &mut StdRng) -> Record {
        let worker = random.random_range(0..4_u32);
        let load = self.slowness * if worker == 3 { 1.6 } else { 1.0 };
        let sent = at + random.random_range(0.00002..0.0004);
        let prompt_tokens = log_normal(600.0, 0.7, random).min(8000.0) as u32;
        let cached_tokens = prompt_tokens * random.random_range(0..4) / 4 / 16 * 16;
        let uncached = f64::from(prompt_tokens - cached_tokens);
        let ttft = load * (0.02 + uncached * 0.00015) * log_normal(1.0, 0.35, random);
        let wanted = log_normal(120.0, 0.6, random).clamp(4.0, 600.0) as u32;
        let outcome = outcome(number, random);
        let tokens = match outcome {
            Outcome::Status(_) | Outcome::Timeout => 0,
            Outcome::Complete => wanted,
            _ => wanted * 2 / 3,
        };
        let chunks = chunks(sent + ttft, tokens, load, random);
        let last = chunks.last().map_or(seconds(sent + 0.003), |it| it.at);
        let usage = (outcome == Outcome::Complete).then_some(Usage {
            prompt_tokens,
            completion_tokens: tokens,
            cached_tokens: Some(cached_tokens),
        });
        Record {
            number,
            scheduled: seconds(at),
            sent: seconds(sent),
            chunks,
            ended: if outcome == Outcome::Timeout {
                seconds(sent + 5.0)
            } else {
                last + Duration::from_micros(300)
            },
            outcome,
            usage,
            expected_output: Some(wanted),
            warm_up: seconds(at) < WARM_UP,
            tenant: Some(Arc::from(
                ["acme", "globex", "initech"][number as usize % 3],
            )),
            priority: Some([0, 0, 0, 10][number as usize % 4]),
            prefill_worker: Some(format!("prefill-{}", worker % 2).into()),
            decode_worker: Some(format!("decode-{worker}").into()),
            turn: None,
        }
    }
}

fn outcome(number: u64, random: &mut StdRng) -> Outcome {
    match random.random_range(0..1000) {
        0..10 => Outcome::Status(503),
        10..14 => Outcome::CutStream,
        14..16 => Outcome::Timeout,
        16..18 if number > 100 => Outcome::Truncated,
        _ => Outcome::Complete,
    }
}

/// One or now and then two tokens each; none while the server stalls.
fn chunks(first: f64, tokens: u32, load: f64, random: &mut StdRng) -> Vec<Chunk> {
    let mut chunks = Vec::new();
    let (mut at, mut left) = (first, tokens);
    while left > 0 {
        if at > STALL.0 && at < STALL.1 {
            at = STALL.1 + random.random_range(0.0..0.05);
        }
        let tokens = if random.random_range(0..20) == 0 {
            2
        } else {
            1
        }
        .min(left);
        chunks.push(Chunk {
            at: seconds(at),
            tokens,
        });
        left -= tokens;
        at += load * 0.018 * log_normal(1.0, 0.25, random);
    }
    chunks
}

fn log_normal(median: f64, sigma: f64, random: &mut StdRng) -> f64 {
    let distribution = LogNormal::new(median.ln(), sigma).expect("sigma is finite");
    distribution.sample(random)
}

/// Whole microseconds, as records keep in a file.
fn seconds(value: f64) -> Duration {
    Duration::from_micros((value * 1e6) as u64)
}
