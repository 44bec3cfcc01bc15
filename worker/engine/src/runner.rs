//! The engine's side of a device: it runs what was scheduled and decides
//! nothing.

use std::ops::Range;
use std::time::Duration;

use crate::constraint::{Constraint, Violation};
use crate::request::{Sampled, SamplingParams, SequenceId};

/// A KV block's number in the device's pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockId(pub u32);

/// One engine step: for each sequence in it, tokens to compute.
#[derive(Debug, Default)]
pub struct Step<'a> {
    pub chunks: Vec<Chunk<'a>>,
}

/// One sequence's part of a step.
#[derive(Debug)]
pub struct Chunk<'a> {
    pub id: SequenceId,
    /// All tokens of the sequence so far, prompt and generated.
    pub tokens: &'a [u32],
    /// How many at the start of `tokens` are the prompt (not generated).
    pub prompt_len: usize,
    /// KV of `tokens[..start]` is in the blocks already.
    pub start: usize,
    /// Compute KV of `tokens[start..end]`.
    pub end: usize,
    /// Blocks of the sequence; position p lies in `blocks[p / block_size]`.
    pub blocks: &'a [BlockId],
    /// Draw the token after `tokens[end - 1]`: set exactly when `end` is the
    /// number of tokens and another token is wanted.
    pub sample: bool,
    /// Report logprobs of prompt tokens `start + 1 ..= end` that are there.
    pub prompt_logprobs: bool,
    pub sampling: &'a SamplingParams,
    /// What the token drawn obeys, given those generated before.
    pub constraint: Option<&'a dyn Constraint>,
    /// Give the final hidden states of these tokens, which are in `start..end`.
    pub pooled: Range<usize>,
}

/// What a step gave, in the order of its chunks.
#[derive(Debug, Default)]
pub struct StepResult {
    /// The token drawn, for chunks with `sample`.
    pub sampled: Vec<Option<Sampled>>,
    /// Why chunks with `sample`, by their place in the step, have no token.
    pub violations: Vec<(usize, Violation)>,
    /// Final hidden states, `[tokens, hidden_size]`, for chunks with `pooled`, by
    /// their place in the step.
    pub pooled: Vec<(usize, Vec<f32>)>,
    /// Of prompt tokens `start + 1..`, for chunks with `prompt_logprobs`.
    pub prompt_logprobs: Vec<Vec<Sampled>>,
    /// How long the step takes on the device that is simulated; `None` from a
    /// real device, whose caller measures it.
    pub simulated: Option<Duration>,
}

/// What a runner is, constant in its life.
#[derive(Clone, Debug, PartialEq)]
pub struct RunnerShape {
    pub vocab_size: usize,
    /// Longest sequence, prompt and completion together.
    pub max_model_len: usize,
    pub block_size: usize,
    pub total_blocks: usize,
    /// End-of-text tokens of the model.
    pub eos_token_ids: Vec<u32>,
    pub kv: KvShape,
}

/// The wire form of a block's KV: `[layers][k, v][block_size][kv_heads]
/// [head_dim]` of `dtype`, little endian; of int8 with scales in f32 after each
/// `[head_dim]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KvShape {
    pub layers: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    /// "f32", "bf16", "int8" or "sim".
    pub dtype: &'static str,
    /// Bytes of one block.
    pub block_bytes: usize,
}

/// A device and a model on it.
pub trait Runner: Send {
    fn shape(&self) -> &RunnerShape;

    /// Computes a step. Results of a sequence don't depend on what else is in
    /// the step, nor on how its tokens were cut into steps.
    fn run(&mut self, step: &Step<'_>) -> Result<StepResult, RunError>;

    /// Makes block `to` what block `from` is.
    fn copy_block(&mut self, from: BlockId, to: BlockId) -> Result<(), RunError> {
        let mut bytes = Vec::with_capacity(self.shape().kv.block_bytes);
        self.export_block(from, &mut bytes)?;
        self.import_block(to, &bytes)
    }

    /// Appends the wire form of `block` to `out`.
    fn export_block(&self, block: BlockId, out: &mut Vec<u8>) -> Result<(), RunError>;

    /// Fills `block` from its wire form.
    fn import_block(&mut self, block: BlockId, bytes: &[u8]) -> Result<(), RunError>;
}

/// The device or model failed; the sequences of the step are lost.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct RunError(pub String);
