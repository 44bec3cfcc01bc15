//! Planning restated as numbers in, choice out: which workers compute and
//! decode a sequence.
//!
//! Pure: a [`Policy`] sees what is to be placed and the workers that could take
//! it, and picks. `cost`, the default, weighs every option in milliseconds; the
//! simple policies are there for comparison and for those who want them. All of
//! them are in one table, [`policy::POLICIES`], from which the router and the
//! cluster simulator take them by name.

pub mod cost;
pub mod policy;
#[cfg(test)]
mod tests;

use std::time::Duration;

use kvcache_index::WorkerSlot;

pub use cost::Cost;
pub use policy::{Policy, PolicyName};

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

/// What is to be placed, and when.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ask<'a> {
    /// Tokens whose KV must exist before the next one is drawn.
    pub prompt_tokens: usize,
    /// Tokens that may still be generated.
    pub max_tokens: usize,
    /// Objectives: the time left until the first token, and the time between two.
    pub first_token: Option<Duration>,
    pub inter_token: Option<Duration>,
    pub block_size: usize,
    /// Whether prefill and decode may run on different workers.
    pub may_split: bool,
    /// Identities of the prompt's full blocks, in order.
    pub hashes: &'a [u64],
    /// Equal for requests of one session, if the client names it.
    pub session: Option<u64>,
    /// From an origin that stays the same.
    pub now: Duration,
    /// Evenly distributed, new for every call.
    pub random: u64,
}

/// A worker that serves the model, is connected and takes work.
#[derive(Clone, Copy, Debug, PartialEq)]
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
    pub queued_tokens: u32,
    /// Sequences running or waiting.
    pub sequences: u32,
    /// Those of them that wait, or are on their way.
    pub waiting: u32,
    pub free_blocks: u32,
    pub total_blocks: u32,
    /// Time that a prompt token takes; 0: unknown.
    pub prefill_ms: f64,
    /// Time that a queued token, cached ones counted in, takes while it has a
    /// queue; 0: unknown.
    pub drain_ms: f64,
    /// 0: unknown.
    pub step_ms: f64,
    /// Time between two tokens of a sequence there, lately, prompts computed in
    /// between counted in; 0: unknown.
    pub inter_token_ms: f64,
}

/// Where a sequence runs: positions in the list of candidates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    pub decode: usize,
    /// Computes the prompt's KV for `decode`; `None`: `decode` does so itself.
    pub prefill: Option<usize>,
}

impl Choice {
    pub fn undivided(worker: usize) -> Choice {
        Choice {
            decode: worker,
            prefill: None,
        }
    }

    /// Who computes the prompt.
    pub fn computes(&self) -> usize {
        self.prefill.unwrap_or(self.decode)
    }
}

impl Ask<'_> {
    /// Prompt tokens that `candidate` would have to compute: at least one, whose
    /// logits give the next token.
    pub fn uncached(&self, candidate: &Candidate) -> usize {
        let reusable = self.prompt_tokens.saturating_sub(1);
        self.prompt_tokens - candidate.cached_tokens.min(reusable)
    }
}

/// Which candidates may decode a sequence, and which may compute its prompt for
/// another: roles as far as they can be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parts {
    /// Somebody is meant to decode; else all do.
    decoders: bool,
    /// Prompts may be computed on workers meant for that.
    split: bool,
}

impl Parts {
    pub fn of(ask: &Ask<'_>, candidates: &[Candidate]) -> Parts {
        let prefillers = candidates.iter().filter(|it| it.role == Role::Prefill);
        let prefillers = prefillers.count();
        let (decoders, prefillers) = (prefillers < candidates.len(), prefillers > 0);
        Parts {
            decoders,
            split: ask.may_split && decoders && prefillers,
        }
    }

    /// Whether prompts are computed on workers meant for that.
    pub fn splits(&self) -> bool {
        self.split
    }

    pub fn decodes(&self, candidate: &Candidate) -> bool {
        !self.decoders || candidate.role != Role::Prefill
    }

    /// Whether it computes prompts for others.
    pub fn prefills(&self, candidate: &Candidate) -> bool {
        self.split && candidate.role == Role::Prefill
    }

    /// Whether `candidate`, which decodes, also computes the prompt: because it
    /// is meant to, nobody else is, or there is at most a block to compute.
    pub fn computes_alone(&self, ask: &Ask<'_>, candidate: &Candidate) -> bool {
        !self.split || candidate.role == Role::Both || ask.uncached(candidate) <= ask.block_size
    }
}
