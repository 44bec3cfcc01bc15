//! Routing and experts against their definitions.

use super::*;
use crate::ops::{ExpertGroups, RouterScore};

const ROUTING: Routing = Routing {
    experts: 4,
    top_k: 2,
    score: RouterScore::Softmax,
    groups: None,
    normalise: false,
    scale: 1.0,
};
const IN: usize = 70;
const OUT: usize = 90;

fn routed(routing: &Routing, logits: &[f32], bias: Option<&Vec<f32>>) -> CpuRoutes {
    let device = CpuDevice::new(&CpuOptions::new(1)).unwrap();
    let mut routes = CpuRoutes::default();
    let rows = logits.len() / routing.experts;
    let logits = (&logits.to_vec(), bias);
    device.route(routing, logits, rows, &mut routes).unwrap();
    routes
}

/// Each row's experts and weights, best first: of outputs that are the expert's
/// number, and of outputs that are 1.
fn chosen(routing: &Routing, logits: &[f32], bias: Option<&Vec<f32>>) -> Vec<Vec<(usize, f32)>> {
    let routes = routed(routing, logits, bias);
    let experts = routing.experts;
    let mut one_hot = vec![0.0; routes.len() * experts];
    for (expert, routes) in routes.by_expert() {
        for route in routes {
            one_hot[route * experts + expert] = 1.0;
        }
    }
    let mut weights = vec![0.0; logits.len()];
    let device = CpuDevice::new(&CpuOptions::new(1)).unwrap();
    device
        .combine(&one_hot, experts, &routes, &mut weights)
        .unwrap();
    let of_row = |row: &[f32]| {
        let mut chosen: Vec<(usize, f32)> = row.iter().copied().enumerate().collect();
        chosen.retain(|(_, weight)| *weight != 0.0);
        chosen
    };
    weights.chunks(experts).map(of_row).collect()
}

fn assert_weights(found: &[(usize, f32)], expected: &[(usize, f32)]) {
    assert_eq!(found.len(), expected.len(), "{found:?}");
    for (found, expected) in found.iter().zip(expected) {
        assert_eq!(found.0, expected.0);
        assert!(
            (found.1 - expected.1).abs() < 1e-6,
            "{found:?} {expected:?}"
        );
    }
}

#[test]
fn softmax_routing_weighs_the_best_experts() {
    let logits = [0.0, 2f32.ln(), 0.0, 4f32.ln(), 0.0, 0.0, 0.0, 0.0];
    let plain = chosen(&ROUTING, &logits, None);
    assert_weights(&plain[0], &[(1, 0.25), (3, 0.5)]);
    // Of equals the first.
    assert_weights(&plain[1], &[(0, 0.25), (1, 0.25)]);
    let normalised = Routing {
        normalise: true,
        scale: 3.0,
        ..ROUTING
    };
    assert_weights(
        &chosen(&normalised, &logits, None)[0],
        &[(1, 1.0), (3, 2.0)],
    );
}

#[test]
fn a_bias_changes_the_choice_and_not_the_weights() {
    let sigmoid = Routing {
        score: RouterScore::Sigmoid,
        ..ROUTING
    };
    let logits = [0.0, 3f32.ln(), 0.0, 0.0];
    let bias = vec![0.0, 0.0, 0.0, 0.5];
    let found = chosen(&sigmoid, &logits, Some(&bias));
    assert_weights(&found[0], &[(1, 0.75), (3, 0.5)]);
}

#[test]
fn only_the_best_groups_are_chosen_from() {
    let grouped = |best| Routing {
        experts: 6,
        score: RouterScore::Sigmoid,
        groups: Some(ExpertGroups {
            groups: 3,
            kept: 1,
            best,
        }),
        ..ROUTING
    };
    let s = |p: f32| (p / (1.0 - p)).ln();
    // Groups (0.9, 0.1), (0.6, 0.7), (0.2, 0.2).
    let logits = [s(0.9), s(0.1), s(0.6), s(0.7), s(0.2), s(0.2)];
    assert_weights(
        &chosen(&grouped(1), &logits, None)[0],
        &[(0, 0.9), (1, 0.1)],
    );
    assert_weights(
        &chosen(&grouped(2), &logits, None)[0],
        &[(2, 0.6), (3, 0.7)],
    );
}

#[test]
fn routings_that_cannot_be_are_refused() {
    let groups = |groups, kept, best| Routing {
        groups: Some(ExpertGroups { groups, kept, best }),
        ..ROUTING
    };
    let cases = [
        Routing {
            top_k: 0,
            ..ROUTING
        },
        Routing {
            top_k: 5,
            ..ROUTING
        },
        groups(3, 1, 1),
        groups(0, 1, 1),
        groups(2, 3, 1),
        groups(2, 1, 3),
        groups(4, 1, 1),
    ];
    for routing in cases {
        assert!(routing.validate().is_err(), "{routing:?}");
    }
    assert!(groups(2, 1, 2).validate().is_ok());
}

