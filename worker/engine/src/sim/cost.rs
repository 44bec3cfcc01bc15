//! How long a simulated step takes.

use std::time::Duration;

use crate::runner::{Chunk, Step};

/// `base + prefill tokens / rate + decoding sequences * per sequence + their
/// context * per token`.
#[derive(Clone, Debug, PartialEq)]
pub struct StepCost {
    /// Of every step: launching it and reading the weights once.
    pub base: Duration,
    /// Of uncached prompt tokens; 0 means that prefill takes no time.
    pub prefill_tokens_per_second: f64,
    pub decode_per_sequence: Duration,
    /// Reading the KV of 1000 tokens of context.
    pub decode_per_1000_context_tokens: Duration,
}

impl Default for StepCost {
    fn default() -> StepCost {
        StepCost {
            base: Duration::from_micros(6_500),
            prefill_tokens_per_second: 25_000.0,
            decode_per_sequence: Duration::from_micros(15),
            decode_per_1000_context_tokens: Duration::from_micros(55),
        }
    }
}

impl StepCost {
    /// No step takes time.
    pub const FREE: StepCost = StepCost {
        base: Duration::ZERO,
        prefill_tokens_per_second: 0.0,
        decode_per_sequence: Duration::ZERO,
        decode_per_1000_context_tokens: Duration::ZERO,
    };

    pub(super) fn of(&self, step: &Step<'_>) -> Duration {
        let (decodes, prefills): (Vec<_>, Vec<_>) = step.chunks.iter().partition(|it| decodes(it));
        let prefill_tokens: usize = prefills.iter().map(|it| it.end - it.start).sum();
        let context: usize = decodes.iter().map(|it| it.end).sum();
        let prefill = match self.prefill_tokens_per_second > 0.0 {
            true => prefill_tokens as f64 / self.prefill_tokens_per_second,
            false => 0.0,
        };
        let decode = self.decode_per_sequence.as_secs_f64() * decodes.len() as f64
            + self.decode_per_1000_context_tokens.as_secs_f64() * context as f64 / 1000.0;
        self.base + Duration::try_from_secs_f64(prefill + decode).unwrap_or(Duration::MAX)
    }
}

fn decodes(chunk: &Chunk<'_>) -> bool {
    chunk.end - chunk.start == 1 && chunk.start >= chunk.prompt_len
}
