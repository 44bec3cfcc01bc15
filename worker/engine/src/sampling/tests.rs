use proptest::prelude::*;

use super::*;
use crate::request::TokenRules;

fn params() -> SamplingParams {
    SamplingParams {
        temperature: 1.0,
        ..crate::fixtures::greedy(1)
    }
}

fn history<'a>(prompt: &'a [u32], generated: &'a [u32]) -> History<'a> {
    History { prompt, generated }
}

fn greedy_after(logits: &[f32], history: &History<'_>, params: SamplingParams) -> u32 {
    let params = SamplingParams {
        temperature: 0.0,
        ..params
    };
    sample(&mut logits.to_vec(), history, &params, &[0]).token
}

/// How often each token is drawn, over many indices.
fn frequencies(logits: &[f32], params: &SamplingParams) -> Vec<f64> {
    const DRAWS: usize = 20_000;
    let generated = vec![0; DRAWS];
    let mut counts = vec![0.0; logits.len()];
    for index in 0..DRAWS {
        let history = history(&[], &generated[..index]);
        let sampled = sample(&mut logits.to_vec(), &history, params, &[]);
        counts[sampled.token as usize] += 1.0 / DRAWS as f64;
    }
    counts
}

fn softmax(logits: &[f32], temperature: f64) -> Vec<f64> {
    let weights: Vec<f64> = logits
        .iter()
        .map(|it| (f64::from(*it) / temperature).exp())
        .collect();
    let sum: f64 = weights.iter().sum();
    weights.iter().map(|it| it / sum).collect()
}

fn assert_close(got: &[f64], expected: &[f64]) {
    for (got, expected) in got.iter().zip(expected) {
        // Four standard deviations of 20,000 draws.
        let tolerance = 4.0 * (expected * (1.0 - expected) / 20_000.0).sqrt() + 1e-9;
        assert!((got - expected).abs() <= tolerance, "{got} for {expected}");
    }
}

const LOGITS: [f32; 5] = [1.0, 2.0, 0.0, -1.0, 1.5];

#[test]
fn greedy_takes_the_highest_and_of_equal_ones_the_lowest_token() {
    let empty = history(&[], &[]);
    assert_eq!(greedy_after(&LOGITS, &empty, params()), 1);
    assert_eq!(greedy_after(&[0.0, 3.0, 3.0], &empty, params()), 1);
}

#[test]
fn logits_that_are_no_numbers_are_safe() {
    let (nan, inf) = (f32::NAN, f32::INFINITY);
    let table: [(&[f32], u32); 5] = [
        (&[nan, 1.0, 2.0], 2),
        (&[inf, 1.0, nan], 0),
        (&[-inf, -inf, 0.0], 2),
        (&[nan, nan, nan], 0),
        (&[-inf, -inf, -inf], 0),
    ];
    for (logits, expected) in table {
        for temperature in [0.0, 0.7] {
            let params = SamplingParams {
                temperature,
                logprobs: Some(3),
                repetition_penalty: 1.5,
                seed: 3,
                ..params()
            };
            let mut changed = logits.to_vec();
            let sampled = sample(&mut changed, &history(&[0, 1, 2, 9], &[]), &params, &[]);
            let possible = sampled.token == expected || logits[sampled.token as usize].is_finite();
            assert!(possible, "{logits:?} gave {}", sampled.token);
            let logprobs = sampled.top.iter().map(|it| it.logprob);
            assert!(logprobs.chain(sampled.logprob).all(|it| !it.is_nan()));
        }
    }
}

#[test]
fn penalties_change_the_choice() {
    let base = params();
    let with = |change: fn(&mut SamplingParams)| {
        let mut params = base.clone();
        change(&mut params);
        params
    };
    let table = [
        // Token 1 (2.0) falls below token 4 (1.5) for being in the prompt.
        (with(|p| p.repetition_penalty = 1.4), vec![1], vec![], 4),
        (with(|p| p.repetition_penalty = 1.4), vec![], vec![1], 4),
        (with(|p| p.repetition_penalty = 1.2), vec![1], vec![1], 1),
        // Presence and frequency don't count the prompt.
        (with(|p| p.presence_penalty = 0.6), vec![1], vec![], 1),
        (with(|p| p.presence_penalty = 0.6), vec![], vec![1, 1], 4),
        (with(|p| p.presence_penalty = 0.4), vec![], vec![1, 1], 1),
        (with(|p| p.frequency_penalty = 0.3), vec![], vec![1], 1),
        (with(|p| p.frequency_penalty = 0.3), vec![], vec![1, 1], 4),
        (with(|p| p.frequency_penalty = -1.0), vec![], vec![4], 4),
    ];
    for (params, prompt, generated, expected) in table {
        let token = greedy_after(&LOGITS, &history(&prompt, &generated), params.clone());
        assert_eq!(token, expected, "{params:?} {prompt:?} {generated:?}");
    }
}

