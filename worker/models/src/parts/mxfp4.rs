//! Four-bit floating point in blocks that share an exponent (OCP Microscaling
//! Formats 1.0, MXFP4), widened to bf16, which holds its every value.

use bytes::Bytes;
use tensor::{DeviceError, Encoding, StoredMatrix};

/// Numbers that share an exponent.
pub(super) const BLOCK: usize = 32;
/// Two numbers in a byte, the first in its lower half.
pub(super) const BLOCK_BYTES: usize = BLOCK / 2;

/// The values of 4 bits: a sign, two bits of exponent, one of mantissa.
const VALUES: [f32; 16] = [
    0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0,
];

/// Matrices `[rows, cols]` of some experts, whose rows are whole blocks.
pub(super) struct Mxfp4 {
    pub(super) rows: usize,
    pub(super) cols: usize,
    /// `[experts, rows, blocks, BLOCK_BYTES]`
    pub(super) blocks: Bytes,
    /// Exponents, 127 more than they are: `[experts, rows, blocks]`.
    pub(super) scales: Bytes,
}

impl Mxfp4 {
    /// Every `step`-th row of an expert's matrix from `first` on, in bf16.
    pub(super) fn matrix(
        &self,
        expert: usize,
        first: usize,
        step: usize,
    ) -> Result<StoredMatrix, DeviceError> {
        let per_row = self.cols.div_ceil(BLOCK);
        let rows = (first..self.rows).step_by(step);
        let count = rows.len();
        let mut data = Vec::with_capacity(count * self.cols * 2);
        for row in rows {
            let block = (expert * self.rows + row) * per_row;
            let row_end = data.len() + self.cols * 2;
            let scales = &self.scales[block..block + per_row];
            let bytes = &self.blocks[block * BLOCK_BYTES..(block + per_row) * BLOCK_BYTES];
            for (&scale, bytes) in scales.iter().zip(bytes.chunks_exact(BLOCK_BYTES)) {
                let values = scaled(scale);
                for byte in bytes {
                    data.extend(values[usize::from(byte & 15)]);
                    data.extend(values[usize::from(byte >> 4)]);
                }
            }
            data.truncate(row_end);
        }
        StoredMatrix::new(Encoding::Bf16, (count, self.cols), data.into())
    }
}

/// The bf16 bytes of each value times 2^(scale - 127).
fn scaled(scale: u8) -> [[u8; 2]; 16] {
    let factor = f64::from(i32::from(scale) - 127).exp2();
    VALUES.map(|value| {
        // One bit of mantissa: the upper half of an f32 has all of it.
        let bits = ((f64::from(value) * factor) as f32).to_bits();
        ((bits >> 16) as u16).to_le_bytes()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn widens_values_by_their_blocks_exponent() {
        // Two experts of two rows of one block; the second row of the second
        // counts from 0 to 15 and back, times 2^3.
        let mut blocks = vec![0; 4 * BLOCK_BYTES];
        let last = &mut blocks[3 * BLOCK_BYTES..];
        for (index, byte) in last.iter_mut().enumerate() {
            let low = (2 * index % 16) as u8;
            *byte = low | (low + 1) << 4;
        }
        let stack = Mxfp4 {
            rows: 2,
            cols: BLOCK,
            blocks: blocks.into(),
            scales: vec![127, 127, 127, 130].into(),
        };
        let row = stack.matrix(1, 1, 2).unwrap();
        assert_eq!((row.rows(), row.cols()), (1, BLOCK));
        let expected: Vec<f32> = (0..BLOCK).map(|i| VALUES[i % 16] * 8.0).collect();
        assert_eq!(row.to_f32(), expected);
        assert!(
            stack
                .matrix(0, 0, 1)
                .unwrap()
                .to_f32()
                .iter()
                .all(|v| *v == 0.0)
        );
    }

    #[test]
    fn the_smallest_and_largest_exponents_lose_nothing() {
        let value = |scale, code: usize| {
            let [low, high] = scaled(scale)[code];
            f32::from_bits(u32::from(u16::from_le_bytes([low, high])) << 16)
        };
        assert_eq!(f64::from(value(0, 3)), 1.5 * (-127f64).exp2());
        assert_eq!(f64::from(value(0, 9)), -0.5 * (-127f64).exp2());
        assert_eq!(f64::from(value(252, 7)), 6.0 * 125f64.exp2());
        assert_eq!(value(254, 7), f32::INFINITY);
    }
}
