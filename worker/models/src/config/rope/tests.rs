use std::f64::consts::TAU;

use serde_json::{Value, json};

use super::*;

fn rope(dim: usize, theta: f64, scaling: RopeScaling) -> Rope {
    Rope {
        dim,
        theta,
        scaling,
    }
}

fn parse(parameters: Value, dim: usize) -> Rope {
    let config = json!({ "max_position_embeddings": 4096, "rope_parameters": parameters });
    Rope::parse(&Fields::of("config.json", &config).unwrap(), dim).unwrap()
}

#[test]
fn llama3_keeps_high_divides_low_and_blends_between() {
    let llama3 = RopeScaling::Llama3 {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 8192,
    };
    let scaled = rope(128, 500_000.0, llama3).inverse_frequencies();
    let plain = rope(128, 500_000.0, RopeScaling::None).inverse_frequencies();
    assert_eq!(scaled.len(), 64);
    assert_eq!(scaled[0], 1.0);
    assert_eq!(scaled[20], plain[20]);
    assert!((scaled[63] * 8.0 / plain[63] - 1.0).abs() < 1e-6);
    // Pair 32 turns 8192 * 500000^-0.5 / 2 pi = 1.84 times in the original
    // context: 0.2813 of it is kept.
    let kept = (8192.0 * 500_000f64.sqrt().recip() / TAU - 1.0) / 3.0;
    let expected = f64::from(plain[32]) * (kept + (1.0 - kept) / 8.0);
    assert!((f64::from(scaled[32]) / expected - 1.0).abs() < 1e-6);
}

#[test]
fn linear_divides_all() {
    let of = |scaling| rope(4, 100.0, scaling).inverse_frequencies();
    assert_eq!(of(RopeScaling::Linear { factor: 2.0 }), [0.5, 0.05]);
    assert_eq!(of(RopeScaling::None), [1.0, 0.1]);
}

#[test]
fn yarn_keeps_fast_pairs_divides_slow_ones_and_raises_magnitude() {
    let yarn = json!({
        "rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0,
        "original_max_position_embeddings": 1024
    });
    let scaled = parse(yarn, 64);
    let plain = rope(64, 10_000.0, RopeScaling::None).inverse_frequencies();
    // 32 turns in 1024 positions: pair 5.65; one turn: pair 17.69.
    let frequencies = scaled.inverse_frequencies();
    assert_eq!(frequencies[..6], plain[..6]);
    for pair in 18..32 {
        assert!((frequencies[pair] * 4.0 / plain[pair] - 1.0).abs() < 1e-6);
    }
    let kept = 1.0 - (12.0 - 5.0) / (18.0 - 5.0);
    let expected = plain[12] * (kept + (1.0 - kept) / 4.0);
    assert!((frequencies[12] / expected - 1.0).abs() < 1e-6);
    assert!((scaled.magnitude() - (0.1 * 4f32.ln() + 1.0)).abs() < 1e-6);
    assert_eq!(scaled.score_multiplier(), 1.0);
}

#[test]
fn yarn_moves_magnitude_from_numbers_to_scores_where_asked() {
    let yarn = json!({
        "type": "yarn", "factor": 40, "mscale": 0.707, "mscale_all_dim": 0.707,
        "original_max_position_embeddings": 1024
    });
    let rope = parse(yarn, 64);
    assert_eq!(rope.magnitude(), 1.0);
    let mscale = 0.1 * 0.707 * 40f32.ln() + 1.0;
    assert!((rope.score_multiplier() - mscale * mscale).abs() < 1e-5);
}

#[test]
fn long_rope_takes_long_factors_if_the_model_is_made_for_more_than_its_training() {
    let of = |original: u64| {
        parse(
            json!({
                "rope_type": "longrope", "rope_theta": 100.0, "long_factor": [2.0, 4.0],
                "short_factor": [1.0, 2.0], "original_max_position_embeddings": original
            }),
            4,
        )
    };
    assert_eq!(of(1024).inverse_frequencies(), [0.5, 0.025]);
    let magnitude = (1.0 + 4f32.ln() / 1024f32.ln()).sqrt();
    assert!((of(1024).magnitude() - magnitude).abs() < 1e-6);
    assert_eq!(of(4096).inverse_frequencies(), [1.0, 0.05]);
    assert_eq!(of(4096).magnitude(), 1.0);
}
