use bytes::Bytes;
use half::{bf16, f16};
use proptest::prelude::*;

use super::*;
use crate::cpu::testing::numbers;
use crate::host::HostTensor;

fn encode(dtype: DType, values: &[f32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|&v| match dtype {
            DType::F32 => v.to_le_bytes().to_vec(),
            DType::Bf16 => bf16::from_f32(v).to_le_bytes().to_vec(),
            DType::F16 => f16::from_f32(v).to_le_bytes().to_vec(),
        })
        .collect()
}

struct Case {
    tokens: usize,
    rows: usize,
    op: Matmul<'static>,
}

fn case(dtype: DType, tokens: usize, rows: usize, k: usize) -> Case {
    let leak = |v: Vec<f32>| -> &'static [f32] { v.leak() };
    Case {
        tokens,
        rows,
        op: Matmul {
            k,
            x: leak(numbers(1, tokens * k)),
            w: encode(dtype, &numbers(2, rows * k)).leak(),
            dtype,
            bias: Some(leak(numbers(3, rows))),
        },
    }
}

fn run(kernels: Kernels, case: &Case) -> Vec<f32> {
    let mut out = vec![0.0; case.tokens * case.rows];
    kernels.matmul(&case.op, &mut ColumnsMut::whole(&mut out, case.rows));
    out
}

fn exact(case: &Case) -> Vec<f64> {
    let op = &case.op;
    let w = HostTensor::new(op.dtype, case.rows, op.k, Bytes::from_static(op.w))
        .unwrap()
        .to_f32();
    let mut out = Vec::new();
    for x in op.x.chunks(op.k) {
        for (row, w) in w.chunks(op.k).enumerate() {
            let dot: f64 = x
                .iter()
                .zip(w)
                .map(|(x, w)| f64::from(*x) * f64::from(*w))
                .sum();
            out.push(dot + f64::from(op.bias.unwrap()[row]));
        }
    }
    out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn all_instruction_sets_give_the_portable_bits(
        dtype in prop::sample::select(vec![DType::F32, DType::Bf16, DType::F16]),
        tokens in 1usize..11,
        rows in 1usize..21,
        k in 1usize..80,
    ) {
        let case = case(dtype, tokens, rows, k);
        let oracle = run(Kernels(Isa::Portable), &case);
        for (found, exact) in oracle.iter().zip(exact(&case)) {
            prop_assert!((f64::from(*found) - exact).abs() < 1e-4);
        }
        for kernels in Kernels::all() {
            prop_assert_eq!(&run(kernels, &case), &oracle, "{:?}", kernels);
        }
    }

    #[test]
    fn sums_and_dots_give_the_portable_bits(len in 1usize..70, count in 0usize..17) {
        let x = numbers(1, len);
        let rows = numbers(2, len * count);
        let op = WeightedSum { scale: 0.7, weights: &numbers(3, count), rows: &rows };
        let run = |kernels: Kernels| {
            let mut out = x.clone();
            kernels.weighted_sum(&op, &mut out);
            (kernels.dot(&x, &out), out)
        };
        let oracle = run(Kernels(Isa::Portable));
        for (i, found) in oracle.1.iter().enumerate() {
            let weighted: f64 = (0..count)
                .map(|j| f64::from(op.weights[j]) * f64::from(rows[j * len + i]))
                .sum();
            prop_assert!((f64::from(*found) - (f64::from(x[i]) * 0.7 + weighted)).abs() < 1e-5);
        }
        for kernels in Kernels::all() {
            prop_assert_eq!(&run(kernels), &oracle, "{:?}", kernels);
        }
    }
}

#[test]
fn a_token_alone_gets_the_bits_it_gets_among_others() {
    // Longer than one strip of weights and one group of activations.
    for (rows, k) in [(301, 513), (70, 64), (9, 10_000)] {
        for dtype in [DType::F32, DType::Bf16, DType::F16] {
            let together = case(dtype, 39, rows, k);
            for kernels in Kernels::all() {
                let all = run(kernels, &together);
                for token in [0, 3, 38] {
                    let alone = Case {
                        tokens: 1,
                        rows,
                        op: Matmul {
                            x: &together.op.x[token * k..(token + 1) * k],
                            ..together.op
                        },
                    };
                    assert_eq!(run(kernels, &alone), all[token * rows..(token + 1) * rows]);
                }
            }
        }
    }
}

#[test]
fn columns_computed_apart_are_those_computed_together() {
    let case = case(DType::F32, 5, 37, 48);
    let kernels = Kernels::detect();
    let together = run(kernels, &case);
    let mut apart = vec![0.0; 5 * 37];
    let w = case.op.w;
    use rayon::prelude::*;
    ColumnsMut::whole(&mut apart, 37)
        .split(7)
        .for_each(|mut part| {
            let op = Matmul {
                w: &w[part.first() * 48 * 4..(part.first() + part.width()) * 48 * 4],
                bias: case.op.bias.map(|bias| &bias[part.first()..]),
                ..case.op
            };
            kernels.matmul(&op, &mut part);
        });
    assert_eq!(apart, together);
}
