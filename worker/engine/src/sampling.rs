//! Drawing a token from logits.
//!
//! The order is vLLM's: tokens that are not allowed or banned are masked, stop
//! tokens before `min_tokens` too, biases are added, then come penalties,
//! temperature, min-p, top-k, top-p, each over what the one before left. A draw
//! is Gumbel-max: every token's noise is a function of seed, token
//! index and token alone, so that a tiny difference between two devices'
//! logits changes the token drawn only if two tokens nearly tie. Logprobs are
//! those of the logits as they come in.

mod filter;
mod noise;
mod penalty;
mod rules;

use crate::constraint::TokenMask;
use crate::request::{Sampled, SamplingParams, TopLogprob};
use filter::Candidate;
use noise::Noise;

/// Below this, temperature counts as 0.
const GREEDY_BELOW: f32 = 1e-5;

/// The tokens before the one to draw.
#[derive(Clone, Copy, Debug)]
pub struct History<'a> {
    pub prompt: &'a [u32],
    pub generated: &'a [u32],
}

/// Draws token number `history.generated.len()`. `logits` is `[vocab_size]` and
/// is changed; NaN counts as impossible. Greedy ties go to the lowest token.
pub fn sample(
    logits: &mut [f32],
    history: &History<'_>,
    params: &SamplingParams,
    eos: &[u32],
) -> Sampled {
    let model = model_logits(logits, params);
    rules::restrict(logits, history, &params.tokens, eos);
    mask_stops(logits, history, params, eos);
    let token = choose(logits, history, params);
    sampled(model, token)
}

/// As [`sample`], of the tokens that `mask` allows: one at least. The mask has
/// the last word, on end-of-text and stop tokens too.
pub fn sample_within(
    logits: &mut [f32],
    history: &History<'_>,
    params: &SamplingParams,
    mask: &TokenMask,
) -> Sampled {
    let model = model_logits(logits, params);
    mask.apply(logits);
    let token = choose(logits, history, params);
    sampled(model, token)
}

/// Makes all logits numbers, and remembers them if logprobs are asked for.
fn model_logits(logits: &mut [f32], params: &SamplingParams) -> Option<(Vec<f32>, u32)> {
    for logit in logits.iter_mut() {
        *logit = finite_or_impossible(*logit);
    }
    params.logprobs.map(|top| (logits.to_vec(), top))
}

fn choose(logits: &mut [f32], history: &History<'_>, params: &SamplingParams) -> u32 {
    rules::bias(logits, &params.tokens);
    penalty::apply(logits, history, params);
    match params.temperature >= GREEDY_BELOW {
        true => draw(logits, history.generated.len(), params),
        false => argmax(logits),
    }
}

fn sampled(model: Option<(Vec<f32>, u32)>, token: u32) -> Sampled {
    match model {
        Some((logits, top)) => score(&logits, token, top),
        None => Sampled {
            token,
            logprob: None,
            top: Vec::new(),
        },
    }
}

/// The logprob of `token` under `logits` (`[vocab_size]`), and the `top` most
/// likely tokens, best first.
pub fn score(logits: &[f32], token: u32, top: u32) -> Sampled {
    let (highest, log_sum) = log_sum_exp(logits);
    let logprob = |logit: f32| match finite_or_impossible(logit) {
        f32::NEG_INFINITY => f32::NEG_INFINITY,
        logit => (f64::from(logit) - highest - log_sum) as f32,
    };
    let best = best(logits, top as usize).into_iter();
    Sampled {
        token,
        logprob: Some(
            logits
                .get(token as usize)
                .map_or(f32::NEG_INFINITY, |logit| logprob(*logit)),
        ),
        top: best
            .map(|candidate| TopLogprob {
                token: candidate.token,
                logprob: logprob(candidate.logit),
            })
            .collect(),
    }
}

/// NaN becomes impossible, and infinity the largest number, so that arithmetic
/// on logits gives no NaN.
fn finite_or_impossible(logit: f32) -> f32 {
    match logit.is_nan() {
        true => f32::NEG_INFINITY,
        false => logit.min(f32::MAX),
    }
}

fn mask_stops(logits: &mut [f32], history: &History<'_>, params: &SamplingParams, eos: &[u32]) {
    if history.generated.len() >= params.min_tokens {
        return;
    }
    let eos = if params.ignore_eos { &[] } else { eos };
    for token in eos.iter().chain(&params.stop_token_ids) {
        if let Some(logit) = logits.get_mut(*token as usize) {
            *logit = f32::NEG_INFINITY;
        }
    }
}

fn argmax(logits: &[f32]) -> u32 {
    let mut best = Candidate {
        logit: f32::NEG_INFINITY,
        token: 0,
    };
    for (token, &logit) in (0..).zip(logits) {
        if logit > best.logit {
            best = Candidate { logit, token };
        }
    }
    best.token
}

fn draw(logits: &[f32], index: usize, params: &SamplingParams) -> u32 {
    let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let noise = Noise::new(params.seed, index);
    let temperature = f64::from(params.temperature);
    let scaled = |logit: f32| (f64::from(logit) - f64::from(top)) / temperature;
    let drawn = match filter::is_off(params) {
        true => {
            let all = (0..).zip(logits);
            noise.pick(all.map(|(token, logit)| (token, scaled(*logit))))
        }
        false => {
            let kept = filter::keep(logits, params, scaled);
            noise.pick(kept.into_iter().map(|it| (it.token, scaled(it.logit))))
        }
    };
    drawn.unwrap_or_else(|| argmax(logits))
}

/// The highest logit, and the logarithm of the sum of `exp(logit - highest)`.
fn log_sum_exp(logits: &[f32]) -> (f64, f64) {
    let logits = logits.iter().map(|logit| finite_or_impossible(*logit));
    let top = logits.clone().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits
        .filter(|logit| *logit > f32::NEG_INFINITY)
        .map(|logit| f64::from((logit - top).exp()))
        .sum();
    (f64::from(top), sum.ln())
}

/// The `count` highest, best first, of equal ones the lowest token.
fn best(logits: &[f32], count: usize) -> Vec<Candidate> {
    let count = count.min(logits.len());
    let mut best: Vec<Candidate> = Vec::with_capacity(count + 1);
    for (token, &logit) in (0..).zip(logits) {
        let logit = finite_or_impossible(logit);
        if best.len() == count && best.last().is_none_or(|worst| logit <= worst.logit) {
            continue;
        }
        let place = best.partition_point(|other| other.logit >= logit);
        best.insert(place, Candidate { logit, token });
        best.truncate(count);
    }
    best
}

#[cfg(test)]
mod tests;
