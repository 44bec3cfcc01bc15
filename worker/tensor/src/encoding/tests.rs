use proptest::prelude::*;

use super::*;
use crate::cpu::testing::numbers;

fn stored(encoding: Encoding, data: Vec<u8>) -> StoredMatrix {
    let blocks = data.len() / encoding.block_bytes();
    StoredMatrix::new(encoding, (1, blocks * encoding.block()), data.into()).unwrap()
}

#[test]
fn decodes_8_bit_blocks() {
    let mut block = f16::from_f32(0.5).to_le_bytes().to_vec();
    block.extend((0..32).map(|i| (i as i8 - 16) as u8));
    let expected: Vec<f32> = (0..32).map(|i| 0.5 * (i as f32 - 16.0)).collect();
    assert_eq!(stored(Encoding::Q8_0, block).to_f32(), expected);
}

#[test]
fn decodes_4_bit_blocks_halves_apart() {
    let mut block = f16::from_f32(2.0).to_le_bytes().to_vec();
    block.extend((0..16).map(|i| i | (15 - i) << 4));
    let out = stored(Encoding::Q4_0, block).to_f32();
    for i in 0..16 {
        assert_eq!(out[i], 2.0 * (i as f32 - 8.0));
        assert_eq!(out[16 + i], 2.0 * (7.0 - i as f32));
    }
}

/// Blocks of 256 from a recipe whose digests were computed with the `gguf`
/// package's own dequantisation: byte i of block b is (i * 7 + b * 13 + i * i /
/// 3) mod 256, but for the f16 scales, which are 1 / 64 and 1 / 32.
fn recipe(encoding: Encoding, scales_at: &[(usize, f32)]) -> Vec<u8> {
    let size = encoding.block_bytes();
    (0..2)
        .flat_map(|b| {
            let mut block: Vec<u8> = (0..size)
                .map(|i| ((i * 7 + b * 13 + i * i / 3) % 256) as u8)
                .collect();
            for &(at, scale) in scales_at {
                block[at..at + 2].copy_from_slice(&f16::from_f32(scale).to_le_bytes());
            }
            block
        })
        .collect()
}

/// A weighted sum that notices numbers in the wrong place; exact in f64.
fn digest(values: &[f32]) -> f64 {
    values
        .iter()
        .enumerate()
        .map(|(i, &v)| f64::from(v) * (i * 37 % 101) as f64)
        .sum()
}

#[test]
fn decodes_blocks_of_256_as_the_formats_own_library_does() {
    let q4 = recipe(Encoding::Q4K, &[(0, 1.0 / 64.0), (2, 1.0 / 32.0)]);
    let q6 = recipe(Encoding::Q6K, &[(208, 1.0 / 64.0)]);
    let q4 = stored(Encoding::Q4K, q4).to_f32();
    let q6 = stored(Encoding::Q6K, q6).to_f32();
    assert_eq!((digest(&q4), q4[3], q4[300]), (Q4K_DIGEST, Q4K_3, Q4K_300));
    assert_eq!((digest(&q6), q6[3], q6[300]), (Q6K_DIGEST, Q6K_3, Q6K_300));
}

const Q4K_DIGEST: f64 = 34141.890625;
const Q4K_3: f32 = 6.296875;
const Q4K_300: f32 = 10.15625;
const Q6K_DIGEST: f64 = 26428.578125;
const Q6K_3: f32 = -8.0;
const Q6K_300: f32 = -14.375;

#[test]
fn decodes_every_finite_f8() {
    assert_eq!(f8_to_f32(0x00), 0.0);
    assert_eq!(f8_to_f32(0x01), 2f32.powi(-9));
    assert_eq!(f8_to_f32(0x38), 1.0);
    assert_eq!(f8_to_f32(0xc0), -2.0);
    assert_eq!(f8_to_f32(0x7e), 448.0);
    for b in 0..0x7e {
        assert!(f8_to_f32(b) < f8_to_f32(b + 1));
        assert_eq!(f8_to_f32(b | 0x80), -f8_to_f32(b));
    }
}

