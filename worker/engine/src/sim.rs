//! A simulated device and model, behind the same scheduler and block pool.
//!
//! The next token is a function of the tokens before it (so of prompt and
//! index) and, when it is drawn at a temperature, of the seed: never of batch,
//! block or worker. A position's simulated KV is a number that chains over all
//! tokens up to it. It is really kept in the blocks, and really exported and
//! imported: a step on missing or wrong KV fails instead of going unnoticed.

mod cost;
mod image;
mod kv;

use crate::constraint::{Constraint, Ends, TokenMask, Violation, constrain};
use crate::request::{Sampled, SamplingParams, TopLogprob};
use crate::runner::{BlockId, Chunk, KvShape, RunError, Runner, RunnerShape, Step, StepResult};
pub use cost::StepCost;
use kv::KvStore;

/// What is simulated. The default is about one H100 that serves a model of 8
/// billion parameters in bf16.
#[derive(Clone, Debug, PartialEq)]
pub struct SimConfig {
    pub vocab_size: usize,
    /// Longest sequence, prompt and completion together.
    pub max_model_len: usize,
    /// Tokens in a block.
    pub block_size: usize,
    pub total_blocks: usize,
    /// Never drawn, but for `eos_rate`.
    pub eos_token_ids: Vec<u32>,
    /// Probability that a token is end-of-text; 0 leaves `max_tokens` to end
    /// every sequence.
    pub eos_rate: f64,
    /// Bytes of a block on the wire; no less than its image of 8 bytes a token
    /// and 8 more has effect. A real 8B model's block of 16 tokens has 2 MiB.
    pub kv_block_bytes: usize,
    pub cost: StepCost,
    pub check: KvCheck,
}

/// How much of a sequence's KV is compared with its tokens in each step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvCheck {
    /// No KV is kept: tokens follow from seed and index alone, and a block's
    /// image is empty. For simulations of many workers.
    Off,
    /// The last computed token: takes constant time.
    Last,
    /// Every token: time linear in context, for tests.
    Every,
}

impl Default for SimConfig {
    fn default() -> SimConfig {
        SimConfig {
            vocab_size: 128_256,
            max_model_len: 131_072,
            block_size: 16,
            total_blocks: 27_000,
            eos_token_ids: vec![128_001, 128_009],
            eos_rate: 0.0,
            kv_block_bytes: 0,
            cost: StepCost::default(),
            check: KvCheck::Last,
        }
    }
}

/// Of the embeddings that are made up.
const HIDDEN_SIZE: u64 = 8;

/// A token, or why there is none.
type Drawn = Result<Sampled, Violation>;

/// The simulated device.
#[derive(Debug)]
pub struct SimRunner {
    config: SimConfig,
    shape: RunnerShape,
    kv: KvStore,
}

impl SimRunner {
    pub fn new(config: SimConfig) -> SimRunner {
        let block_size = config.block_size.max(1);
        let (kept_blocks, block_bytes) = match config.check {
            KvCheck::Off => (0, 0),
            _ => (
                config.total_blocks,
                config.kv_block_bytes.max(image::len(block_size)),
            ),
        };
        let shape = RunnerShape {
            vocab_size: config.vocab_size.max(1),
            max_model_len: config.max_model_len,
            block_size,
            total_blocks: config.total_blocks,
            eos_token_ids: config.eos_token_ids.clone(),
            kv: KvShape {
                layers: 1,
                kv_heads: 1,
                head_dim: 1,
                dtype: "sim",
                block_bytes,
            },
        };
        SimRunner {
            kv: KvStore::new(kept_blocks, block_size),
            shape,
            config,
        }
    }

    fn keeps_kv(&self) -> bool {
        self.config.check != KvCheck::Off
    }

    fn next_token(&self, chain: u64, index: usize, params: &SamplingParams) -> u32 {
        let seed = match params.temperature > 0.0 {
            true => params.seed,
            false => 0,
        };
        let draw = kv::mix(chain ^ kv::mix(seed ^ kv::mix(index as u64)));
        let may_stop = index >= params.min_tokens;
        let wants_eos = (kv::mix(draw) as f64) < self.config.eos_rate * u64::MAX as f64;
        let eos = &self.config.eos_token_ids;
        if wants_eos && may_stop && !params.ignore_eos && !eos.is_empty() {
            return eos[draw as usize % eos.len()];
        }
        let vocab_size = self.shape.vocab_size as u64;
        let barred = |token: &u32| {
            eos.contains(token) || (!may_stop && params.stop_token_ids.contains(token))
        };
        (0..vocab_size)
            .map(|step| (draw.wrapping_add(step) % vocab_size) as u32)
            .find(|token| !barred(token))
            .unwrap_or(0)
    }

    /// Of the tokens that may follow, one by chance.
    fn constrained(
        &self,
        chain: u64,
        chunk: &Chunk<'_>,
        constraint: &dyn Constraint,
    ) -> Result<u32, Violation> {
        let generated = &chunk.tokens[chunk.prompt_len..];
        let ends = Ends {
            eos: &self.config.eos_token_ids,
            sampling: chunk.sampling,
        };
        let mut mask = TokenMask::none(self.shape.vocab_size);
        constrain(constraint, generated, &ends, &mut mask)?;
        let seed = kv::mix(chunk.sampling.seed ^ kv::mix(generated.len() as u64));
        let (draw, vocab_size) = (kv::mix(chain ^ seed), self.shape.vocab_size as u64);
        let tokens = (0..vocab_size).map(|step| (draw.wrapping_add(step) % vocab_size) as u32);
        Ok(tokens.into_iter().find(|it| mask.allows(*it)).unwrap_or(0))
    }

