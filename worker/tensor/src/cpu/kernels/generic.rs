//! The kernels, over any lanes.
//!
//! An output number is a sum over k in one vector accumulator: lane l takes
//! k = l, l + 16, l + 32 and so on (of pairs of bf16: pair l, l + 16 and so on),
//! in order, and the lanes are summed as a tree. Tiles change which numbers are computed together, never that order.
//!
//! SAFETY (of every body here): the instruction set exists by the contract of
//! [`Lanes`]; `kernels` has checked that slices are as long as shapes say.

// Tiles are indexed by their constant sizes, so that they unroll into registers.
#![allow(clippy::needless_range_loop)]

use super::FloatProduct;
use super::columns::ColumnsMut;
use super::lanes::{F32, LANES, Lanes, Terms, Widened};
use crate::cpu::matrix::activations::BLOCK;

/// Rows of weights whose bytes stay in the second-level cache while tokens pass.
const STRIP_BYTES: usize = 256 * 1024;
/// Activations that stay in the first-level cache while weights pass.
const ACTIVATION_BYTES: usize = 32 * 1024;

/// `out = x w^T + bias` in tiles of T tokens and R rows, or, for a single
/// token, of S rows.
#[inline(always)]
pub(super) unsafe fn matmul<L: Lanes, P: Terms, const T: usize, const R: usize, const S: usize>(
    op: &FloatProduct<'_>,
    out: &mut ColumnsMut<'_>,
) {
    let tokens = out.rows();
    let rows = out.width();
    let strip = (STRIP_BYTES / (op.k * P::W_SIZE).max(1))
        .next_multiple_of(S)
        .max(S);
    let group = (ACTIVATION_BYTES / (op.k * P::X_SIZE).max(1))
        .next_multiple_of(T)
        .max(T);
    let mut strip_start = 0;
    while strip_start < rows {
        let strip_end = (strip_start + strip).min(rows);
        let mut start = 0;
        while start < tokens {
            let end = (start + group).min(tokens);
            let area = Area {
                tokens: (start, end),
                rows: (strip_start, strip_end),
            };
            unsafe {
                if end - start < T {
                    strip_of::<L, P, 1, S>(op, area, out);
                } else {
                    strip_of::<L, P, T, R>(op, area, out);
                }
            }
            start = end;
        }
        strip_start = strip_end;
    }
}

/// Tokens and rows from, to.
#[derive(Clone, Copy)]
struct Area {
    tokens: (usize, usize),
    rows: (usize, usize),
}

#[inline(always)]
unsafe fn strip_of<L: Lanes, P: Terms, const T: usize, const R: usize>(
    op: &FloatProduct<'_>,
    area: Area,
    out: &mut ColumnsMut<'_>,
) {
    let (mut row, end) = area.rows;
    while row + R <= end {
        unsafe { tokens_of::<L, P, T, R>(op, area.tokens, row, out) };
        row += R;
    }
    while row < end {
        unsafe { tokens_of::<L, P, T, 1>(op, area.tokens, row, out) };
        row += 1;
    }
}

#[inline(always)]
unsafe fn tokens_of<L: Lanes, P: Terms, const T: usize, const R: usize>(
    op: &FloatProduct<'_>,
    tokens: (usize, usize),
    row: usize,
    out: &mut ColumnsMut<'_>,
) {
    let (mut token, end) = tokens;
    while token + T <= end {
        unsafe { tile::<L, P, T, R>(op, token, row, out) };
        token += T;
    }
    while token < end {
        unsafe { tile::<L, P, 1, R>(op, token, row, out) };
        token += 1;
    }
}

#[inline(always)]
unsafe fn tile<L: Lanes, P: Terms, const T: usize, const R: usize>(
    op: &FloatProduct<'_>,
    token: usize,
    row: usize,
    out: &mut ColumnsMut<'_>,
) {
    unsafe {
        let x = op.x.as_ptr().add(token * op.k * P::X_SIZE);
        let w = op.w.as_ptr().add(row * op.k * P::W_SIZE);
        let sums = dots::<L, P, T, R>(op.k, x, (w, op.k));
        for r in 0..R {
            let scale = op.row_scales.map_or(1.0, |it| *it.get_unchecked(row + r));
            let bias = op.bias.map_or(0.0, |bias| *bias.get_unchecked(row + r));
            for (t, sums) in sums.iter().enumerate() {
                out.write(token + t, row + r, sums[r] * scale + bias);
            }
        }
    }
}

