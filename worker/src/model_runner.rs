//! The engine's runner over a real model: a step becomes one batch, and logits
//! become tokens.

#[cfg(test)]
mod tests;

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use engine::constraint::{Ends, constrain};
use engine::sampling::{History, sample, sample_within, score};
use engine::{
    BlockId, Chunk, KvShape, RunError, Runner, RunnerShape, Sampled, Step, StepResult, TokenMask,
    Violation,
};
use models::{Batch, BatchSequence, CausalLm, DeviceError};

/// Logits of a step from which on its tokens are drawn side by side: fewer are
/// drawn sooner than other threads have taken their part.
const SIDE_BY_SIDE: usize = 1 << 17;

/// Runs steps on a model.
pub struct ModelRunner {
    model: Box<dyn CausalLm>,
    shape: RunnerShape,
    batch: StepBatch,
    /// `[outputs, vocab_size]` of the last step.
    logits: Vec<f32>,
    /// `[pooled tokens, hidden_size]` of the last step.
    states: Vec<f32>,
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
            model,
            shape,
            batch: StepBatch::default(),
            logits: Vec::new(),
            states: Vec::new(),
            masks: Vec::new(),
            side_by_side: SIDE_BY_SIDE,
        })
    }
}

impl Runner for ModelRunner {
    fn shape(&self) -> &RunnerShape {
        &self.shape
    }

    fn run(&mut self, step: &Step<'_>) -> Result<StepResult, RunError> {
        self.batch.fill(step);
        let out = (&mut self.logits, &mut self.states);
        self.model
            .forward_with_hidden(&self.batch.view(), self.batch.pooled.len(), out)
            .map_err(run_error)?;
        let logits = self.logits.len();
        let mut rows = self.logits.chunks_mut(self.shape.vocab_size);
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
        let mut states = self.states.as_slice();
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

/// A step's batch; its vectors keep their room from step to step.
#[derive(Default)]
struct StepBatch {
    tokens: Vec<u32>,
    blocks: Vec<u32>,
    sequences: Vec<BatchSequence>,
    outputs: Vec<u32>,
    /// The last of `outputs`.
    pooled: Vec<u32>,
}

impl StepBatch {
    /// Outputs are, for each chunk: its scored rows, then its last row if a
    /// token is drawn from it; and after those of all chunks their pooled rows.
    fn fill(&mut self, step: &Step<'_>) {
        self.tokens.clear();
        self.blocks.clear();
        self.sequences.clear();
        self.outputs.clear();
        self.pooled.clear();
        for chunk in &step.chunks {
            let (first_row, first_block) = (self.tokens.len(), self.blocks.len());
            self.tokens
                .extend_from_slice(&chunk.tokens[chunk.start..chunk.end]);
            self.blocks.extend(chunk.blocks.iter().map(|block| block.0));
            self.sequences.push(BatchSequence {
                rows: first_row..self.tokens.len(),
                context_len: chunk.end,
                blocks: first_block..self.blocks.len(),
            });
            let scored = scored_rows(chunk).map(|position| position - chunk.start);
            let drawn = chunk.sample.then(|| chunk.end - chunk.start - 1);
            self.outputs
                .extend(scored.chain(drawn).map(|row| (first_row + row) as u32));
            let pooled = chunk.pooled.clone().map(|position| position - chunk.start);
            self.pooled
                .extend(pooled.map(|row| (first_row + row) as u32));
        }
        self.outputs.extend_from_slice(&self.pooled);
    }

    fn view(&self) -> Batch<'_> {
        Batch {
            tokens: &self.tokens,
            blocks: &self.blocks,
            sequences: &self.sequences,
            outputs: &self.outputs,
        }
    }
}

/// Positions of the chunk after which a prompt token is to be scored.
fn scored_rows(chunk: &Chunk<'_>) -> Range<usize> {
    let end = match chunk.prompt_logprobs {
        true => chunk.end.min(chunk.prompt_len.saturating_sub(1)),
        false => chunk.start,
    };
    chunk.start..end.max(chunk.start)
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
