//! Which tokens may be drawn: min-p, top-k and top-p.
//!
//! A vocabulary is large and few tokens survive, so nothing here sorts it
//! whole.

use std::cmp::Ordering;

use crate::request::SamplingParams;

/// A token that may be drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Candidate {
    pub(super) logit: f32,
    pub(super) token: u32,
}

pub(super) fn is_off(params: &SamplingParams) -> bool {
    params.min_p <= 0.0 && params.top_k == 0 && params.top_p >= 1.0
}

/// What min-p, top-k and top-p leave, in no order: one token at least, if any
/// is possible. `scaled` gives a logit over temperature, 0 for the highest.
pub(super) fn keep(
    logits: &[f32],
    params: &SamplingParams,
    scaled: impl Fn(f32) -> f64,
) -> Vec<Candidate> {
    let min_scaled = f64::from(params.min_p.clamp(0.0, 1.0)).ln();
    let min_logit = kth_highest(logits, params.top_k as usize);
    let all = (0..).zip(logits);
    let mut kept: Vec<Candidate> = all
        .map(|(token, &logit)| Candidate { logit, token })
        .filter(|it| it.logit > f32::NEG_INFINITY && it.logit >= min_logit)
        .filter(|it| scaled(it.logit) >= min_scaled)
        .collect();
    if params.top_p < 1.0 {
        top_p(&mut kept, f64::from(params.top_p.max(0.0)), |it| {
            scaled(it.logit)
        });
    }
    kept
}

/// Tokens that equal the last of the `k` highest are kept with it.
fn kth_highest(logits: &[f32], k: usize) -> f32 {
    match k {
        0 => f32::NEG_INFINITY,
        k if k >= logits.len() => f32::NEG_INFINITY,
        k => super::best(logits, k)
            .last()
            .map_or(f32::NEG_INFINITY, |it| it.logit),
    }
}

/// Keeps the smallest set of the highest whose share reaches `p` (Holtzman et
/// al. 2020); of equal ones the lowest tokens.
fn top_p(kept: &mut Vec<Candidate>, p: f64, scaled: impl Fn(&Candidate) -> f64) {
    let weight = |it: &Candidate| f64::from((scaled(it) as f32).exp());
    let total: f64 = kept.iter().map(weight).sum();
    // All below a share of (1 - p) / n have less than 1 - p together, so none
    // of them is needed; half of that leaves room for rounding.
    let negligible = (0.5 * (1.0 - p) * total / kept.len() as f64).ln();
    kept.retain(|it| scaled(it) >= negligible);
    let (mut sorted, mut part, mut mass) = (0, 64, 0.0);
    while sorted < kept.len() {
        let end = kept.len().min(sorted + part);
        if end < kept.len() {
            kept[sorted..].select_nth_unstable_by(end - sorted, best_first);
        }
        kept[sorted..end].sort_unstable_by(best_first);
        for index in sorted..end {
            mass += weight(&kept[index]);
            if mass >= p * total {
                kept.truncate(index + 1);
                return;
            }
        }
        (sorted, part) = (end, part * 8);
    }
}

fn best_first(a: &Candidate, b: &Candidate) -> Ordering {
    b.logit
        .total_cmp(&a.logit)
        .then_with(|| a.token.cmp(&b.token))
}