    /// Logprobs are made up: the token has ln 1/2, the next higher ln 1/4, and
    /// so on.
    fn scored(&self, token: u32, top: Option<u32>) -> Sampled {
        let vocab_size = self.shape.vocab_size as u32;
        let logprob = |rank: u32| 0.5f32.ln() * (rank + 1) as f32;
        let alternatives = top.unwrap_or(0).min(vocab_size);
        Sampled {
            token,
            logprob: top.map(|_| logprob(0)),
            top: (0..alternatives)
                .map(|rank| TopLogprob {
                    token: (token + rank) % vocab_size,
                    logprob: logprob(rank),
                })
                .collect(),
        }
    }

    fn compute(&mut self, step: &Step<'_>) -> Result<(), RunError> {
        for chunk in &step.chunks {
            self.kv.check(chunk, self.config.check)?;
        }
        self.kv.begin_step();
        for chunk in &step.chunks {
            self.kv.compute(chunk)?;
        }
        Ok(())
    }

    fn draw(&self, chunk: &Chunk<'_>) -> Result<Option<Drawn>, RunError> {
        if !chunk.sample {
            return Ok(None);
        }
        if chunk.end != chunk.tokens.len() {
            return Err(fault(
                chunk,
                "draws a token before its last one is computed",
            ));
        }
        let chain = match self.keeps_kv() {
            true => self.kv.before(chunk.blocks, chunk.end)?,
            false => chunk.sampling.seed,
        };
        let index = chunk.end - chunk.prompt_len;
        let token = match chunk.constraint {
            Some(constraint) => match self.constrained(chain, chunk, constraint) {
                Ok(token) => token,
                Err(violation) => return Ok(Some(Err(violation))),
            },
            None => self.next_token(chain, index, chunk.sampling),
        };
        Ok(Some(Ok(self.scored(token, chunk.sampling.logprobs))))
    }

    fn score_prompt(&self, chunk: &Chunk<'_>) -> Vec<Sampled> {
        let end = match chunk.prompt_logprobs {
            true => chunk.prompt_len.min(chunk.end + 1),
            false => 0,
        };
        let tokens = chunk.tokens.get(chunk.start + 1..end).unwrap_or_default();
        let top = chunk.sampling.prompt_logprobs;
        tokens.iter().map(|it| self.scored(*it, top)).collect()
    }
}

impl Runner for SimRunner {
    fn shape(&self) -> &RunnerShape {
        &self.shape
    }

    fn run(&mut self, step: &Step<'_>) -> Result<StepResult, RunError> {
        for chunk in &step.chunks {
            let bounded = chunk.start < chunk.end && chunk.end <= chunk.tokens.len();
            if !bounded || chunk.blocks.len() * self.shape.block_size < chunk.end {
                return Err(fault(chunk, "has no blocks or tokens for its chunk"));
            }
        }
        if self.keeps_kv() {
            self.compute(step)?;
        }
        let mut result = StepResult::default();
        for (index, chunk) in step.chunks.iter().enumerate() {
            let drawn = self.draw(chunk)?.transpose();
            let drawn = drawn.map_err(|violation| result.violations.push((index, violation)));
            result.sampled.push(drawn.unwrap_or_default());
        }
        result.pooled = step.chunks.iter().enumerate().filter_map(pooled).collect();
        result.prompt_logprobs = step.chunks.iter().map(|it| self.score_prompt(it)).collect();
        result.simulated = Some(self.config.cost.of(step));
        Ok(result)
    }

    fn export_block(&self, block: BlockId, out: &mut Vec<u8>) -> Result<(), RunError> {
        if !self.keeps_kv() {
            return Ok(());
        }
        image::write(self.kv.block(block)?, self.shape.kv.block_bytes, out);
        Ok(())
    }

    fn import_block(&mut self, block: BlockId, bytes: &[u8]) -> Result<(), RunError> {
        if !self.keeps_kv() {
            return Ok(());
        }
        image::read(bytes, self.kv.block_mut(block)?)
    }
}

/// Hidden states are made up of tokens and their positions.
fn pooled((index, chunk): (usize, &Chunk<'_>)) -> Option<(usize, Vec<f32>)> {
    if chunk.pooled.is_empty() {
        return None;
    }
    let state = |position: usize| {
        let seed = kv::mix(u64::from(chunk.tokens[position]) ^ kv::mix(position as u64));
        let place = move |place| (kv::mix(seed ^ place) % 2001) as f32 / 1000.0 - 1.0;
        (0..HIDDEN_SIZE).map(place)
    };
    Some((index, chunk.pooled.clone().flat_map(state).collect()))
}

fn fault(chunk: &Chunk<'_>, what: &str) -> RunError {
    RunError(format!("sequence {} {what}", chunk.id.0))
}

#[cfg(test)]
mod tests;