fn matrices() -> Vec<StoredMatrix> {
    (0..4)
        .map(|expert| {
            let values = numbers(20 + expert, OUT * IN);
            let data: Vec<u8> = values
                .into_iter()
                .flat_map(|v| bf16::from_f32(v).to_le_bytes())
                .collect();
            StoredMatrix::new(Encoding::Bf16, (OUT, IN), data.into()).unwrap()
        })
        .collect()
}

/// Two expert products, the second of the first's outputs, and their sum.
fn mixture(device: &CpuDevice, logits: &[f32], x: &[f32]) -> Vec<f32> {
    let rows = x.len() / IN;
    let (experts, bias) = (matrices(), numbers(30, 4 * OUT));
    let back: Vec<StoredMatrix> = experts
        .iter()
        .map(|expert| expert.transpose_columns(0, 1))
        .collect();
    let mut routes = CpuRoutes::default();
    let logits = (&logits.to_vec(), None);
    device.route(&ROUTING, logits, rows, &mut routes).unwrap();
    let mut inner = vec![0.0; rows * 2 * OUT];
    let tokens = ExpertInput::Tokens(&x.to_vec());
    device
        .expert_linear(
            &upload(device, &experts),
            Some(&bias),
            tokens,
            &routes,
            &mut inner,
        )
        .unwrap();
    let mut outer = vec![0.0; rows * 2 * IN];
    let routed = ExpertInput::Routes(&inner);
    device
        .expert_linear(&upload(device, &back), None, routed, &routes, &mut outer)
        .unwrap();
    let mut out = vec![0.0; rows * IN];
    device.combine(&outer, IN, &routes, &mut out).unwrap();
    out
}

#[test]
fn experts_are_what_a_loop_over_them_says() {
    let rows = 9;
    let (logits, x) = (numbers(1, rows * 4), numbers(2, rows * IN));
    let device = CpuDevice::new(&CpuOptions::new(1)).unwrap();
    let found = mixture(&device, &logits, &x);
    let bias = numbers(30, 4 * OUT);
    let weights: Vec<Vec<f32>> = matrices().iter().map(StoredMatrix::to_f32).collect();
    for (row, chosen) in chosen(&ROUTING, &logits, None).into_iter().enumerate() {
        for column in 0..IN {
            let mut exact = 0.0;
            for &(expert, share) in &chosen {
                for j in 0..OUT {
                    let w = &weights[expert][j * IN..(j + 1) * IN];
                    let x = &x[row * IN..(row + 1) * IN];
                    let dot = w.iter().zip(x).map(|(w, x)| f64::from(w * x)).sum::<f64>();
                    let inner = dot + f64::from(bias[expert * OUT + j]);
                    exact += f64::from(share) * inner * f64::from(w[column]);
                }
            }
            let found = f64::from(found[row * IN + column]);
            assert!((found - exact).abs() < 1e-3, "{found} {exact}");
        }
    }
}

#[test]
fn expert_bits_do_not_depend_on_company_or_threads() {
    let rows = 133;
    let (logits, x) = (numbers(1, rows * 4), numbers(2, rows * IN));
    let reference = mixture(&CpuDevice::new(&CpuOptions::new(1)).unwrap(), &logits, &x);
    for device in devices() {
        assert!(mixture(&device, &logits, &x) == reference);
        for row in [0, 17, 132] {
            let alone = mixture(
                &device,
                &logits[row * 4..(row + 1) * 4],
                &x[row * IN..(row + 1) * IN],
            );
            assert!(alone == reference[row * IN..(row + 1) * IN]);
        }
    }
}

#[test]
fn experts_that_do_not_fit_are_refused() {
    let device = CpuDevice::new(&CpuOptions::new(1)).unwrap();
    let routes = routed(&ROUTING, &[0.0; 8], None);
    let mut experts = matrices();
    let x = vec![0.0; 2 * IN];
    let mut out = vec![0.0; 4 * OUT];
    let mut run = |experts: &[StoredMatrix], x: &Vec<f32>| {
        let experts = upload(&device, experts);
        device.expert_linear(&experts, None, ExpertInput::Tokens(x), &routes, &mut out)
    };
    assert!(run(&experts, &x).is_ok());
    assert!(run(&experts, &vec![0.0; IN]).is_err());
    assert!(run(&experts[..3], &x).is_err());
    experts[2] = experts[2].transpose_columns(0, 1);
    assert!(run(&experts, &x).is_err());
}