/// Dot products of T rows of `x` with R rows of `w`, each `k` long; those of `w`
/// begin `apart` numbers after each other.
#[inline(always)]
pub(super) unsafe fn dots<L: Lanes, P: Terms, const T: usize, const R: usize>(
    k: usize,
    x: *const u8,
    (w, apart): (*const u8, usize),
) -> [[f32; R]; T] {
    let whole = k / P::STEP;
    let rest = k % P::STEP;
    unsafe {
        let mut sums = [[L::splat(0.0); R]; T];
        for step in 0..whole {
            let x_at = |row| at::<P>(x, row, k, step, P::X_SIZE);
            let w_at = |row| at::<P>(w, row, apart, step, P::W_SIZE);
            let mut weights = [P::no_weights::<L>(); R];
            for r in 0..R {
                weights[r] = P::load_w::<L>(w_at(r));
                // What the next tile reads: rows are too short for the
                // processor to see where they go on.
                L::prefetch(w_at(r).wrapping_add(R * apart * P::W_SIZE));
            }
            for t in 0..T {
                let x = P::load_x::<L>(x_at(t));
                for r in 0..R {
                    sums[t][r] = P::add(sums[t][r], x, weights[r]);
                }
            }
        }
        if rest > 0 {
            let x_at = |row| at::<P>(x, row, k, whole, P::X_SIZE);
            let w_at = |row| at::<P>(w, row, apart, whole, P::W_SIZE);
            let mut weights = [P::no_weights::<L>(); R];
            for r in 0..R {
                let padded = padded(w_at(r), rest * P::W_SIZE);
                weights[r] = P::load_w::<L>(padded.as_ptr());
            }
            for t in 0..T {
                let padded = padded(x_at(t), rest * P::X_SIZE);
                let x = P::load_x::<L>(padded.as_ptr());
                for r in 0..R {
                    sums[t][r] = P::add(sums[t][r], x, weights[r]);
                }
            }
        }
        let mut out = [[0.0; R]; T];
        for t in 0..T {
            for r in 0..R {
                out[t][r] = sums[t][r].sum();
            }
        }
        out
    }
}

/// The `count` bytes at `p`, fewer than a vector's, and zeros.
#[inline(always)]
unsafe fn padded(p: *const u8, count: usize) -> [u8; 64] {
    let mut padded = [0; 64];
    unsafe { std::ptr::copy_nonoverlapping(p, padded.as_mut_ptr(), count) };
    padded
}

/// Where vector `step` of row `row` lies, in rows `apart` numbers of `size` bytes
/// from each other. Wrapping, since overflow checks would halve the speed of unoptimised
/// profiles; the result is inside the matrix.
#[inline(always)]
fn at<P: Terms>(
    matrix: *const u8,
    row: usize,
    apart: usize,
    step: usize,
    size: usize,
) -> *const u8 {
    let number = row
        .wrapping_mul(apart)
        .wrapping_add(step.wrapping_mul(P::STEP));
    matrix.wrapping_add(number.wrapping_mul(size))
}

/// The dot product of two vectors of one length.
#[inline(always)]
pub(super) unsafe fn dot<L: Lanes>(x: &[f32], y: &[f32]) -> f32 {
    let y = (y.as_ptr().cast(), y.len());
    unsafe { dots::<L, Widened<F32>, 1, 1>(x.len(), x.as_ptr().cast(), y)[0][0] }
}

/// A block of activations as bytes, and what these are to be multiplied with:
/// the largest magnitude is 127.
#[inline(always)]
pub(super) unsafe fn quantize<L: Lanes>(numbers: &[f32; BLOCK]) -> ([i8; BLOCK], f32) {
    let vectors = numbers.as_chunks::<LANES>().0.iter();
    let vectors = vectors.map(|numbers| unsafe { L::load_f32(numbers.as_ptr().cast()) });
    let mut bytes = [0; BLOCK];
    unsafe {
        let zeros = L::splat(0.0);
        let largest = vectors.clone().fold(zeros, |sum, it| sum.or_magnitude(it));
        let scale = largest.largest() / 127.0;
        let inverse = if scale > 0.0 { scale.recip() } else { 0.0 };
        for (numbers, bytes) in vectors.zip(bytes.as_chunks_mut::<LANES>().0) {
            numbers
                .mul(L::splat(inverse))
                .store_rounded(bytes.as_mut_ptr());
        }
        (bytes, scale)
    }
}
