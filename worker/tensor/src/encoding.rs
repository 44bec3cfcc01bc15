//! Matrices as checkpoints store them: plain floats, or blocks of small
//! integers that share scales, in GGUF's layouts.
//!
//! Promises that the bytes of a [`StoredMatrix`] are exactly as many as its
//! shape takes, and that [`StoredMatrix::decode_row`] is what the format means:
//! the reference of every packed form and kernel.

pub(crate) mod blocks;
mod quantize;
#[cfg(test)]
mod tests;

use bytes::Bytes;
use half::{bf16, f16};

use crate::error::DeviceError;

/// How the numbers of a matrix' row are stored, little endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Encoding {
    F32,
    Bf16,
    F16,
    /// One sign, four exponent and three fraction bits, no infinities
    /// (Micikevicius et al. 2022, E4M3).
    F8,
    /// 32 numbers: an f16 scale, then 32 signed bytes.
    Q8_0,
    /// 32 numbers: an f16 scale, then 16 bytes; byte i has numbers i and
    /// i + 16, of 4 bits, minus 8.
    Q4_0,
    /// 256 numbers of 4 bits: f16 scales of the scales and of the minima, 6-bit
    /// scales and minima of 8 blocks of 32 in 12 bytes, 128 bytes of numbers.
    Q4K,
    /// 256 numbers of 6 bits minus 32: 128 bytes of low halves, 64 of high
    /// bits, signed bytes as scales of 16 blocks of 16, the f16 scale of those.
    Q6K,
}

impl Encoding {
    /// Numbers that are stored together; divides a row.
    pub fn block(self) -> usize {
        match self {
            Encoding::F32 | Encoding::Bf16 | Encoding::F16 | Encoding::F8 => 1,
            Encoding::Q8_0 | Encoding::Q4_0 => 32,
            Encoding::Q4K | Encoding::Q6K => 256,
        }
    }

    /// Bytes of a block.
    pub fn block_bytes(self) -> usize {
        match self {
            Encoding::F32 => 4,
            Encoding::Bf16 | Encoding::F16 => 2,
            Encoding::F8 => 1,
            Encoding::Q8_0 => 34,
            Encoding::Q4_0 => 18,
            Encoding::Q4K => 144,
            Encoding::Q6K => 210,
        }
    }
}

/// A matrix `[rows, cols]` in host memory, row-major. The bytes are shared, not
/// copied, and need no alignment.
#[derive(Clone, Debug)]
pub struct StoredMatrix {
    encoding: Encoding,
    rows: usize,
    cols: usize,
    data: Bytes,
    /// `[rows]`: what the numbers of each row are to be multiplied with.
    row_scales: Option<Vec<f32>>,
}

impl StoredMatrix {
    /// Fails if rows are not whole blocks, or `data` is not exactly `rows` of
    /// them.
    pub fn new(
        encoding: Encoding,
        (rows, cols): (usize, usize),
        data: Bytes,
    ) -> Result<StoredMatrix, DeviceError> {
        let expected = cols
            .is_multiple_of(encoding.block())
            .then(|| (cols / encoding.block()).checked_mul(encoding.block_bytes()))
            .flatten()
            .and_then(|row| row.checked_mul(rows))
            .ok_or(DeviceError::Size { what: "a weight" })?;
        if data.len() != expected {
            return Err(DeviceError::Shape {
                what: "a weight, in bytes,",
                found: data.len(),
                expected,
            });
        }
        Ok(StoredMatrix {
            encoding,
            rows,
            cols,
            data,
            row_scales: None,
        })
    }

    /// The matrix with each row multiplied by a number; fails if there are not
    /// as many as rows.
    pub fn with_row_scales(mut self, scales: Vec<f32>) -> Result<StoredMatrix, DeviceError> {
        if scales.len() != self.rows {
            return Err(DeviceError::Shape {
                what: "row scales of a weight",
                found: scales.len(),
                expected: self.rows,
            });
        }
        self.row_scales = Some(scales);
        Ok(self)
    }

