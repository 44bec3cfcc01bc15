use half::{bf16, f16};
use proptest::prelude::*;

use super::*;
use crate::cpu::compute::CpuOptions;
use crate::cpu::isa::Isa;
use crate::cpu::testing::numbers;

const ENCODINGS: [Encoding; 8] = [
    Encoding::F32,
    Encoding::Bf16,
    Encoding::F16,
    Encoding::F8,
    Encoding::Q8_0,
    Encoding::Q4_0,
    Encoding::Q4K,
    Encoding::Q6K,
];

fn compute(isa: Isa, threads: usize, bf16_activations: Bf16Activations) -> Compute {
    let options = CpuOptions {
        threads,
        isa: Some(isa),
        bf16_activations,
    };
    Compute::new(&options).unwrap()
}

/// Any bytes are some matrix, once scales are ordinary numbers.
fn stored(encoding: Encoding, rows: usize, cols: usize, seed: u64) -> StoredMatrix {
    let numbers = numbers(seed, rows * cols);
    let each = |encode: fn(f32) -> Vec<u8>| numbers.iter().flat_map(|&x| encode(x)).collect();
    let data = match encoding {
        Encoding::F32 => each(|x| x.to_le_bytes().to_vec()),
        Encoding::Bf16 => each(|x| bf16::from_f32(x).to_le_bytes().to_vec()),
        Encoding::F16 => each(|x| f16::from_f32(x).to_le_bytes().to_vec()),
        // All but NaN.
        Encoding::F8 => each(|x| vec![((x * 254.0) as i32 & 0xff) as u8 & 0xfb]),
        _ => blocks_of(encoding, &numbers),
    };
    StoredMatrix::new(encoding, (rows, cols), data.into()).unwrap()
}

fn blocks_of(encoding: Encoding, numbers: &[f32]) -> Vec<u8> {
    let scales: &[usize] = match encoding {
        Encoding::Q4K => &[0, 2],
        Encoding::Q6K => &[208],
        _ => &[0],
    };
    let (numbers, _) = numbers.as_chunks::<32>();
    let mut data = Vec::new();
    for of_block in numbers.chunks(encoding.block() / 32) {
        let random: Vec<u8> = of_block
            .iter()
            .flatten()
            .map(|x| (x * 8e6) as i32 as u8)
            .collect();
        let mut block: Vec<u8> = random
            .into_iter()
            .cycle()
            .take(encoding.block_bytes())
            .collect();
        for (&at, x) in scales.iter().zip(of_block[0]) {
            block[at..at + 2].copy_from_slice(&f16::from_f32(x * 0.01).to_le_bytes());
        }
        data.extend(block);
    }
    data
}

fn product(matrix: &Matrix, x: &[f32], bias: Option<&[f32]>, on: &Compute) -> Vec<f32> {
    let tokens = x.len() / matrix.cols();
    let mut out = vec![f32::NAN; tokens * matrix.rows()];
    let activations = Activations { x, tokens, bias };
    matrix.product(activations, &mut out, on).unwrap();
    out
}

/// What activations become before they meet a weight of this encoding.
fn rounded(encoding: Encoding, bf16_activations: Bf16Activations, x: &[f32]) -> Vec<f64> {
    match encoding {
        Encoding::F32 | Encoding::F16 | Encoding::F8 => x.iter().map(|&x| x.into()).collect(),
        Encoding::Bf16 if bf16_activations == Bf16Activations::Exact => {
            x.iter().map(|&x| x.into()).collect()
        }
        Encoding::Bf16 => x.iter().map(|&x| bf16::from_f32(x).into()).collect(),
        _ => x
            .chunks(32)
            .flat_map(|block| {
                let largest = block.iter().fold(0.0f32, |max, x| max.max(x.abs()));
                // As the kernels say it, since ties may fall to either side.
                let scale = largest / 127.0;
                let inverse = scale.recip();
                let quant =
                    move |&x: &f32| f64::from((x * inverse).round_ties_even()) * f64::from(scale);
                block.iter().map(quant).collect::<Vec<_>>()
            })
            .collect(),
    }
}

