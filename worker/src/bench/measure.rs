//! Steps of the runner, timed.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use engine::{BlockId, Chunk, Runner, SamplingParams, SequenceId, Step, TokenRules};
use models::{Meter, Usage};

use super::{BLOCK_SIZE, BenchError, Config, Phase};
use crate::model_runner::ModelRunner;

/// A phase, once.
pub(crate) struct Sample {
    pub(crate) tokens: usize,
    pub(crate) seconds: f64,
    /// From logits to tokens.
    pub(crate) sampling: f64,
    pub(crate) usage: Usage,
}

/// A model, and tokens for it.
pub(super) struct Bench {
    runner: ModelRunner,
    meter: Arc<Meter>,
    steps: usize,
    max_batch_tokens: usize,
    /// Tokens of each sequence; what they are changes nothing.
    tokens: Vec<u32>,
    sampling: SamplingParams,
    spent: Spent,
}

#[derive(Default)]
struct Spent {
    all: Duration,
    sampling: Duration,
}

/// A sequence of the batch; its blocks follow those of the one before.
struct Sequence<'a> {
    tokens: &'a [u32],
    blocks: Vec<BlockId>,
}

impl Bench {
    pub(super) fn new(
        config: &Config,
        runner: ModelRunner,
        meter: Arc<Meter>,
    ) -> Result<Bench, BenchError> {
        let vocabulary = runner.shape().vocab_size;
        let tokens = (0..config.longest()).map(|i| (i * 7 + 300) % vocabulary);
        Ok(Bench {
            tokens: tokens.map(|token| token as u32).collect(),
            runner,
            meter,
            steps: config.steps.get(),
            max_batch_tokens: config.max_batch_tokens.get(),
            sampling: greedy(),
            spent: Spent::default(),
        })
    }

    pub(super) fn sample(&mut self, phase: Phase) -> Result<Sample, BenchError> {
        let tokens = std::mem::take(&mut self.tokens);
        let result = match phase {
            Phase::Decode(batch) => self.decode(batch, &tokens),
            Phase::Prefill(len) => self.prefill(&tokens[..len]),
        };
        self.tokens = tokens;
        let tokens = result?;
        let spent = std::mem::take(&mut self.spent);
        Ok(Sample {
            tokens,
            seconds: spent.all.as_secs_f64(),
            sampling: spent.sampling.as_secs_f64(),
            usage: self.meter.take(),
        })
    }

    fn decode(&mut self, batch: usize, tokens: &[u32]) -> Result<usize, BenchError> {
        let blocks = (self.steps + 1).div_ceil(BLOCK_SIZE);
        let sequences: Vec<_> = (0..batch)
            .map(|index| Sequence::new(tokens, index * blocks, blocks))
            .collect();
        self.step(&sequences, 0..1, true)?;
        self.forget();
        for position in 1..=self.steps {
            self.step(&sequences, position..position + 1, true)?;
        }
        Ok(batch * self.steps)
    }

    fn prefill(&mut self, tokens: &[u32]) -> Result<usize, BenchError> {
        let sequences = [Sequence::new(tokens, 0, tokens.len().div_ceil(BLOCK_SIZE))];
        self.forget();
        for start in (0..tokens.len()).step_by(self.max_batch_tokens) {
            let end = tokens.len().min(start + self.max_batch_tokens);
            self.step(&sequences, start..end, end == tokens.len())?;
        }
        Ok(tokens.len())
    }

    /// What was done so far is not counted.
    fn forget(&mut self) {
        self.meter.take();
        self.spent = Spent::default();
    }

    /// Computes these positions of all sequences, and draws what comes next if
    /// `draw`.
    fn step(
        &mut self,
        sequences: &[Sequence<'_>],
        positions: Range<usize>,
        draw: bool,
    ) -> Result<(), BenchError> {
        let chunks = sequences.iter().enumerate().map(|(index, sequence)| Chunk {
            id: SequenceId(index as u64),
            tokens: &sequence.tokens[..positions.end],
            prompt_len: 1,
            start: positions.start,
            end: positions.end,
            blocks: &sequence.blocks,
            sample: draw,
            prompt_logprobs: false,
            pooled: positions.end..positions.end,
            sampling: &self.sampling,
            constraint: None,
        });
        let step = Step {
            chunks: chunks.collect(),
        };
        let start = self.meter.now();
        self.runner.run(&step)?;
        let end = self.meter.now();
        self.spent.all += end - start;
        // Bringing logits back is the device's last operation.
        self.spent.sampling += end - self.meter.ended();
        Ok(())
    }
}

impl<'a> Sequence<'a> {
    fn new(tokens: &'a [u32], first_block: usize, blocks: usize) -> Sequence<'a> {
        let blocks = first_block..first_block + blocks;
        Sequence {
            tokens,
            blocks: blocks.map(|block| BlockId(block as u32)).collect(),
        }
    }
}

fn greedy() -> SamplingParams {
    SamplingParams {
        temperature: 0.0,
        top_p: 1.0,
        top_k: 0,
        min_p: 0.0,
        seed: 0,
        repetition_penalty: 1.0,
        presence_penalty: 0.0,
        frequency_penalty: 0.0,
        ignore_eos: true,
        tokens: TokenRules::default(),
        stop_token_ids: Vec::new(),
        logprobs: None,
        prompt_logprobs: None,
        max_tokens: usize::MAX,
        min_tokens: 0,
    }
}
