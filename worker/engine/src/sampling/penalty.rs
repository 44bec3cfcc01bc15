//! Penalties on tokens that were there before.

use rustc_hash::FxHashMap;

use crate::request::SamplingParams;
use crate::sampling::{History, finite_or_impossible};

/// Repetition over prompt and generated tokens (Keskar et al. 2019), then
/// frequency and presence over generated ones (OpenAI).
pub(super) fn apply(logits: &mut [f32], history: &History<'_>, params: &SamplingParams) {
    if params.repetition_penalty != 1.0 {
        repetition(logits, history, params.repetition_penalty);
    }
    if params.frequency_penalty != 0.0 || params.presence_penalty != 0.0 {
        let mut counts: FxHashMap<u32, f32> = FxHashMap::default();
        for token in history.generated {
            *counts.entry(*token).or_default() += 1.0;
        }
        for (token, count) in counts {
            change(logits, token, |logit| {
                logit - params.frequency_penalty * count - params.presence_penalty
            });
        }
    }
}

fn repetition(logits: &mut [f32], history: &History<'_>, penalty: f32) {
    let mut seen = vec![0u64; logits.len().div_ceil(64)];
    for &token in history.prompt.iter().chain(history.generated) {
        let Some(word) = seen.get_mut(token as usize / 64) else {
            continue;
        };
        let bit = 1 << (token % 64);
        if *word & bit == 0 {
            *word |= bit;
            change(logits, token, |logit| match logit > 0.0 {
                true => logit / penalty,
                false => logit * penalty,
            });
        }
    }
}

fn change(logits: &mut [f32], token: u32, penalise: impl Fn(f32) -> f32) {
    if let Some(logit) = logits.get_mut(token as usize) {
        *logit = finite_or_impossible(penalise(*logit));
    }
}
