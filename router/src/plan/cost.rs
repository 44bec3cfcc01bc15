//! What an option costs, in milliseconds, and the policy that takes the
//! cheapest.
//!
//! The cost of a split option is a sum of what its prefill worker costs and what
//! its decode worker costs, so that the best pair is the best of each: time is
//! linear in the number of workers.

use super::{Ask, Candidate, Choice, Parts, Policy};

/// Rates assumed of a worker that has not reported any yet.
const UNKNOWN_PREFILL_TOKENS_PER_MS: f64 = 10.0;
const UNKNOWN_DECODE_STEP_MS: f64 = 10.0;
/// KV between two workers of one cluster, per token.
const TRANSFER_MS_PER_TOKEN: f64 = 0.005;
/// Two calls instead of one.
const SPLIT_MS: f64 = 1.0;
/// Options that cost the same but for this are equals.
const SAME_MS: f64 = 1e-6;

/// The parts of an option's cost, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    /// Until the worker that computes the prompt gets to it.
    pub queue: f64,
    /// Computing what is not cached.
    pub prefill: f64,
    /// Moving KV that the decode worker lacks.
    pub transfer: f64,
    /// What the sequence and the decode worker's load slow each other down.
    pub decode: f64,
    /// Until the decode worker has blocks for it.
    pub memory: f64,
}

/// A way to place a sequence, and what it costs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PlanOption {
    pub choice: Choice,
    /// Prompt tokens that need not be computed.
    pub cached_tokens: usize,
    pub cost: Cost,
}

/// Takes the cheapest option; of equals any, so that equal workers share the
/// load.
#[derive(Debug, Default)]
pub struct CostPolicy;

impl Policy for CostPolicy {
    fn place(&mut self, ask: &Ask<'_>, candidates: &[Candidate]) -> Option<Choice> {
        let parts = Parts::of(ask, candidates);
        let mut alone = Cheapest::new(ask.random);
        let mut prefill = Cheapest::new(ask.random);
        let mut decode = Cheapest::new(ask.random);
        for (at, candidate) in candidates.iter().enumerate() {
            if parts.prefills(candidate) {
                prefill.offer(at, Cost::of_prefill(ask, candidate).total());
            }
            if !parts.decodes(candidate) {
                continue;
            }
            if parts.computes_alone(ask, candidate) {
                alone.offer(at, Cost::undivided(ask, candidate).total());
            } else {
                decode.offer(at, Cost::of_decode(ask, candidate).total());
            }
        }
        match (prefill.least, decode.least) {
            (Some((p, p_cost)), Some((d, d_cost))) if p_cost + d_cost < alone.cost() => {
                Some(Choice {
                    decode: d,
                    prefill: Some(p),
                })
            }
            _ => alone.least.map(|(at, _)| Choice::undivided(at)),
        }
    }
}

/// The least of what is offered; of equals each as likely.
struct Cheapest {
    least: Option<(usize, f64)>,
    equals: u64,
    random: u64,
}

impl Cheapest {
    fn new(random: u64) -> Cheapest {
        Cheapest {
            least: None,
            equals: 0,
            random,
        }
    }

    fn cost(&self) -> f64 {
        self.least.map_or(f64::INFINITY, |(_, cost)| cost)
    }

    fn offer(&mut self, at: usize, cost: f64) {
        let least = self.cost();
        if cost < least - SAME_MS || self.least.is_none() {
            self.least = Some((at, cost));
            self.equals = 1;
        } else if cost <= least + SAME_MS {
            // Reservoir sampling over the equals.
            self.equals += 1;
            self.random = self
                .random
                .rotate_right(11)
                .wrapping_mul(0x9e37_79b9_7f4a_7c15);
            if (self.random >> 32).is_multiple_of(self.equals) {
                self.least = Some((at, least));
            }
        }
    }
}

/// What `choice` costs.
pub fn weigh(ask: &Ask<'_>, candidates: &[Candidate], choice: Choice) -> PlanOption {
    let decode = &candidates[choice.decode];
    let cost = match choice.prefill {
        Some(prefill) => Cost::of_prefill(ask, &candidates[prefill]) + Cost::of_decode(ask, decode),
        None => Cost::undivided(ask, decode),
    };
    PlanOption {
        choice,
        cached_tokens: ask.prompt_tokens - ask.uncached(&candidates[choice.computes()]),
        cost,
    }
}

