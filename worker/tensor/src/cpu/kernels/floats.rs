//! Products of floats.
//!
//! An output number is a sum over k in one vector accumulator, as [`generic`]
//! has it: tiles change which numbers are computed together, never an order.
//!
//! Some rows of weights meet all tokens before the next do. Activations lie as
//! they are read, so that they come from the second-level cache as fast as they
//! are multiplied, while the rows' weights stay in the first.
//!
//! SAFETY (of every body here): as in [`generic`]; `kernels` has checked shapes.
//!
//! [`generic`]: super::generic

// Tiles are indexed by their constant sizes, so that they unroll into registers.
#![allow(clippy::needless_range_loop)]

use std::array;
use std::ops::Range;

use super::columns::ColumnsMut;
use super::generic::{Vectors, dots};
use super::lanes::{Lanes, Terms};
use crate::cpu::matrix::floats::{FloatTile, Floats};

/// Rows of weights whose bytes stay in the second-level cache while tokens pass.
const STRIP_BYTES: usize = 256 * 1024;
/// Activations that stay there too.
const ACTIVATION_BYTES: usize = 384 * 1024;

/// A product of activations `[tokens, k]` and the transpose of weights
/// `[rows, k]`; tokens and rows are those of the output.
pub(in crate::cpu) struct FloatProduct<'a> {
    pub x: &'a Floats,
    /// Row-major, little endian.
    pub w: &'a [u8],
    pub operands: Operands,
    /// `[rows]`: what sums are multiplied with.
    pub row_scales: Option<&'a [f32]>,
    /// `[rows]`
    pub bias: Option<&'a [f32]>,
}

/// What activations and weights are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cpu) enum Operands {
    /// f32, and f32.
    F32,
    /// f32, and bf16.
    Bf16,
    /// f32, and f16.
    F16,
    /// f32, and E4M3 taken as divided by 256.
    F8,
    /// bf16, and bf16.
    Bf16Pairs,
}

impl Operands {
    /// Bytes of a weight.
    pub(super) fn weight_bytes(self) -> usize {
        match self {
            Operands::F32 => 4,
            Operands::Bf16 | Operands::F16 | Operands::Bf16Pairs => 2,
            Operands::F8 => 1,
        }
    }
}

/// `out = x w^T + bias` in tiles of R rows, or, for a single token, of S rows;
/// activations are in tiles of at most T tokens, which is 2 or 6.
#[inline(always)]
pub(super) unsafe fn matmul<L: Lanes, P: Terms, const T: usize, const R: usize, const S: usize>(
    op: &FloatProduct<'_>,
    out: &mut ColumnsMut<'_>,
) {
    let rows = out.width();
    let strip = (STRIP_BYTES / (op.x.k() * P::W_SIZE).max(1))
        .next_multiple_of(S)
        .max(S);
    let block = (ACTIVATION_BYTES / (T * op.x.k() * P::X_SIZE).max(1)).max(1);
    for first in (0..rows).step_by(strip) {
        let rows = first..(first + strip).min(rows);
        for first in (0..op.x.tiles()).step_by(block) {
            let tiles = first..(first + block).min(op.x.tiles());
            unsafe {
                if op.x.tokens() == 1 {
                    strip_of::<L, P, T, S>(op, tiles, rows.clone(), out);
                } else {
                    strip_of::<L, P, T, R>(op, tiles, rows.clone(), out);
                }
            }
        }
    }
}

/// Some tiles of activations with some rows of weights.
#[inline(always)]
unsafe fn strip_of<L: Lanes, P: Terms, const T: usize, const R: usize>(
    op: &FloatProduct<'_>,
    tiles: Range<usize>,
    rows: Range<usize>,
    out: &mut ColumnsMut<'_>,
) {
    let mut row = rows.start;
    while row + R <= rows.end {
        for tile in tiles.clone() {
            unsafe { tile_of::<L, P, T, R>(op, op.x.tile(tile), row, out) };
        }
        row += R;
    }
    while row < rows.end {
        for tile in tiles.clone() {
            unsafe { tile_of::<L, P, T, 1>(op, op.x.tile(tile), row, out) };
        }
        row += 1;
    }
}

#[inline(always)]
unsafe fn tile_of<L: Lanes, P: Terms, const T: usize, const R: usize>(
    op: &FloatProduct<'_>,
    tile: FloatTile<'_>,
    row: usize,
    out: &mut ColumnsMut<'_>,
) {
    unsafe {
        match tile.len {
            1 => tokens_of::<L, P, 1, R>(op, tile, row, out),
            2 => tokens_of::<L, P, 2, R>(op, tile, row, out),
            3 if T > 2 => tokens_of::<L, P, 3, R>(op, tile, row, out),
            4 if T > 2 => tokens_of::<L, P, 4, R>(op, tile, row, out),
            5 if T > 2 => tokens_of::<L, P, 5, R>(op, tile, row, out),
            6 if T > 2 => tokens_of::<L, P, 6, R>(op, tile, row, out),
            _ => unreachable!("a tile of {} tokens", tile.len),
        }
    }
}

#[inline(always)]
unsafe fn tokens_of<L: Lanes, P: Terms, const N: usize, const R: usize>(
    op: &FloatProduct<'_>,
    tile: FloatTile<'_>,
    row: usize,
    out: &mut ColumnsMut<'_>,
) {
    let k = op.x.k();
    let x = Vectors {
        first: tile.lines.as_ptr().cast(),
        apart: P::STEP * P::X_SIZE,
        step: N * P::STEP * P::X_SIZE,
    };
    let of_row = |numbers: &[f32], r: usize| unsafe { *numbers.get_unchecked(row + r) };
    let scales: [f32; R] = array::from_fn(|r| op.row_scales.map_or(1.0, |it| of_row(it, r)));
    let bias: [f32; R] = array::from_fn(|r| op.bias.map_or(0.0, |it| of_row(it, r)));
    unsafe {
        let first = op.w.as_ptr().add(row * k * P::W_SIZE);
        let sums = dots::<L, P, N, R>(k, x, Vectors::rows::<P>(first, k * P::W_SIZE, P::W_SIZE));
        for t in 0..N {
            let out = out.at(tile.first + t, row);
            for r in 0..R {
                *out.add(r) = sums[t][r] * scales[r] + bias[r];
            }
        }
    }
}
