//! The engine's runner over a real model: a step becomes batches, and logits
//! become tokens.

mod batches;
#[cfg(test)]
mod tests;

use std::sync::{Mutex, PoisonError};

use engine::constraint::{Ends, constrain};
use engine::sampling::{History, sample, sample_within, score};
use engine::{
    BlockId, Chunk, KvShape, RunError, Runner, RunnerShape, Sampled, Step, StepResult, TokenMask,
    Violation,
};
use models::{CausalLm, DeviceError};

use batches::{StepBatches, scored_rows};

/// Logits of a step from which on its tokens are drawn side by side: fewer are
/// drawn sooner than other threads have taken their part.
const SIDE_BY_SIDE: usize = 1 << 17;

/// What the model gives.
#[derive(Default)]
struct Outputs {
    /// `[outputs, vocab_size]`
    logits: Vec<f32>,
    /// `[pooled tokens, hidden_size]`
    states: Vec<f32>,
}

/// Runs steps on a model.
pub struct ModelRunner {
    model: Box<dyn CausalLm>,
    shape: RunnerShape,
    batches: StepBatches,
    /// Rows of a batch at most.
    rows_at_once: usize,
    /// Of the last step.
    outputs: Outputs,
    /// Of one of several batches.
    part: Outputs,
    /// What the last step's chunks might draw, where they are constrained.
    masks: Vec<TokenMask>,
    /// [`SIDE_BY_SIDE`], but in tests.
    side_by_side: usize,
}

impl ModelRunner {
    pub fn new(model: Box<dyn CausalLm>) -> Result<ModelRunner, RunError> {
        let (config, kv) = (model.config(), model.kv_shape());
        let shape = RunnerShape {
            vocab_size: config.vocab_size,
            max_model_len: model.max_model_len(),
            block_size: kv.block_size,
            total_blocks: kv.total_blocks,
            eos_token_ids: config.eos_token_ids.clone(),
            kv: KvShape {
                layers: kv.layers,
                kv_heads: kv.kv_heads,
                head_dim: kv.head_dim,
                dtype: kv.dtype.name(),
                block_bytes: kv.block_bytes().map_err(run_error)?,
            },
        };
        Ok(ModelRunner {
            rows_at_once: model.rows_at_once().max(1),
            model,
            shape,
            batches: StepBatches::default(),
            outputs: Outputs::default(),
            part: Outputs::default(),
            masks: Vec::new(),
            side_by_side: SIDE_BY_SIDE,
        })
    }
}

impl ModelRunner {
    /// Computes a step batch by batch: a chunk's later rows find the KV of those
    /// before them.
    fn forward(&mut self, step: &Step<'_>) -> Result<(), DeviceError> {
        self.batches.fill(step, self.rows_at_once);
        self.outputs.logits.clear();
        self.outputs.states.clear();
        for (index, batch) in self.batches.iter().enumerate() {
            let out = match index {
                0 => &mut self.outputs,
                _ => &mut self.part,
            };
            let Outputs { logits, states } = out;
            let (batch, pooled) = (batch.view(), batch.pooled());
            self.model
                .forward_with_hidden(&batch, pooled, (logits, states))?;
            if index > 0 {
                self.outputs.logits.append(&mut self.part.logits);
                self.outputs.states.append(&mut self.part.states);
            }
        }
        Ok(())
    }
}

impl Runner for ModelRunner {
    fn shape(&self) -> &RunnerShape {
        &self.shape
    }