/// The options there were besides `chosen`, which comes first; the others with
/// the cheapest first. Of split options those that share a worker with the
/// chosen one.
pub fn options(ask: &Ask<'_>, candidates: &[Candidate], chosen: Choice) -> Vec<PlanOption> {
    let parts = Parts::of(ask, candidates);
    let with = |at: usize| {
        let candidate = &candidates[at];
        let alone = parts.decodes(candidate) && parts.computes_alone(ask, candidate);
        let decodes = parts.decodes(candidate) && !alone;
        let choices = [
            alone.then(|| Choice::undivided(at)),
            chosen.prefill.filter(|_| decodes).map(|prefill| Choice {
                decode: at,
                prefill: Some(prefill),
            }),
            (chosen.prefill.is_some() && parts.prefills(candidate)).then_some(Choice {
                decode: chosen.decode,
                prefill: Some(at),
            }),
        ];
        choices.into_iter().flatten()
    };
    let mut others: Vec<PlanOption> = (0..candidates.len())
        .flat_map(with)
        .filter(|it| *it != chosen)
        .map(|it| weigh(ask, candidates, it))
        .collect();
    others.sort_by(|a, b| a.cost.total().total_cmp(&b.cost.total()));
    others.insert(0, weigh(ask, candidates, chosen));
    others
}

impl Cost {
    pub fn total(&self) -> f64 {
        self.queue + self.prefill + self.transfer + self.decode + self.memory
    }

    /// One worker does all. Its running sequences wait while it computes the
    /// prompt, each of them as long as this one.
    fn undivided(ask: &Ask<'_>, worker: &Candidate) -> Cost {
        let prefill = ask.uncached(worker) as f64 / prefill_rate(worker);
        Cost {
            queue: queue(worker),
            prefill,
            transfer: 0.0,
            decode: decode(worker) + prefill * f64::from(worker.load.sequences),
            memory: memory(ask, worker),
        }
    }

    fn of_prefill(ask: &Ask<'_>, worker: &Candidate) -> Cost {
        Cost {
            queue: queue(worker),
            prefill: ask.uncached(worker) as f64 / prefill_rate(worker),
            ..Cost::default()
        }
    }

    /// Of decoding what another worker computes.
    fn of_decode(ask: &Ask<'_>, worker: &Candidate) -> Cost {
        Cost {
            transfer: SPLIT_MS + ask.uncached(worker) as f64 * TRANSFER_MS_PER_TOKEN,
            decode: decode(worker),
            memory: memory(ask, worker),
            ..Cost::default()
        }
    }
}

impl std::ops::Add for Cost {
    type Output = Cost;

    fn add(self, other: Cost) -> Cost {
        Cost {
            queue: self.queue + other.queue,
            prefill: self.prefill + other.prefill,
            transfer: self.transfer + other.transfer,
            decode: self.decode + other.decode,
            memory: self.memory + other.memory,
        }
    }
}

fn queue(worker: &Candidate) -> f64 {
    worker.load.queued_tokens as f64 / prefill_rate(worker)
}

/// One step per sequence that shares the worker.
fn decode(worker: &Candidate) -> f64 {
    step_ms(worker) * f64::from(worker.load.sequences)
}

/// Blocks that are missing come free about one a step.
fn memory(ask: &Ask<'_>, worker: &Candidate) -> f64 {
    let needed = ask.uncached(worker).div_ceil(ask.block_size.max(1));
    let missing = needed.saturating_sub(worker.load.free_blocks as usize);
    missing as f64 * step_ms(worker)
}

/// Tokens per millisecond.
fn prefill_rate(worker: &Candidate) -> f64 {
    let rate = f64::from(worker.load.prefill_tokens_per_second) / 1000.0;
    if rate > 0.0 && rate.is_finite() {
        rate
    } else {
        UNKNOWN_PREFILL_TOKENS_PER_MS
    }
}

fn step_ms(worker: &Candidate) -> f64 {
    let step = f64::from(worker.load.decode_step_ms);
    if step > 0.0 && step.is_finite() {
        step
    } else {
        UNKNOWN_DECODE_STEP_MS
    }
}
