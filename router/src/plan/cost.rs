//! What an option costs, in milliseconds.

use super::{Ask, Candidate, uncached};

/// Rates assumed of a worker that has not reported any yet.
const UNKNOWN_PREFILL_TOKENS_PER_MS: f64 = 10.0;
const UNKNOWN_DECODE_STEP_MS: f64 = 10.0;
/// KV between two workers of one cluster, per token.
const TRANSFER_MS_PER_TOKEN: f64 = 0.005;
/// Two calls instead of one.
const SPLIT_MS: f64 = 1.0;

/// The parts of an option's cost, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    /// Until the worker that computes the prompt gets to it.
    pub queue: f64,
    /// Computing what is not cached.
    pub prefill: f64,
    /// Moving KV that the decode worker lacks.
    pub transfer: f64,
    /// What the sequence and the decode worker's load slow each other down.
    pub decode: f64,
    /// Until the decode worker has blocks for it.
    pub memory: f64,
}

impl Cost {
    pub fn total(&self) -> f64 {
        self.queue + self.prefill + self.transfer + self.decode + self.memory
    }

    /// One worker does all. Its running sequences wait while it computes the
    /// prompt, each of them as long as this one.
    pub(super) fn undivided(ask: &Ask, worker: &Candidate) -> Cost {
        let prefill = uncached(ask, worker) as f64 / prefill_rate(worker);
        Cost {
            queue: queue(worker),
            prefill,
            transfer: 0.0,
            decode: decode(worker) + prefill * f64::from(worker.load.sequences),
            memory: memory(ask, worker),
        }
    }

    pub(super) fn split(ask: &Ask, prefill: &Candidate, decode_on: &Candidate) -> Cost {
        Cost {
            queue: queue(prefill),
            prefill: uncached(ask, prefill) as f64 / prefill_rate(prefill),
            transfer: SPLIT_MS + uncached(ask, decode_on) as f64 * TRANSFER_MS_PER_TOKEN,
            decode: decode(decode_on),
            memory: memory(ask, decode_on),
        }
    }
}

fn queue(worker: &Candidate) -> f64 {
    worker.load.queued_tokens as f64 / prefill_rate(worker)
}

/// One step per sequence that shares the worker.
fn decode(worker: &Candidate) -> f64 {
    step_ms(worker) * f64::from(worker.load.sequences)
}

/// Blocks that are missing come free about one a step.
fn memory(ask: &Ask, worker: &Candidate) -> f64 {
    let needed = uncached(ask, worker).div_ceil(ask.block_size.max(1));
    let missing = needed.saturating_sub(worker.load.free_blocks as usize);
    missing as f64 * step_ms(worker)
}

/// Tokens per millisecond.
fn prefill_rate(worker: &Candidate) -> f64 {
    let rate = f64::from(worker.load.prefill_tokens_per_second) / 1000.0;
    if rate > 0.0 && rate.is_finite() {
        rate
    } else {
        UNKNOWN_PREFILL_TOKENS_PER_MS
    }
}

fn step_ms(worker: &Candidate) -> f64 {
    let step = f64::from(worker.load.decode_step_ms);
    if step > 0.0 && step.is_finite() {
        step
    } else {
        UNKNOWN_DECODE_STEP_MS
    }
}