    fn run(&mut self, step: &Step<'_>) -> Result<StepResult, RunError> {
        self.forward(step).map_err(run_error)?;
        let logits = self.outputs.logits.len();
        let mut rows = self.outputs.logits.chunks_mut(self.shape.vocab_size);
        let mut result = StepResult::default();
        let masks = self.masks.len().max(step.chunks.len());
        self.masks.resize_with(masks, TokenMask::default);
        let mut draws = Vec::with_capacity(step.chunks.len());
        for (chunk, mask) in step.chunks.iter().zip(&mut self.masks) {
            let scored = scored_rows(chunk)
                .zip(rows.by_ref())
                .map(|(row, logits)| score_prompt(chunk, row, logits))
                .collect();
            result.prompt_logprobs.push(scored);
            let logits = if chunk.sample { rows.next() } else { None };
            draws.push((chunk, logits, mask));
        }
        let eos = &self.shape.eos_token_ids;
        let draw = |(chunk, logits, mask): (&Chunk<'_>, Option<&mut [f32]>, &mut TokenMask)| {
            let drawn = logits.map(|logits| draw(chunk, logits, eos, mask));
            drawn.transpose()
        };
        let drawn: Vec<_> = match logits >= self.side_by_side {
            true => side_by_side(&*self.model, draws, draw),
            false => draws.into_iter().map(draw).collect(),
        };
        for (index, drawn) in drawn.into_iter().enumerate() {
            result.sampled.push(drawn.unwrap_or_else(|violation| {
                result.violations.push((index, violation));
                None
            }));
        }
        let hidden_size = self.model.config().hidden_size;
        let mut states = self.outputs.states.as_slice();
        for (index, chunk) in step.chunks.iter().enumerate() {
            let (own, rest) = states.split_at(chunk.pooled.len() * hidden_size);
            states = rest;
            if !own.is_empty() {
                result.pooled.push((index, own.to_vec()));
            }
        }
        Ok(result)
    }

    fn copy_block(&mut self, from: BlockId, to: BlockId) -> Result<(), RunError> {
        self.model.copy_block(from.0, to.0).map_err(run_error)
    }

    fn export_block(&self, block: BlockId, out: &mut Vec<u8>) -> Result<(), RunError> {
        self.model.export_block(block.0, out).map_err(run_error)
    }

    fn import_block(&mut self, block: BlockId, bytes: &[u8]) -> Result<(), RunError> {
        self.model.import_block(block.0, bytes).map_err(run_error)
    }
}

fn score_prompt(chunk: &Chunk<'_>, position: usize, logits: &[f32]) -> Sampled {
    let top = chunk.sampling.prompt_logprobs.unwrap_or(0);
    score(logits, chunk.tokens[position + 1], top)
}

/// The chunk's next token, of what its constraint allows; that becomes `mask`.
fn draw(
    chunk: &Chunk<'_>,
    logits: &mut [f32],
    eos: &[u32],
    mask: &mut TokenMask,
) -> Result<Sampled, Violation> {
    let (prompt, generated) = chunk.tokens.split_at(chunk.prompt_len);
    let history = History { prompt, generated };
    let sampling = chunk.sampling;
    let Some(constraint) = chunk.constraint else {
        return Ok(sample(logits, &history, sampling, eos));
    };
    mask.clear(logits.len());
    constrain(constraint, generated, &Ends { eos, sampling }, mask)?;
    Ok(sample_within(logits, &history, sampling, mask))
}

/// What `of` makes of each of `items`, on the threads that compute the model.
fn side_by_side<T: Send, R: Send>(
    model: &dyn CausalLm,
    items: Vec<T>,
    of: impl Fn(T) -> R + Sync,
) -> Vec<R> {
    let slots: Vec<Mutex<(Option<T>, Option<R>)>> = items
        .into_iter()
        .map(|item| Mutex::new((Some(item), None)))
        .collect();
    model.side_by_side(slots.len(), &|number| {
        let mut slot = slots[number].lock().unwrap_or_else(PoisonError::into_inner);
        slot.1 = slot.0.take().map(&of);
    });
    let made = slots
        .into_iter()
        .map(|slot| slot.into_inner().unwrap_or_else(PoisonError::into_inner).1);
    made.flatten().collect()
}

fn run_error(error: DeviceError) -> RunError {
    RunError(error.to_string())
}
