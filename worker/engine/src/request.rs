//! What the engine is asked to do, and what it answers.

use std::sync::Arc;

use kvcache_index::{BlockHash, HashScope};

use crate::constraint::{Constraint, Violation};

/// A sequence's number, given by the caller, unique in the engine's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SequenceId(pub u64);

/// One sequence to run.
#[derive(Clone, Debug)]
pub struct Request {
    pub id: SequenceId,
    /// The prompt, and after it the tokens that another worker generated.
    pub tokens: Vec<u32>,
    /// How many of `tokens`, at the end, were generated before. Token indices,
    /// penalties and limits go on from there.
    pub resumed_tokens: usize,
    /// Higher is more urgent.
    pub priority: i32,
    pub sampling: SamplingParams,
    /// What all generated tokens obey, those of other workers too.
    pub constraint: Option<Arc<dyn Constraint>>,
    /// Blocks are shared with sequences of equal scope.
    pub scope: HashScope,
    /// Identities in `scope` of the first full blocks of `tokens`, if the caller
    /// has computed them; those that are missing are computed when needed.
    pub hashes: Vec<BlockHash>,
    pub kv: KvSource,
    pub purpose: Purpose,
}

/// Where the KV of a sequence's prompt comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvSource {
    /// Computed here, but for cached blocks.
    Compute,
    /// Imported, but for cached blocks: the engine answers
    /// [`Output::Receiving`] and waits for the blocks.
    Receive,
}

/// What a sequence is run for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Run to its end.
    Generate,
    /// Compute the prompt and draw one token; then keep the blocks for export
    /// until released.
    HandOver,
    /// Compute the prompt and make one vector of its final hidden states; no
    /// token is drawn.
    Embed(Pooling),
}

/// Which final hidden states make an embedding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// The last token's.
    Last,
    /// The mean of all tokens'.
    Mean,
}

/// How tokens are drawn. Token `i` of a sequence is a function of logits, seed
/// and `i` alone: a sequence that moves to another worker goes on unchanged.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingParams {
    /// 0 is greedy.
    pub temperature: f32,
    /// 1 is off.
    pub top_p: f32,
    /// 0 is off.
    pub top_k: u32,
    /// 0 is off.
    pub min_p: f32,
    pub seed: u64,
    /// 1 is off; over prompt and generated tokens (Keskar et al. 2019, CTRL).
    pub repetition_penalty: f32,
    /// 0 is off; over generated tokens, as OpenAI defines them.
    pub presence_penalty: f32,
    pub frequency_penalty: f32,
    /// Go on past the model's end-of-text tokens.
    pub ignore_eos: bool,
    /// What is said of single tokens.
    pub tokens: TokenRules,
    pub stop_token_ids: Vec<u32>,
    /// Alternatives reported with each token; `None`: no logprobs.
    pub logprobs: Option<u32>,
    /// As `logprobs`, for the prompt; such a sequence reads no cached prefix.
    pub prompt_logprobs: Option<u32>,
    /// Generated tokens at most, resumed ones counted in. 0 only scores the
    /// prompt.
    pub max_tokens: usize,
    /// No end-of-text or stop token is among so many first tokens.
    pub min_tokens: usize,
}

/// What a request says of single tokens, whatever comes before them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TokenRules {
    /// Added to the logits of these tokens.
    pub bias: Vec<(u32, f32)>,
    /// Nothing else is drawn, but for the model's end-of-text tokens; empty:
    /// everything may be.
    pub allowed: Vec<u32>,
    /// Sequences of tokens whose last one is not drawn after the others.
    pub banned: Vec<Vec<u32>>,
}

/// A token that was drawn (or, of a prompt, that was there).
#[derive(Clone, Debug, PartialEq)]
pub struct Sampled {
    pub token: u32,
    /// Natural logarithm, of the model's distribution before temperature and
    /// filters; only if asked for.
    pub logprob: Option<f32>,
    /// The most likely tokens, best first.
    pub top: Vec<TopLogprob>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TopLogprob {
    pub token: u32,
    pub logprob: f32,
}

/// Why a sequence ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// It drew an end-of-text or stop token, which is its last token.
    Stop,
    /// It reached `max_tokens` or the model's context length.
    Length,
}

/// What the engine tells of a sequence.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// It was scheduled for the first time; so many prompt tokens were cached.
    Started {
        id: SequenceId,
        cached_tokens: usize,
    },
    /// Its blocks are allocated: import the prompt's KV from `first_block` on.
    Receiving { id: SequenceId, first_block: usize },
    /// Tokens were drawn; `index` counts generated tokens of the sequence.
    Tokens {
        id: SequenceId,
        index: usize,
        tokens: Vec<Sampled>,
    },
    /// Of prompt tokens from `index` on; the prompt's first token has none.
    PromptLogprobs {
        id: SequenceId,
        index: usize,
        tokens: Vec<Sampled>,
    },
    /// Of a [`Purpose::Embed`] sequence: `[hidden_size]`, of length 1 (L2).
    Embedding { id: SequenceId, values: Vec<f32> },
    /// A [`Purpose::HandOver`] sequence has computed its prompt and drawn its
    /// token; it keeps its blocks until released. That token may end the
    /// sequence: there is no [`Output::Finished`] here even then, the importing
    /// engine gives it.
    HandOver { id: SequenceId },
    /// It ended and holds no block.
    Finished { id: SequenceId, reason: Finish },
    /// Its constraint can't be followed any further; it holds no block.
    Failed {
        id: SequenceId,
        violation: Violation,
    },
}

impl Output {
    /// The sequence it tells of.
    pub fn id(&self) -> SequenceId {
        match self {
            Output::Started { id, .. }
            | Output::Receiving { id, .. }
            | Output::Tokens { id, .. }
            | Output::PromptLogprobs { id, .. }
            | Output::Embedding { id, .. }
            | Output::HandOver { id }
            | Output::Finished { id, .. }
            | Output::Failed { id, .. } => *id,
        }
    }
}
