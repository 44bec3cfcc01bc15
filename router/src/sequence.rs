//! One sequence to generate, and what comes back of it: the vocabulary between
//! the router's edge (HTTP, gRPC) and its core (plan, dispatch).

use std::sync::Arc;

use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};

use crate::constraint::Constraint;
use crate::error::ApiError;
use crate::objectives::Objectives;
use crate::tokenize::Model;
use crate::tools::ToolFormat;

/// What all sequences of a request have in common.
#[derive(Clone, Debug)]
pub struct Origin {
    pub request_id: Arc<str>,
    pub objectives: Arc<Objectives>,
    pub session: Option<u64>,
    pub is_explained: bool,
}

impl Origin {
    /// Of no session, and with no wish for explanations.
    pub fn plain(request_id: Arc<str>, objectives: Arc<Objectives>) -> Origin {
        Origin {
            request_id,
            objectives,
            session: None,
            is_explained: false,
        }
    }
}

/// A tokenised prompt and how to continue it. A request with `n` completions or
/// several prompts becomes several sequences.
#[derive(Clone, Debug)]
pub struct Sequence {
    /// Of the request; equal for all its sequences.
    pub request_id: Arc<str>,
    /// Of the request likewise.
    pub objectives: Arc<Objectives>,
    /// Number of this sequence within the request.
    pub choice: usize,
    pub model: Arc<Model>,
    pub prompt: Arc<[u32]>,
    pub sampling: Sampling,
    /// What the whole text obeys.
    pub constraint: Option<Arc<Constraint>>,
    /// What is wanted is an embedding of the prompt.
    pub pooling: Option<Pooling>,
    /// How the model writes tool calls.
    pub tool_format: ToolFormat,
    /// Part of every KV block's identity: prefixes are shared only between
    /// requests of equal salt.
    pub cache_salt: Arc<str>,
    /// Equal for requests of one session, if the client names it.
    pub session: Option<u64>,
    /// Whether the client wants to know why workers were chosen.
    pub is_explained: bool,
}

/// How tokens are drawn; all defaults are filled in. With a fixed seed token
/// `i` is a function of logits, seed and `i`, so that a sequence that moves to
/// another worker goes on unchanged.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// 0 is greedy.
    pub temperature: f32,
    /// 1 is off.
    pub top_p: f32,
    /// 0 is off.
    pub top_k: u32,
    /// 0 is off.
    pub min_p: f32,
    pub seed: u64,
    /// 1 is off.
    pub repetition_penalty: f32,
    pub presence_penalty: f32,
    pub frequency_penalty: f32,
    pub ignore_eos: bool,
    /// Added to the logits of these tokens.
    pub logit_bias: Vec<(u32, f32)>,
    /// Nothing else is drawn; empty: everything may be.
    pub allowed_token_ids: Vec<u32>,
    /// Sequences of tokens that are not completed.
    pub banned: Vec<Vec<u32>>,
    pub stop_token_ids: Vec<u32>,
    /// Alternatives reported with each token; `None`: no logprobs.
    pub logprobs: Option<u32>,
    /// As `logprobs`, for the prompt.
    pub prompt_logprobs: Option<u32>,
    /// Already limited to what the model's context leaves.
    pub max_tokens: usize,
    pub min_tokens: usize,
}

/// Which final hidden states make an embedding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Pooling {
    /// The last token's
    Last,
    /// The mean of all tokens'
    Mean,
}

/// What happens to a sequence, in order. Every index appears once: retries and
/// migration don't show.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A worker has begun. Prompt tokens whose KV was reused, not computed for
    /// this request; comes again, before any token, if another worker had to
    /// begin anew.
    Started { cached_tokens: usize },
    /// Of the prompt's tokens, in order; the first has no logprob. Comes before
    /// any token, only if asked for.
    PromptLogprobs(Vec<Token>),
    /// The next generated tokens.
    Tokens(Vec<Token>),
    /// Of the prompt, if that is what is wanted.
    Embedding(Vec<f32>),
    /// The last event.
    Finished(FinishReason),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Token {
    pub id: u32,
    /// Natural logarithm; only if asked for.
    pub logprob: Option<f32>,
    /// Most likely tokens, best first.
    pub top: Vec<(u32, f32)>,
}

/// How a sequence ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// An end-of-text or stop token, which is the last token.
    Stop,
    /// `max_tokens` or the end of the context.
    Length,
}

/// A sequence's events. Dropping the stream cancels the sequence and releases
/// all it holds.
pub type Events = BoxStream<'static, Result<Event, ApiError>>;