#[test]
fn repetition_lowers_positive_and_negative_logits_once() {
    let mut logits = [2.0, -2.0, 1.0];
    let params = SamplingParams {
        repetition_penalty: 2.0,
        ..params()
    };
    penalty::apply(&mut logits, &history(&[0, 1, 0], &[1, 77]), &params);
    assert_eq!(logits, [1.0, -4.0, 1.0]);
}

#[test]
fn stop_tokens_are_out_before_min_tokens() {
    let logits = [5.0, 4.0, 3.0];
    let stops = |min_tokens, ignore_eos| SamplingParams {
        min_tokens,
        ignore_eos,
        stop_token_ids: vec![1],
        ..params()
    };
    let table = [
        (stops(0, false), vec![], 0),
        (stops(1, false), vec![], 2),
        (stops(1, false), vec![9], 0),
        (stops(2, false), vec![9], 2),
        (stops(1, true), vec![], 0),
    ];
    for (params, generated, expected) in table {
        let token = greedy_after(&logits, &history(&[], &generated), params.clone());
        assert_eq!(token, expected, "{params:?} after {generated:?}");
    }
}

#[test]
fn draws_follow_the_distribution_at_each_temperature() {
    for temperature in [0.5, 1.0, 2.0] {
        let params = SamplingParams {
            temperature,
            seed: 11,
            ..params()
        };
        let expected = softmax(&LOGITS, f64::from(temperature));
        assert_close(&frequencies(&LOGITS, &params), &expected);
    }
}

#[test]
fn filters_leave_their_set_renormalised() {
    // Probabilities about 0.20, 0.54, 0.07, 0.03, 0.33 over their sum.
    let filters = |top_k, top_p, min_p| SamplingParams {
        top_k,
        top_p,
        min_p,
        ..params()
    };
    let table: [(SamplingParams, &[usize]); 8] = [
        (filters(2, 1.0, 0.0), &[1, 4]),
        (filters(1, 1.0, 0.0), &[1]),
        (filters(9, 1.0, 0.0), &[0, 1, 2, 3, 4]),
        (filters(0, 0.7, 0.0), &[1, 4]),
        (filters(0, 0.0, 0.0), &[1]),
        (filters(0, 0.95, 0.0), &[0, 1, 2, 4]),
        (filters(0, 1.0, 0.3), &[0, 1, 4]),
        // Top-p counts shares of what min-p and top-k left.
        (filters(3, 0.6, 0.5), &[1]),
    ];
    for (params, kept) in table {
        let weights: Vec<f32> = (0..LOGITS.len())
            .map(|token| match kept.contains(&token) {
                true => LOGITS[token],
                false => f32::NEG_INFINITY,
            })
            .collect();
        assert_close(&frequencies(&LOGITS, &params), &softmax(&weights, 1.0));
    }
}

#[test]
fn top_k_keeps_ties_with_its_last() {
    let params = SamplingParams {
        top_k: 1,
        ..params()
    };
    let kept = filter::keep(&[1.0, 2.0, 2.0], &params, |logit| f64::from(logit - 2.0));
    assert_eq!(kept.len(), 2);
}

#[test]
fn top_p_stops_where_its_share_is_reached() {
    let params = SamplingParams {
        top_p: 0.5,
        ..params()
    };
    let kept = filter::keep(&[2.0, 2.0], &params, |logit| f64::from(logit - 2.0));
    assert_eq!(kept.iter().map(|it| it.token).collect::<Vec<_>>(), [0]);
}

