//! Planning restated as numbers in, choice out: which workers compute and
//! decode a sequence.
//!
//! Pure: filter, cost, pick. The cost of an option is in milliseconds: wait in
//! the queue, prefill of what is not cached there, transfer of what the decode
//! worker lacks, and the decode time that the worker's load implies. Rates come
//! from the workers' own reports, so nobody tunes weights.

mod cost;
#[cfg(test)]
mod tests;

use kvcache_index::WorkerSlot;

pub use cost::Cost;

/// What a worker is meant for. A preference: with nobody else left, every
/// worker does everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Prefill,
    Decode,
    Both,
}

impl Role {
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Prefill => "prefill",
            Role::Decode => "decode",
            Role::Both => "both",
        }
    }
}

/// What is to be placed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ask {
    /// Tokens whose KV must exist before the next one is drawn.
    pub prompt_tokens: usize,
    /// Tokens that may still be generated.
    pub max_tokens: usize,
    pub block_size: usize,
    /// Whether prefill and decode may run on different workers.
    pub may_split: bool,
}

/// A worker that serves the model, is connected and takes work.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    pub worker: WorkerSlot,
    pub role: Role,
    /// Tokens at the start of the prompt whose KV it holds.
    pub cached_tokens: usize,
    pub load: Load,
}

/// A worker's load: as it last reported, plus what this router has sent since.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Load {
    /// Prompt tokens waiting to be computed.
    pub queued_tokens: u64,
    /// Sequences running or waiting.
    pub sequences: u32,
    pub free_blocks: u32,
    /// 0: unknown.
    pub prefill_tokens_per_second: f32,
    /// 0: unknown.
    pub decode_step_ms: f32,
}

/// Where a sequence runs.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    pub decode: WorkerSlot,
    /// Computes the prompt's KV for `decode`; `None`: `decode` does so itself.
    pub prefill: Option<WorkerSlot>,
    /// Every option that was weighed, the chosen one first.
    pub options: Vec<PlanOption>,
}

/// One way to place the sequence, and what it would cost.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PlanOption {
    pub decode: WorkerSlot,
    pub prefill: Option<WorkerSlot>,
    /// Prompt tokens that need not be computed.
    pub cached_tokens: usize,
    pub cost: Cost,
}

/// The cheapest placement of `ask`, or `None` without candidates. Among equals
/// the one that `salt` points at, so that equal workers share the load.
pub fn plan(ask: &Ask, candidates: &[Candidate], salt: u64) -> Option<Plan> {
    let mut options = options(ask, candidates);
    let chosen = cheapest(&options, salt)?;
    options.swap(0, chosen);
    options[1..].sort_by(|a, b| a.cost.total().total_cmp(&b.cost.total()));
    Some(Plan {
        decode: options[0].decode,
        prefill: options[0].prefill,
        options,
    })
}

fn options(ask: &Ask, candidates: &[Candidate]) -> Vec<PlanOption> {
    let mut options = Vec::new();
    let prefillers = prefillers(ask, candidates);
    for decode in decoders(candidates) {
        let alone = decode.role == Role::Both
            || prefillers.is_empty()
            || uncached(ask, decode) <= ask.block_size;
        if alone {
            options.push(PlanOption {
                decode: decode.worker,
                prefill: None,
                cached_tokens: ask.prompt_tokens - uncached(ask, decode),
                cost: Cost::undivided(ask, decode),
            });
            continue;
        }
        options.extend(prefillers.iter().map(|prefill| PlanOption {
            decode: decode.worker,
            prefill: Some(prefill.worker),
            cached_tokens: ask.prompt_tokens - uncached(ask, prefill),
            cost: Cost::split(ask, prefill, decode),
        }));
    }
    options
}

/// Workers meant to decode; without any, all.
fn decoders(candidates: &[Candidate]) -> Vec<&Candidate> {
    let meant: Vec<_> = candidates
        .iter()
        .filter(|candidate| candidate.role != Role::Prefill)
        .collect();
    if meant.is_empty() {
        candidates.iter().collect()
    } else {
        meant
    }
}

/// Workers that compute prompts for others; none if the sequence may not be
/// split, or nobody else is there to decode.
fn prefillers<'a>(ask: &Ask, candidates: &'a [Candidate]) -> Vec<&'a Candidate> {
    let decodable = candidates.iter().any(|c| c.role != Role::Prefill);
    candidates
        .iter()
        .filter(|candidate| ask.may_split && decodable && candidate.role == Role::Prefill)
        .collect()
}

/// Prompt tokens that `candidate` would have to compute: at least one, whose
/// logits give the next token.
fn uncached(ask: &Ask, candidate: &Candidate) -> usize {
    let cached = candidate
        .cached_tokens
        .min(ask.prompt_tokens.saturating_sub(1));
    ask.prompt_tokens - cached
}

fn cheapest(options: &[PlanOption], salt: u64) -> Option<usize> {
    const SAME_MS: f64 = 1e-6;
    let least = options
        .iter()
        .map(|option| option.cost.total())
        .min_by(f64::total_cmp)?;
    let equals: Vec<usize> = (0..options.len())
        .filter(|&i| options[i].cost.total() <= least + SAME_MS)
        .collect();
    equals
        .get((salt % equals.len().max(1) as u64) as usize)
        .copied()
}