    pub fn encoding(&self) -> Encoding {
        self.encoding
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Bytes of all rows.
    pub fn bytes(&self) -> usize {
        self.data.len()
    }

    /// Bytes of a row.
    fn row_size(&self) -> usize {
        self.cols / self.encoding.block() * self.encoding.block_bytes()
    }

    pub(crate) fn row_scales(&self) -> Option<&[f32]> {
        self.row_scales.as_deref()
    }

    /// The bytes of `count` rows from row `first` on.
    ///
    /// # Panics
    /// If there are no such rows.
    pub(crate) fn row_bytes(&self, first: usize, count: usize) -> &[u8] {
        let row = self.row_size();
        &self.data[first * row..(first + count) * row]
    }

    /// `count` rows from row `first` on, in the same memory.
    ///
    /// # Panics
    /// If there are no such rows.
    pub fn slice_rows(&self, first: usize, count: usize) -> StoredMatrix {
        let rows = first..first + count;
        let row = self.row_size();
        StoredMatrix {
            encoding: self.encoding,
            rows: count,
            cols: self.cols,
            data: self.data.slice(rows.start * row..rows.end * row),
            row_scales: self.row_scales.as_ref().map(|scales| scales[rows].to_vec()),
        }
    }

    /// A copy of every `step`-th column from `first` on, as rows; in f32 if
    /// columns are not stored apart.
    pub fn transpose_columns(&self, first: usize, step: usize) -> StoredMatrix {
        if self.encoding.block() > 1 || self.row_scales.is_some() {
            let numbers = self.to_f32().into_iter().flat_map(f32::to_le_bytes);
            let plain = StoredMatrix {
                encoding: Encoding::F32,
                data: numbers.collect::<Vec<u8>>().into(),
                row_scales: None,
                ..*self
            };
            return plain.transpose_columns(first, step);
        }
        let size = self.encoding.block_bytes();
        let columns = (first..self.cols).step_by(step);
        let rows = columns.len();
        let mut data = Vec::with_capacity(rows * self.rows * size);
        for column in columns {
            for row in 0..self.rows {
                let start = (row * self.cols + column) * size;
                data.extend_from_slice(&self.data[start..start + size]);
            }
        }
        StoredMatrix {
            encoding: self.encoding,
            rows,
            cols: self.rows,
            data: data.into(),
            row_scales: None,
        }
    }

    /// Writes row `row` into `out`, which is `cols` long.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn decode_row(&self, row: usize, out: &mut [f32]) {
        let bytes = self.row_bytes(row, 1);
        match self.encoding {
            Encoding::F32 => each(bytes, out, f32::from_le_bytes),
            Encoding::Bf16 => each(bytes, out, |b| bf16::from_le_bytes(b).to_f32()),
            Encoding::F16 => each(bytes, out, |b| f16::from_le_bytes(b).to_f32()),
            Encoding::F8 => each(bytes, out, |[b]| f8_to_f32(b)),
            Encoding::Q8_0 => blocks::decode(bytes, out, blocks::q8_0),
            Encoding::Q4_0 => blocks::decode(bytes, out, blocks::q4_0),
            Encoding::Q4K => blocks::decode(bytes, out, blocks::q4_k),
            Encoding::Q6K => blocks::decode(bytes, out, blocks::q6_k),
        }
        if let Some(scales) = &self.row_scales {
            out.iter_mut().for_each(|value| *value *= scales[row]);
        }
    }

    /// All numbers, as f32.
    pub fn to_f32(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.rows * self.cols];
        if self.cols > 0 {
            for (row, out) in out.chunks_mut(self.cols).enumerate() {
                self.decode_row(row, out);
            }
        }
        out
    }
}

/// E4M3 as f32. The bits are those of an f16 whose exponent is 8 too small.
pub(crate) fn f8_to_f32(b: u8) -> f32 {
    let bits = (u16::from(b & 0x80) << 8) | (u16::from(b & 0x7f) << 7);
    f16::from_bits(bits).to_f32() * 256.0
}

fn each<const N: usize>(bytes: &[u8], out: &mut [f32], decode: impl Fn([u8; N]) -> f32) {
    for (out, bytes) in out.iter_mut().zip(bytes.as_chunks().0) {
        *out = decode(*bytes);
    }
}