#[test]
fn a_draw_depends_on_seed_and_index_only() {
    let logits: Vec<f32> = (0..100).map(|token| (token % 7) as f32 * 0.1).collect();
    let draw = |seed, generated: &[u32]| {
        let params = SamplingParams { seed, ..params() };
        sample(&mut logits.clone(), &history(&[1], generated), &params, &[]).token
    };
    assert_eq!(draw(5, &[1, 2]), draw(5, &[8, 9]));
    let by_seed: std::collections::HashSet<u32> = (0..50).map(|seed| draw(seed, &[])).collect();
    let by_index: std::collections::HashSet<u32> =
        (0..50).map(|index| draw(5, &vec![0; index])).collect();
    assert!(by_seed.len() > 20 && by_index.len() > 20);
}

#[test]
fn a_tiny_difference_in_logits_rarely_changes_a_draw() {
    let params = params();
    let flat: Vec<f32> = (0..1000).map(|token| (token % 13) as f32 * 0.01).collect();
    let nudged: Vec<f32> = (0..1000)
        .map(|it| flat[it] + (it % 3) as f32 * 1e-5)
        .collect();
    let generated = vec![0; 2000];
    let differ = (0..2000).filter(|&index| {
        let history = history(&[], &generated[..index]);
        let draw = |logits: &[f32]| sample(&mut logits.to_vec(), &history, &params, &[]).token;
        draw(&flat) != draw(&nudged)
    });
    assert!(differ.count() <= 2);
}

#[test]
fn logprobs_are_of_the_model_not_of_the_filtered_distribution() {
    let params = SamplingParams {
        temperature: 0.1,
        top_k: 1,
        repetition_penalty: 3.0,
        logprobs: Some(2),
        ..params()
    };
    let sampled = sample(&mut LOGITS.to_vec(), &history(&[1], &[]), &params, &[]);
    assert_eq!(sampled.token, 4);
    let expected = softmax(&LOGITS, 1.0);
    let logprob = f64::from(sampled.logprob.unwrap());
    assert!((logprob - expected[4].ln()).abs() < 1e-6);
    let top: Vec<u32> = sampled.top.iter().map(|it| it.token).collect();
    assert_eq!(top, [1, 4]);
    assert!((f64::from(sampled.top[0].logprob) - expected[1].ln()).abs() < 1e-6);
}

#[test]
fn score_takes_any_token() {
    let scored = score(&[0.0, f32::NEG_INFINITY], 1, 0);
    assert_eq!(scored.logprob, Some(f32::NEG_INFINITY));
    assert!(scored.top.is_empty());
    assert_eq!(score(&[0.0, 0.0], 7, 9).top.len(), 2);
    let huge = score(&[3e38, 3e38], 0, 1);
    assert!((huge.logprob.unwrap() - 0.5f32.ln()).abs() < 1e-6);
}

proptest! {
    #[test]
    fn top_p_agrees_with_sorting_the_whole_vocabulary(
        logits in prop::collection::vec(-8i32..8, 1..700),
        top_p in 0.0f32..1.0,
    ) {
        let logits: Vec<f32> = logits.iter().map(|it| *it as f32 / 4.0).collect();
        let params = SamplingParams { top_p, ..params() };
        let top = logits.iter().copied().fold(f32::MIN, f32::max);
        let scaled = |logit: f32| f64::from(logit - top);
        let mut sorted: Vec<(u32, f32)> = (0..).zip(logits.iter().copied()).collect();
        sorted.sort_by(|a, b| b.1.total_cmp(&a.1));
        let total: f64 = sorted.iter().map(|it| scaled(it.1).exp()).sum();
        let mut before = 0.0;
        let mut expected: Vec<u32> = Vec::new();
        for (token, logit) in sorted {
            // Sums in another order differ in their last bits.
            if before > f64::from(top_p) * total * (1.0 + 1e-5) {
                break;
            }
            expected.push(token);
            before += scaled(logit).exp();
        }
        let kept: Vec<u32> = filter::keep(&logits, &params, scaled).iter().map(|it| it.token).collect();
        prop_assert!(kept.len() >= expected.len().saturating_sub(1).max(1));
        prop_assert_eq!(&kept[..], &expected[..kept.len()]);
    }

    #[test]
    fn the_best_agree_with_sorting(logits in prop::collection::vec(-20i32..20, 1..200), top in 0u32..30) {
        let logits: Vec<f32> = logits.iter().map(|it| *it as f32).collect();
        let mut sorted: Vec<(u32, f32)> = (0..).zip(logits.iter().copied()).collect();
        sorted.sort_by(|a, b| b.1.total_cmp(&a.1));
        let expected: Vec<u32> = sorted.iter().take(top as usize).map(|it| it.0).collect();
        let got: Vec<u32> = score(&logits, 0, top).top.iter().map(|it| it.token).collect();
        prop_assert_eq!(got, expected);
    }
}

