//! Weight matrices on the CPU, and their products with activations.
//!
//! Floats stay as stored, mapped from a file perhaps; blocks of small integers
//! are packed for the kernels when the matrix is made. Every row of a product
//! depends on its own activations only, to the bit: not on the rows beside it,
//! the number of threads or, but for tiles of bf16, the instruction set.

pub(super) mod activations;
pub(super) mod floats;
mod packed;
mod product;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod tiled;

use super::compute::Compute;
#[cfg(target_arch = "x86_64")]
use super::isa::Isa;
use super::kernels::Operands;
use super::kernels::peaks::Numbers;
use crate::encoding::{Encoding, StoredMatrix};
use crate::error::DeviceError;
pub(super) use packed::Packed;
pub(super) use product::{Product, products};
#[cfg(target_arch = "x86_64")]
pub(super) use tiled::Tiled;

/// What numbers in E4M3 are divided by in the kernels.
const F8_DIVISOR: f32 = 256.0;

/// Whether products with weights in bf16 round activations to bf16: about twice
/// as fast where there are many rows, and of the precision that the model was
/// trained in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bf16Activations {
    Rounded,
    Exact,
}

/// A matrix `[rows, cols]`.
pub struct Matrix {
    rows: usize,
    cols: usize,
    weights: Weights,
}

enum Weights {
    Stored(StoredMatrix, Operands),
    Packed(Packed),
    #[cfg(target_arch = "x86_64")]
    Tiled(Tiled),
}

impl Weights {
    fn new(stored: StoredMatrix, on: &Compute) -> Result<Weights, DeviceError> {
        if let Some(packed) = Packed::new(&stored, on)? {
            return Ok(Weights::Packed(packed));
        }
        let operands = operands(stored.encoding(), on.bf16_activations);
        #[cfg(target_arch = "x86_64")]
        if operands == Operands::Bf16Pairs && on.isa() == Isa::Amx {
            return Ok(Weights::Tiled(Tiled::new(&stored, on)?));
        }
        Ok(Weights::Stored(with_f8_divisor(stored)?, operands))
    }
}

/// Activations `[tokens, cols]` that meet a matrix.
#[derive(Clone, Copy)]
pub struct Activations<'a> {
    pub x: &'a [f32],
    pub tokens: usize,
    /// `[rows]`
    pub bias: Option<&'a [f32]>,
}

impl Matrix {
    /// Packs blocks on all threads; floats are only looked at when needed.
    pub(super) fn new(stored: StoredMatrix, compute: &Compute) -> Result<Matrix, DeviceError> {
        let (rows, cols) = (stored.rows(), stored.cols());
        Ok(Matrix {
            rows,
            cols,
            weights: Weights::new(stored, compute)?,
        })
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Writes row `row` into `out`, which is `cols` long.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn decode_row(&self, row: usize, out: &mut [f32]) {
        match &self.weights {
            Weights::Stored(stored, _) => {
                stored.decode_row(row, out);
                if stored.encoding() == Encoding::F8 {
                    out.iter_mut().for_each(|value| *value /= F8_DIVISOR);
                }
            }
            Weights::Packed(packed) => packed.decode_row(row, out),
            #[cfg(target_arch = "x86_64")]
            Weights::Tiled(tiled) => tiled.decode_row(row, out),
        }
    }

    /// As what its numbers are multiplied.
    pub(super) fn numbers(&self) -> Numbers {
        match &self.weights {
            Weights::Stored(_, Operands::Bf16Pairs) => Numbers::Bf16,
            Weights::Stored(..) => Numbers::F32,
            Weights::Packed(_) => Numbers::Bytes,
            #[cfg(target_arch = "x86_64")]
            Weights::Tiled(_) => Numbers::Bf16,
        }
    }

    /// Bytes that a product with a single token reads.
    pub fn bytes(&self) -> usize {
        match &self.weights {
            Weights::Stored(stored, _) => stored.bytes(),
            Weights::Packed(packed) => packed.bytes(),
            #[cfg(target_arch = "x86_64")]
            Weights::Tiled(tiled) => tiled.bytes(),
        }
    }

    /// `out = x w^T + bias`, `[tokens, rows]`.
    pub fn product(
        &self,
        activations: Activations<'_>,
        out: &mut [f32],
        on: &Compute,
    ) -> Result<(), DeviceError> {
        let product = Product {
            matrix: self,
            activations,
            out,
        };
        products(&mut [product], on.all())
    }
}

fn operands(encoding: Encoding, bf16: Bf16Activations) -> Operands {
    match encoding {
        Encoding::Bf16 if bf16 == Bf16Activations::Rounded => Operands::Bf16Pairs,
        Encoding::Bf16 => Operands::Bf16,
        Encoding::F16 => Operands::F16,
        Encoding::F8 => Operands::F8,
        _ => Operands::F32,
    }
}

/// Undoes in the scales of rows what the kernels' E4M3 is divided by.
fn with_f8_divisor(stored: StoredMatrix) -> Result<StoredMatrix, DeviceError> {
    if stored.encoding() != Encoding::F8 {
        return Ok(stored);
    }
    let scales = match stored.row_scales() {
        Some(scales) => scales.iter().map(|scale| scale * F8_DIVISOR).collect(),
        None => vec![F8_DIVISOR; stored.rows()],
    };
    stored.with_row_scales(scales)
}