#[test]
fn row_scales_multiply_rows() {
    let data: Vec<u8> = [1.0f32, 2.0, 3.0, 4.0]
        .iter()
        .flat_map(|x| x.to_le_bytes())
        .collect();
    let matrix = StoredMatrix::new(Encoding::F32, (2, 2), data.into()).unwrap();
    assert!(matrix.clone().with_row_scales(vec![1.0]).is_err());
    let matrix = matrix.with_row_scales(vec![10.0, 0.5]).unwrap();
    assert_eq!(matrix.to_f32(), [10.0, 20.0, 1.5, 2.0]);
}

#[test]
fn refuses_rows_of_part_blocks_and_bytes_of_another_length() {
    let new = |encoding, shape, bytes: usize| {
        StoredMatrix::new(encoding, shape, vec![0; bytes].into()).is_err()
    };
    assert!(new(Encoding::Q8_0, (1, 33), 34));
    assert!(new(Encoding::Q8_0, (2, 32), 34));
    assert!(new(Encoding::Q4K, (1, 32), 18));
    assert!(new(Encoding::Q6K, (usize::MAX, 256), 210));
    assert!(!new(Encoding::Q6K, (3, 512), 1260));
}

proptest! {
    #[test]
    fn quantising_moves_numbers_by_at_most_half_a_step(seed in 0u64..1000, rows in 1usize..4) {
        let values = numbers(seed, rows * 64);
        let data: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        let matrix = StoredMatrix::new(Encoding::F32, (rows, 64), data.into()).unwrap();
        for (encoding, steps) in [(Encoding::Q8_0, 127.0), (Encoding::Q4_0, 8.0)] {
            let quantized = matrix.quantize(encoding).unwrap().to_f32();
            for (block, found) in values.chunks(32).zip(quantized.chunks(32)) {
                let largest = block.iter().fold(0.0f32, |max, x| max.max(x.abs()));
                // The positive end of 4 bits is 7, a whole step short; scales are f16.
                let bound = largest / steps * if steps == 8.0 { 1.01 } else { 0.51 } + 1e-7;
                for (x, found) in block.iter().zip(found) {
                    prop_assert!((x - found).abs() <= bound, "{x} {found} {bound}");
                }
            }
        }
    }

    #[test]
    fn quantising_what_is_quantised_changes_nothing(seed in 0u64..1000) {
        let data: Vec<u8> = numbers(seed, 96).iter().flat_map(|x| x.to_le_bytes()).collect();
        let matrix = StoredMatrix::new(Encoding::F32, (3, 32), data.into()).unwrap();
        for encoding in [Encoding::Q8_0, Encoding::Q4_0] {
            let once = matrix.quantize(encoding).unwrap();
            prop_assert_eq!(once.quantize(encoding).unwrap().to_f32(), once.to_f32());
        }
    }
}

#[test]
fn slices_rows_and_transposes_columns() {
    let data: Vec<u8> = (0..12).flat_map(|v| (v as f32).to_le_bytes()).collect();
    let matrix = StoredMatrix::new(Encoding::F32, (3, 4), data.into()).unwrap();
    let rows = matrix.slice_rows(1, 2);
    assert_eq!((rows.rows(), rows.cols()), (2, 4));
    assert_eq!(rows.to_f32(), [4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0]);
    let odd = matrix.transpose_columns(1, 2);
    assert_eq!((odd.rows(), odd.cols()), (2, 3));
    assert_eq!(odd.to_f32(), [1.0, 5.0, 9.0, 3.0, 7.0, 11.0]);
}

#[test]
fn blocks_and_scaled_rows_are_cut_like_floats() {
    let data: Vec<u8> = numbers(1, 3 * 64)
        .iter()
        .flat_map(|x| x.to_le_bytes())
        .collect();
    let floats = StoredMatrix::new(Encoding::F32, (3, 64), data.into()).unwrap();
    let blocks = floats.quantize(Encoding::Q8_0).unwrap();
    let scaled = blocks.with_row_scales(vec![1.0, 2.0, 3.0]).unwrap();
    let all = scaled.to_f32();
    assert_eq!(scaled.slice_rows(1, 2).to_f32(), all[64..]);
    let columns = scaled.transpose_columns(5, 32).to_f32();
    assert_eq!(columns, [5, 69, 133, 37, 101, 165].map(|i: usize| all[i]));
}
