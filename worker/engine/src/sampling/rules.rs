//! What a request says of single tokens: bias, a list of those allowed, and
//! sequences of tokens that must not be completed.

use crate::request::TokenRules;
use crate::sampling::{History, finite_or_impossible};

/// Makes impossible what is banned or not allowed; `eos` always is.
pub(super) fn restrict(logits: &mut [f32], history: &History<'_>, rules: &TokenRules, eos: &[u32]) {
    if !rules.allowed.is_empty() {
        keep(logits, &rules.allowed, eos);
    }
    for banned in &rules.banned {
        let Some((last, before)) = banned.split_last() else {
            continue;
        };
        if history.generated.ends_with(before)
            && let Some(logit) = logits.get_mut(*last as usize)
        {
            *logit = f32::NEG_INFINITY;
        }
    }
}

fn keep(logits: &mut [f32], allowed: &[u32], eos: &[u32]) {
    let tokens = || allowed.iter().chain(eos);
    let kept: Vec<f32> = tokens()
        .map(|token| logits.get(*token as usize).copied().unwrap_or_default())
        .collect();
    logits.fill(f32::NEG_INFINITY);
    for (token, logit) in tokens().zip(kept) {
        if let Some(place) = logits.get_mut(*token as usize) {
            *place = logit;
        }
    }
}

pub(super) fn bias(logits: &mut [f32], rules: &TokenRules) {
    for (token, bias) in &rules.bias {
        if let Some(logit) = logits.get_mut(*token as usize) {
            *logit = finite_or_impossible(*logit + bias);
        }
    }
}
