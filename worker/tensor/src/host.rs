//! Weights as they lie in a checkpoint.

use bytes::Bytes;
use half::{bf16, f16};

use crate::error::DeviceError;

/// How a number is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DType {
    F32,
    Bf16,
    F16,
}

impl DType {
    /// Bytes of one number.
    pub fn size(self) -> usize {
        match self {
            DType::F32 => 4,
            DType::Bf16 | DType::F16 => 2,
        }
    }
}

/// A matrix `[rows, cols]` in host memory, row-major and little endian; a
/// vector is a matrix of one row. The bytes are shared, not copied, and need no
/// alignment.
#[derive(Clone, Debug)]
pub struct HostTensor {
    dtype: DType,
    rows: usize,
    cols: usize,
    data: Bytes,
}

impl HostTensor {
    /// Fails if `data` is not exactly `rows * cols` numbers.
    pub fn new(
        dtype: DType,
        rows: usize,
        cols: usize,
        data: Bytes,
    ) -> Result<HostTensor, DeviceError> {
        let expected = rows
            .checked_mul(cols)
            .filter(|elements| elements.checked_mul(dtype.size()).is_some())
            .ok_or(DeviceError::Size { what: "a weight" })?;
        if data.len() != expected * dtype.size() {
            return Err(DeviceError::Shape {
                what: "a weight",
                found: data.len() / dtype.size(),
                expected,
            });
        }
        Ok(HostTensor {
            dtype,
            rows,
            cols,
            data,
        })
    }

    pub fn dtype(&self) -> DType {
        self.dtype
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    pub fn cols(&self) -> usize {
        self.cols
    }

    /// All bytes, shared.
    pub(crate) fn data(&self) -> Bytes {
        self.data.clone()
    }

    /// The bytes of `count` rows from row `first` on.
    ///
    /// # Panics
    /// If there are no such rows.
    pub(crate) fn row_bytes(&self, first: usize, count: usize) -> &[u8] {
        let row = self.cols * self.dtype.size();
        &self.data[first * row..(first + count) * row]
    }

    /// `count` rows from row `first` on, in the same memory.
    ///
    /// # Panics
    /// If there are no such rows.
    pub fn slice_rows(&self, first: usize, count: usize) -> HostTensor {
        let row = self.cols * self.dtype.size();
        HostTensor {
            dtype: self.dtype,
            rows: count,
            cols: self.cols,
            data: self.data.slice(first * row..(first + count) * row),
        }
    }

    /// A copy of every `step`-th column from `first` on, as rows.
    pub fn transpose_columns(&self, first: usize, step: usize) -> HostTensor {
        let size = self.dtype.size();
        let columns = (first..self.cols).step_by(step);
        let rows = columns.len();
        let mut data = Vec::with_capacity(rows * self.rows * size);
        for column in columns {
            for row in 0..self.rows {
                let start = (row * self.cols + column) * size;
                data.extend_from_slice(&self.data[start..start + size]);
            }
        }
        HostTensor {
            dtype: self.dtype,
            rows,
            cols: self.rows,
            data: data.into(),
        }
    }

    /// Writes row `row` into `out`, which is `cols` long.
    ///
    /// # Panics
    /// If there is no such row.
    pub(crate) fn decode_row(&self, row: usize, out: &mut [f32]) {
        decode(self.dtype, self.row_bytes(row, 1), out);
    }

    /// All numbers, as f32.
    pub fn to_f32(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.rows * self.cols];
        decode(self.dtype, &self.data, &mut out);
        out
    }
}

/// Converts as many numbers as `bytes` and `out` both have.
fn decode(dtype: DType, bytes: &[u8], out: &mut [f32]) {
    match dtype {
        DType::F32 => {
            for (out, b) in out.iter_mut().zip(bytes.chunks_exact(4)) {
                *out = f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
            }
        }
        DType::Bf16 => {
            for (out, b) in out.iter_mut().zip(bytes.chunks_exact(2)) {
                *out = bf16::from_le_bytes([b[0], b[1]]).to_f32();
            }
        }
        DType::F16 => {
            for (out, b) in out.iter_mut().zip(bytes.chunks_exact(2)) {
                *out = f16::from_le_bytes([b[0], b[1]]).to_f32();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decodes_every_dtype() {
        let cases = [
            (DType::F32, 1.5f32.to_le_bytes().to_vec()),
            (DType::Bf16, bf16::from_f32(1.5).to_le_bytes().to_vec()),
            (DType::F16, f16::from_f32(1.5).to_le_bytes().to_vec()),
        ];
        for (dtype, bytes) in cases {
            let tensor = HostTensor::new(dtype, 1, 1, bytes.into()).unwrap();
            assert_eq!(tensor.to_f32(), [1.5]);
        }
    }

    #[test]
    fn slices_rows_and_transposes_columns() {
        let data: Vec<u8> = (0..12).flat_map(|v| (v as f32).to_le_bytes()).collect();
        let tensor = HostTensor::new(DType::F32, 3, 4, data.into()).unwrap();
        let rows = tensor.slice_rows(1, 2);
        assert_eq!((rows.rows(), rows.cols()), (2, 4));
        assert_eq!(rows.to_f32(), [4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0]);
        let odd = tensor.transpose_columns(1, 2);
        assert_eq!((odd.rows(), odd.cols()), (2, 3));
        assert_eq!(odd.to_f32(), [1.0, 5.0, 9.0, 3.0, 7.0, 11.0]);
    }

    #[test]
    fn refuses_bytes_of_another_length() {
        assert!(HostTensor::new(DType::F32, 2, 2, vec![0; 15].into()).is_err());
        assert!(HostTensor::new(DType::F16, usize::MAX, 2, Bytes::new()).is_err());
    }
}
