//! What the engine refuses and how it fails.

use crate::request::{Output, SequenceId};
use crate::runner::RunError;

/// Why a request was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    /// Another worker, or this one later, may take it.
    #[error("{waiting} sequences are waiting already; try again later")]
    Busy { waiting: usize },
    /// It can never run here.
    #[error(
        "the prompt has {tokens} tokens, the most that leave room for an answer are {limit}; shorten it"
    )]
    PromptTooLong { tokens: usize, limit: usize },
    #[error("{0}")]
    Invalid(String),
}

/// Why imported KV was not taken. What was imported before stays; go on with
/// [`Engine::import_failed`](crate::Engine::import_failed).
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// Aborted, unknown, or no longer waiting for KV.
    #[error("the sequence expects no kv blocks")]
    NotReceiving,
    #[error("kv block {got} came where block {expected} was due")]
    OutOfOrder { expected: usize, got: usize },
    #[error("kv block {block} came, the prompt has {blocks}")]
    PastEnd { block: usize, blocks: usize },
    #[error("kv block {block} has {got} bytes, not {expected}; both workers must run one model")]
    WrongSize {
        block: usize,
        expected: usize,
        got: usize,
    },
    #[error("kv ended at block {got} of {blocks}")]
    Incomplete { got: usize, blocks: usize },
    #[error("first token {0} is outside of the vocabulary; both workers must run one model")]
    InvalidToken(u32),
    #[error(transparent)]
    Run(#[from] RunError),
}

/// A step failed. The sequences in it are gone, their blocks free; all others
/// go on.
#[derive(Debug, thiserror::Error)]
#[error("engine step of {} sequences failed: {source}", lost.len())]
pub struct StepError {
    pub source: RunError,
    /// The sequences that were in the step.
    pub lost: Vec<SequenceId>,
    /// What the step told of sequences before it failed.
    pub outputs: Vec<Output>,
}
