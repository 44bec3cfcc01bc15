//! What an option costs, in milliseconds, and the policy that takes the
//! cheapest.
//!
//! The cost of a split option is a sum of what its prefill worker costs and what
//! its decode worker costs, so that the best pair is the best of each: time is
//! linear in the number of workers.

use std::time::Duration;

use super::{Ask, Candidate, Choice, Load, Parts, Policy};

/// Rates assumed while no worker has reported any.
const UNKNOWN_PREFILL_MS: f64 = 0.1;
const UNKNOWN_STEP_MS: f64 = 10.0;
/// KV between two workers of one cluster, per token.
const TRANSFER_MS_PER_TOKEN: f64 = 0.005;
/// Two calls instead of one.
const SPLIT_MS: f64 = 1.0;
/// A millisecond's pause of a running answer weighs so much of a millisecond's
/// wait for a first token: of an answer's many tokens it delays one.
const PAUSE: f64 = 0.03;
/// What is computed keeps others waiting, and takes the place of blocks for which
/// somebody may come back: beside its own time so much of it counts.
const OTHERS: f64 = 0.5;
/// A sequence beside it makes each step slower, but little: of a step's time so
/// much counts for each.
const BESIDE: f64 = 0.25;
/// A worker meant for decoding computes what takes no longer than so many of its
/// steps, if that is cheaper than to send for it.
const SHORT_STEPS: f64 = 4.0;
/// What is longer costs it so many times its own time besides: it computes what
/// those meant for it would keep waiting for longer than that.
const OUT_OF_ROLE: f64 = 2.0;
/// A millisecond more between an answer's tokens weighs as much as so many before
/// the first.
const STREAM: f64 = 30.0;
/// What is beyond an objective counts so much more.
const MISSED: f64 = 4.0;
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
    /// What others wait for it.
    pub others: f64,
    /// What the sequence and the decode worker's load slow each other down.
    pub decode: f64,
    /// For how slowly the answer's tokens follow one another.
    pub stream: f64,
    /// Of work that the worker is not meant for.
    pub role: f64,
    /// Of objectives that would be missed.
    pub objectives: f64,
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
        let costs = Costs::new(ask, candidates);
        let mut alone = Cheapest::new(ask.random);
        let mut prefill = Cheapest::new(ask.random);
        let mut decode = Cheapest::new(ask.random);
        for (at, candidate) in candidates.iter().enumerate() {
            if costs.parts.prefills(candidate) {
                prefill.offer(at, costs.of_prefill(candidate).total());
            }
            if !costs.parts.decodes(candidate) {
                continue;
            }
            if costs.computes_alone(candidate) && costs.at_least(candidate) <= alone.limit() {
                alone.offer(at, costs.undivided(candidate).total());
            }
            if costs.sends_for(candidate) {
                decode.offer(at, costs.of_decode(candidate).total());
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

    fn holds(&self) -> bool {
        true
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

    /// What costs more need not be offered.
    fn limit(&self) -> f64 {
        self.cost() + SAME_MS
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
    Costs::new(ask, candidates).weigh(candidates, choice)
}

/// The options there were besides `chosen`, which comes first; the others with
/// the cheapest first. Of split options those that share a worker with the
/// chosen one.
pub fn options(ask: &Ask<'_>, candidates: &[Candidate], chosen: Choice) -> Vec<PlanOption> {
    let costs = Costs::new(ask, candidates);
    let parts = costs.parts;
    let with = |at: usize| {
        let candidate = &candidates[at];
        let alone = parts.decodes(candidate) && costs.computes_alone(candidate);
        let decodes = parts.decodes(candidate) && costs.sends_for(candidate);
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
        .map(|it| costs.weigh(candidates, it))
        .collect();
    others.sort_by(|a, b| a.cost.total().total_cmp(&b.cost.total()));
    others.insert(0, costs.weigh(candidates, chosen));
    others
}

/// What it takes to weigh the options for one sequence.
struct Costs<'a> {
    ask: &'a Ask<'a>,
    parts: Parts,
    /// Some worker has reported a rate of each kind.
    are_known: bool,
    /// Means of the rates that are known, for workers whose are not: a new
    /// worker is taken for one like the others.
    prefill_ms: f64,
    step_ms: f64,
    /// Objectives; infinite: there is none.
    first_token_ms: f64,
    inter_token_ms: f64,
}

impl<'a> Costs<'a> {
    fn new(ask: &'a Ask<'a>, candidates: &[Candidate]) -> Costs<'a> {
        let is_known = |it: &Candidate| it.load.prefill_ms > 0.0 && it.load.step_ms > 0.0;
        // Of no use where all are known, and then not worth another look at each.
        let means = match candidates.iter().all(is_known) {
            true => (None, None),
            false => (
                mean(candidates, |load| load.prefill_ms),
                mean(candidates, |load| load.step_ms),
            ),
        };
        Costs {
            ask,
            parts: Parts::of(ask, candidates),
            are_known: candidates.first().is_some_and(is_known)
                || (means.0.is_some() && means.1.is_some()),
            prefill_ms: means.0.unwrap_or(UNKNOWN_PREFILL_MS),
            step_ms: means.1.unwrap_or(UNKNOWN_STEP_MS),
            first_token_ms: ask.first_token.map_or(f64::INFINITY, in_ms),
            inter_token_ms: ask.inter_token.map_or(f64::INFINITY, in_ms),
        }
    }

    fn weigh(&self, candidates: &[Candidate], choice: Choice) -> PlanOption {
        let decode = &candidates[choice.decode];
        let cost = match choice.prefill {
            Some(prefill) => self.of_prefill(&candidates[prefill]) + self.of_decode(decode),
            None => self.undivided(decode),
        };
        let computes = &candidates[choice.computes()];
        PlanOption {
            choice,
            cached_tokens: self.ask.prompt_tokens - self.ask.uncached(computes),
            cost,
        }
    }

    /// Whether `worker`, which decodes, may compute the prompt too. Until something
    /// is known of their speed, workers keep to their roles.
    fn computes_alone(&self, worker: &Candidate) -> bool {
        self.are_known || self.parts.computes_alone(self.ask, worker)
    }

    /// Whether `worker`, which decodes, may have the prompt computed elsewhere.
    fn sends_for(&self, worker: &Candidate) -> bool {
        !self.parts.computes_alone(self.ask, worker)
    }

    /// Less than [`Costs::undivided`], and sooner known.
    fn at_least(&self, worker: &Candidate) -> f64 {
        let first_token = self.queue(worker) + (1.0 + OTHERS) * self.prefill(worker);
        first_token + STREAM * self.inter_token_ms(worker)
    }

    /// One worker does all. Its running sequences pause while it computes the
    /// prompt.
    fn undivided(&self, worker: &Candidate) -> Cost {
        let (queue, prefill) = (self.queue(worker), self.prefill(worker));
        let pauses = PAUSE * f64::from(running(worker));
        Cost {
            queue,
            prefill,
            others: (OTHERS + pauses) * prefill,
            role: self.out_of_role(worker, prefill),
            objectives: self.late(queue + prefill),
            ..Cost::default()
        } + self.generate(worker)
    }

    fn of_prefill(&self, worker: &Candidate) -> Cost {
        let (queue, prefill) = (self.queue(worker), self.prefill(worker));
        Cost {
            queue,
            prefill,
            others: OTHERS * prefill,
            objectives: self.late(queue + prefill),
            ..Cost::default()
        }
    }

    /// Of decoding what another worker computes.
    fn of_decode(&self, worker: &Candidate) -> Cost {
        Cost {
            transfer: SPLIT_MS + self.uncached(worker) * TRANSFER_MS_PER_TOKEN,
            ..Cost::default()
        } + self.generate(worker)
    }

    /// Of what comes after the prompt.
    fn generate(&self, worker: &Candidate) -> Cost {
        let inter_token = self.inter_token_ms(worker);
        Cost {
            // For every sequence that shares the worker.
            decode: BESIDE * self.step_ms(worker) * f64::from(worker.load.sequences),
            stream: STREAM * inter_token,
            objectives: MISSED * STREAM * (inter_token - self.inter_token_ms).max(0.0),
            memory: self.memory(worker),
            ..Cost::default()
        }
    }

    /// What it costs a worker meant for decoding to compute for so long.
    fn out_of_role(&self, worker: &Candidate, prefill: f64) -> f64 {
        let short = SHORT_STEPS * self.step_ms(worker);
        match prefill <= short || self.parts.computes_alone(self.ask, worker) {
            true => 0.0,
            false => OUT_OF_ROLE * prefill,
        }
    }

    /// What it costs that the first token comes after so long.
    fn late(&self, first_token: f64) -> f64 {
        MISSED * (first_token - self.first_token_ms).max(0.0)
    }

    fn prefill(&self, worker: &Candidate) -> f64 {
        self.uncached(worker) * self.prefill_ms(worker)
    }

    /// What waits there drains as it lately did, which is slower than prefill
    /// where sequences wait for memory.
    fn queue(&self, worker: &Candidate) -> f64 {
        f64::from(worker.load.queued_tokens) * larger(worker.load.drain_ms, self.prefill_ms(worker))
    }

    /// Blocks that are missing come free about one a step. A worker that has not
    /// reported is taken to have them.
    fn memory(&self, worker: &Candidate) -> f64 {
        let block_size = self.ask.block_size.max(1);
        let free = worker.load.free_blocks as usize * block_size;
        let missing = self.ask.uncached(worker).saturating_sub(free);
        if missing == 0 || worker.load.total_blocks == 0 {
            return 0.0;
        }
        missing.div_ceil(block_size) as f64 * self.step_ms(worker)
    }

    /// Tokens. No prompt has more than 32 bits count, whose conversion is fast.
    fn uncached(&self, worker: &Candidate) -> f64 {
        f64::from(self.ask.uncached(worker) as u32)
    }

    /// Of one token.
    fn prefill_ms(&self, worker: &Candidate) -> f64 {
        known(worker.load.prefill_ms).unwrap_or(self.prefill_ms)
    }

    fn step_ms(&self, worker: &Candidate) -> f64 {
        known(worker.load.step_ms).unwrap_or(self.step_ms)
    }

    /// As it lately was; but what a worker with nothing to do last saw says nothing
    /// of what it would do now.
    fn inter_token_ms(&self, worker: &Candidate) -> f64 {
        let step = self.step_ms(worker);
        match running(worker) > 0 {
            true => larger(worker.load.inter_token_ms, step),
            false => step,
        }
    }
}

impl Cost {
    pub fn total(&self) -> f64 {
        let first = self.queue + self.prefill + self.transfer + self.memory;
        first + self.others + self.decode + self.stream + self.role + self.objectives
    }
}

impl std::ops::Add for Cost {
    type Output = Cost;

    fn add(self, other: Cost) -> Cost {
        Cost {
            queue: self.queue + other.queue,
            prefill: self.prefill + other.prefill,
            transfer: self.transfer + other.transfer,
            others: self.others + other.others,
            decode: self.decode + other.decode,
            stream: self.stream + other.stream,
            role: self.role + other.role,
            objectives: self.objectives + other.objectives,
            memory: self.memory + other.memory,
        }
    }
}

/// Sequences that decode there.
fn running(worker: &Candidate) -> u32 {
    worker.load.sequences.saturating_sub(worker.load.waiting)
}

fn in_ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Of two numbers, neither of which is NaN, which makes it fast.
fn larger(a: f64, b: f64) -> f64 {
    if a > b { a } else { b }
}

/// A time that was reported; `None` if there is none yet.
fn known(ms: f64) -> Option<f64> {
    (ms > 0.0).then_some(ms)
}

/// Of the times that are known.
fn mean(candidates: &[Candidate], of: impl Fn(&Load) -> f64) -> Option<f64> {
    let times = candidates.iter().filter_map(|it| known(of(&it.load)));
    let (sum, count) = times.fold((0.0, 0u32), |(sum, count), it| (sum + it, count + 1));
    (count > 0).then(|| sum / f64::from(count))
}
