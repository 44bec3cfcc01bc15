//! Quantising: floats to blocks of 8 or 4 bits.

use half::f16;

use super::{Encoding, StoredMatrix};
use crate::error::DeviceError;

impl StoredMatrix {
    /// The matrix in [`Encoding::Q8_0`] or [`Encoding::Q4_0`]; fails for other
    /// encodings, and for rows that are not whole blocks.
    pub fn quantize(&self, encoding: Encoding) -> Result<StoredMatrix, DeviceError> {
        let block: fn(&[f32; 32], &mut Vec<u8>) = match encoding {
            Encoding::Q8_0 => q8_0,
            Encoding::Q4_0 => q4_0,
            _ => {
                return Err(DeviceError::Size {
                    what: "a quantised weight of other than 8 or 4 bits",
                });
            }
        };
        if !self.cols().is_multiple_of(encoding.block()) {
            return Err(DeviceError::Size {
                what: "a quantised weight, whose columns must be a multiple of 32,",
            });
        }
        let blocks = self.rows() * (self.cols() / encoding.block());
        let mut data = Vec::with_capacity(blocks * encoding.block_bytes());
        let mut row = vec![0.0; self.cols()];
        for index in 0..self.rows() {
            self.decode_row(index, &mut row);
            for numbers in row.as_chunks().0 {
                block(numbers, &mut data);
            }
        }
        StoredMatrix::new(encoding, (self.rows(), self.cols()), data.into())
    }
}

/// Symmetric: the largest number by magnitude becomes 127 or -127.
fn q8_0(numbers: &[f32; 32], out: &mut Vec<u8>) {
    let largest = numbers.iter().fold(0.0f32, |max, x| max.max(x.abs()));
    let scale = f16::from_f32(largest / 127.0);
    out.extend(scale.to_le_bytes());
    let inverse = inverse(scale);
    // `as` saturates, and turns NaN to 0.
    out.extend(numbers.map(|x| (x * inverse).round_ties_even().clamp(-127.0, 127.0) as i8 as u8));
}

/// The number that is largest by magnitude becomes -8, which has no positive
/// counterpart.
fn q4_0(numbers: &[f32; 32], out: &mut Vec<u8>) {
    let largest = numbers
        .iter()
        .fold(0.0f32, |max, &x| if x.abs() > max.abs() { x } else { max });
    let scale = f16::from_f32(largest / -8.0);
    out.extend(scale.to_le_bytes());
    let inverse = inverse(scale);
    let quant = |x: f32| (x * inverse + 8.0).round_ties_even().clamp(0.0, 15.0) as u8;
    let (first, second) = numbers.split_at(16);
    out.extend(
        first
            .iter()
            .zip(second)
            .map(|(&a, &b)| quant(a) | quant(b) << 4),
    );
}

fn inverse(scale: f16) -> f32 {
    match scale.to_f32() {
        0.0 => 0.0,
        scale => scale.recip(),
    }
}