#[test]
fn bias_is_added_before_the_draw() {
    let with = |bias: &[(u32, f32)]| SamplingParams {
        tokens: TokenRules {
            bias: bias.to_vec(),
            ..TokenRules::default()
        },
        ..params()
    };
    let none = history(&[], &[]);
    assert_eq!(greedy_after(&LOGITS, &none, with(&[(3, 100.0)])), 3);
    assert_eq!(greedy_after(&LOGITS, &none, with(&[(1, -100.0)])), 4);
    assert_eq!(greedy_after(&LOGITS, &none, with(&[(77, 100.0)])), 1);
    let shifted = [LOGITS[0], LOGITS[1] - 1.0, LOGITS[2], LOGITS[3], LOGITS[4]];
    let drawn = frequencies(&LOGITS, &with(&[(1, -1.0)]));
    assert_close(&drawn, &softmax(&shifted, 1.0));
}

#[test]
fn only_allowed_tokens_and_the_end_of_text_are_drawn() {
    let rules = SamplingParams {
        tokens: TokenRules {
            allowed: vec![2, 3, 900],
            ..TokenRules::default()
        },
        ..params()
    };
    let logits: Vec<f32> = (0..5)
        .map(|it| match it {
            0 | 2 | 3 => LOGITS[it],
            _ => f32::NEG_INFINITY,
        })
        .collect();
    let mut counts = [0.0; 5];
    let generated = vec![0; 20_000];
    for index in 0..20_000 {
        let history = history(&[], &generated[..index]);
        let sampled = sample(&mut LOGITS.to_vec(), &history, &rules, &[0]);
        counts[sampled.token as usize] += 1.0 / 20_000.0;
    }
    assert_close(&counts, &softmax(&logits, 1.0));
}

#[test]
fn a_banned_sequence_is_not_completed() {
    let rules = SamplingParams {
        tokens: TokenRules {
            banned: vec![vec![7, 8, 1], vec![4], vec![]],
            ..TokenRules::default()
        },
        ..params()
    };
    let table: [(&[u32], u32); 4] = [(&[], 1), (&[8], 1), (&[7, 8], 0), (&[9, 7, 8], 0)];
    for (generated, expected) in table {
        let token = greedy_after(&LOGITS, &history(&[7, 8], generated), rules.clone());
        assert_eq!(token, expected, "after {generated:?}");
    }
}

#[test]
fn within_a_mask_draws_follow_the_rest_of_the_distribution() {
    let mut mask = TokenMask::none(5);
    for token in [0, 2, 4] {
        mask.allow(token);
    }
    let mut counts = [0.0; 5];
    let generated = vec![0; 20_000];
    let params = SamplingParams {
        logprobs: Some(1),
        ..params()
    };
    for index in 0..20_000 {
        let history = history(&[], &generated[..index]);
        let sampled = sample_within(&mut LOGITS.to_vec(), &history, &params, &mask);
        counts[sampled.token as usize] += 1.0 / 20_000.0;
        assert_eq!(sampled.top[0].token, 1, "logprobs are the model's own");
    }
    let (inf, own) = (f32::NEG_INFINITY, LOGITS);
    assert_close(&counts, &softmax(&[own[0], inf, own[2], inf, own[4]], 1.0));
}

#[test]
fn a_mask_holds_even_if_the_model_finds_all_of_it_impossible() {
    let mut mask = TokenMask::none(5);
    mask.allow(3);
    for temperature in [0.0, 1.0] {
        let params = SamplingParams {
            temperature,
            repetition_penalty: 2.0,
            ..params()
        };
        let mut logits = [f32::NAN; 5];
        let sampled = sample_within(&mut logits, &history(&[3], &[3]), &params, &mask);
        assert_eq!(sampled.token, 3);
    }
}