fn exact(stored: &StoredMatrix, x: &[f64], bias: &[f32]) -> Vec<f64> {
    let weights = stored.to_f32();
    let mut out = Vec::new();
    for x in x.chunks(stored.cols()) {
        for (weights, bias) in weights.chunks(stored.cols()).zip(bias) {
            let terms = x.iter().zip(weights).map(|(x, &w)| x * f64::from(w));
            out.push(terms.sum::<f64>() + f64::from(*bias));
        }
    }
    out
}

#[test]
fn packed_rows_are_the_stored_ones_to_the_bit() {
    let on = compute(Isa::Portable, 2, Bf16Activations::Exact);
    for encoding in ENCODINGS {
        let stored = stored(encoding, 37, 512, 3)
            .with_row_scales(numbers(4, 37))
            .unwrap();
        let matrix = on.matrix(stored.clone()).unwrap();
        let (mut found, mut expected) = (vec![0.0; 512], vec![0.0; 512]);
        for row in 0..37 {
            matrix.decode_row(row, &mut found);
            stored.decode_row(row, &mut expected);
            assert_eq!(found, expected, "{encoding:?} row {row}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn every_instruction_set_gives_the_portable_bits_near_the_exact_numbers(
        encoding in prop::sample::select(ENCODINGS.to_vec()),
        bf16_activations in prop::sample::select(vec![
            Bf16Activations::Exact,
            Bf16Activations::Rounded,
        ]),
        tokens in 1usize..21,
        rows in 1usize..40,
        blocks in 1usize..4,
        seed in 0u64..1000,
    ) {
        let cols = blocks * encoding.block().max(32);
        let (x, bias) = (numbers(seed, tokens * cols), numbers(seed + 1, rows));
        let stored = stored(encoding, rows, cols, seed + 2);
        let exact = exact(&stored, &rounded(encoding, bf16_activations, &x), &bias);
        let largest = exact.iter().fold(1.0f64, |max, x| max.max(x.abs()));
        let mut oracle = None;
        for isa in Isa::available() {
            let tiles = isa == Isa::Amx
                && encoding == Encoding::Bf16
                && bf16_activations == Bf16Activations::Rounded;
            let on = compute(isa, 1, bf16_activations);
            let matrix = on.matrix(stored.clone()).unwrap();
            let found = product(&matrix, &x, Some(&bias), &on);
            for (found, exact) in found.iter().zip(&exact) {
                let error = (f64::from(*found) - exact).abs();
                // Minima cancel most of what scales add up to.
                let bound = if encoding == Encoding::Q4K { 1e-4 } else { 1e-5 };
                prop_assert!(error < bound * largest, "{isa} {encoding:?}: {found} {exact}");
            }
            if !tiles {
                let oracle = oracle.get_or_insert_with(|| found.clone());
                prop_assert_eq!(&found, oracle, "{} {:?}", isa, encoding);
            }
        }
    }

    #[test]
    fn a_token_gets_the_same_bits_in_any_batch_on_any_threads(
        encoding in prop::sample::select(ENCODINGS.to_vec()),
        bf16_activations in prop::sample::select(vec![
            Bf16Activations::Exact,
            Bf16Activations::Rounded,
        ]),
        tokens in 2usize..70,
        rows in 100usize..300,
        seed in 0u64..1000,
    ) {
        let cols = 512;
        let x = numbers(seed, tokens * cols);
        let stored = stored(encoding, rows, cols, seed + 2);
        for isa in Isa::available() {
            let on = compute(isa, 3, bf16_activations);
            let alone = compute(isa, 1, bf16_activations);
            let matrix = on.matrix(stored.clone()).unwrap();
            let together = product(&matrix, &x, None, &on);
            for token in [0, tokens / 2, tokens - 1] {
                let one = product(&matrix, &x[token * cols..][..cols], None, &alone);
                prop_assert_eq!(&together[token * rows..][..rows], &one, "{} {:?}", isa, encoding);
            }
        }
    }
}

#[test]
fn weights_larger_than_a_strip_give_the_same_bits() {
    for encoding in [Encoding::Q8_0, Encoding::Q4K, Encoding::Bf16] {
        let (rows, cols) = (200, 8192);
        let stored = stored(encoding, rows, cols, 7);
        let x = numbers(8, 33 * cols);
        let on = compute(Isa::detect(), 2, Bf16Activations::Rounded);
        let matrix = on.matrix(stored).unwrap();
        let together = product(&matrix, &x, None, &on);
        for token in [0, 17, 32] {
            let one = product(&matrix, &x[token * cols..][..cols], None, &on);
            assert_eq!(&together[token * rows..][..rows], &one, "{encoding:?}");
        }
    }
}

#[test]
fn columns_that_are_no_whole_vectors_are_not_lost() {
    let (x, bias) = (numbers(1, 3 * 77), numbers(2, 19));
    for encoding in [Encoding::F32, Encoding::Bf16, Encoding::F16, Encoding::F8] {
        for bf16_activations in [Bf16Activations::Exact, Bf16Activations::Rounded] {
            let stored = stored(encoding, 19, 77, 3);
            let exact = exact(&stored, &rounded(encoding, bf16_activations, &x), &bias);
            let largest = exact.iter().fold(1.0f64, |max, x| max.max(x.abs()));
            for isa in Isa::available() {
                let on = compute(isa, 1, bf16_activations);
                let matrix = on.matrix(stored.clone()).unwrap();
                let found = product(&matrix, &x, Some(&bias), &on);
                for (found, exact) in found.iter().zip(&exact) {
                    assert!(
                        (f64::from(*found) - exact).abs() < 1e-5 * largest,
                        "{encoding:?}"
                    );
                }
            }
        }
    }
}

#[test]
fn refuses_buffers_that_are_too_short() {
    let on = compute(Isa::Portable, 1, Bf16Activations::Exact);
    let matrix = on.matrix(stored(Encoding::Q8_0, 4, 64, 1)).unwrap();
    let refused = |x: usize, out: usize, bias: usize| {
        let activations = Activations {
            x: &vec![0.0; x],
            tokens: 2,
            bias: Some(&vec![0.0; bias]),
        };
        matrix
            .product(activations, &mut vec![0.0; out], &on)
            .is_err()
    };
    assert!(refused(127, 8, 4));
    assert!(refused(128, 7, 4));
    assert!(refused(128, 8, 3));
    assert!(!refused(128, 8, 4));
}

/// Encodings whose weights meet activations in several forms, of one matrix and
/// of another with other columns.
#[test]
fn products_together_are_those_alone() {
    let encodings = [
        Encoding::Q8_0,
        Encoding::F32,
        Encoding::Q4_0,
        Encoding::Bf16,
        Encoding::Q6K,
        Encoding::Q8_0,
    ];
    for isa in Isa::available() {
        let on = compute(isa, 2, Bf16Activations::Rounded);
        let cols = |index: usize| if index == 5 { 256 } else { 512 };
        let matrices = encodings.iter().enumerate().map(|(index, &encoding)| {
            let stored = stored(encoding, 40 + 16 * index, cols(index), index as u64);
            on.matrix(stored).unwrap()
        });
        let matrices: Vec<_> = matrices.collect();
        let (tokens, x) = (9, numbers(3, 9 * 512));
        let bias = numbers(4, 200);
        let mut outs: Vec<_> = matrices
            .iter()
            .map(|it| vec![f32::NAN; tokens * it.rows()])
            .collect();
        let together = matrices.iter().zip(&mut outs).map(|(matrix, out)| Product {
            matrix,
            activations: Activations {
                x: &x,
                tokens,
                bias: Some(&bias),
            },
            out,
        });
        products(&mut together.collect::<Vec<_>>(), on.all()).unwrap();
        for (matrix, out) in matrices.iter().zip(&outs) {
            let x = &x[..tokens * matrix.cols()];
            assert_eq!(
                &product(matrix, x, Some(&bias[..matrix.rows()]), &on),
                out,
                "{isa:?}"
            );
        }
    }
}
