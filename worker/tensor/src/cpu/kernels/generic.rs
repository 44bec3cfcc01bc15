//! Dot products and quantisation, over any lanes.
//!
//! A dot product is a sum over k in one vector accumulator: lane l takes
//! k = l, l + 16, l + 32 and so on (of pairs of bf16: pair l, l + 16 and so on),
//! in order, and the lanes are summed as a tree.
//!
//! SAFETY (of every body here): the instruction set exists by the contract of
//! [`Lanes`]; `kernels` has checked that slices are as long as shapes say.

// Tiles are indexed by their constant sizes, so that they unroll into registers.
#![allow(clippy::needless_range_loop)]

use super::lanes::{Element, F32, LANES, Lanes, Terms, Widened};
use crate::cpu::matrix::activations::{BLOCK, round_to_bf16};

/// Vectors of several rows.
#[derive(Clone, Copy)]
pub(super) struct Vectors {
    pub first: *const u8,
    /// Bytes from a row to the next.
    pub apart: usize,
    /// Bytes from a row's vector to its next.
    pub step: usize,
}

impl Vectors {
    /// Of rows `apart` bytes from each other, of numbers of `size` bytes.
    #[inline(always)]
    pub(super) fn rows<P: Terms>(first: *const u8, apart: usize, size: usize) -> Vectors {
        Vectors {
            first,
            apart,
            step: P::STEP * size,
        }
    }

    /// Where a vector lies. Wrapping, since overflow checks would halve the
    /// speed of unoptimised profiles; the result is inside the matrix.
    #[inline(always)]
    fn at(self, row: usize, step: usize) -> *const u8 {
        let row = row.wrapping_mul(self.apart);
        let offset = row.wrapping_add(step.wrapping_mul(self.step));
        self.first.wrapping_add(offset)
    }
}

/// Dot products of T rows of `x` with R rows of `w`, each `k` numbers long.
#[inline(always)]
pub(super) unsafe fn dots<L: Lanes, P: Terms, const T: usize, const R: usize>(
    k: usize,
    x: Vectors,
    w: Vectors,
) -> [[f32; R]; T] {
    let whole = k / P::STEP;
    let rest = k % P::STEP;
    unsafe {
        let mut sums = [[L::splat(0.0); R]; T];
        for step in 0..whole {
            let mut weights = [P::no_weights::<L>(); R];
            for r in 0..R {
                weights[r] = P::load_w::<L>(w.at(r, step));
                // What the next rows' product reads: rows are too short for
                // the processor to see where they go on.
                L::prefetch(w.at(R + r, step));
            }
            for t in 0..T {
                let x = P::load_x::<L>(x.at(t, step));
                for r in 0..R {
                    sums[t][r] = P::add(sums[t][r], x, weights[r]);
                }
            }
        }
        if rest > 0 {
            let mut weights = [P::no_weights::<L>(); R];
            for r in 0..R {
                let padded = padded(w.at(r, whole), rest * P::W_SIZE);
                weights[r] = P::load_w::<L>(padded.as_ptr());
            }
            for t in 0..T {
                let padded = padded(x.at(t, whole), rest * P::X_SIZE);
                let x = P::load_x::<L>(padded.as_ptr());
                for r in 0..R {
                    sums[t][r] = P::add(sums[t][r], x, weights[r]);
                }
            }
        }
        let mut out = [[0.0; R]; T];
        for t in 0..T {
            let (fours, rest) = out[t].as_chunks_mut::<4>();
            for (found, sums) in fours.iter_mut().zip(sums[t].as_chunks::<4>().0) {
                *found = L::sums(*sums);
            }
            for (found, sums) in rest.iter_mut().zip(sums[t].as_chunks::<4>().1) {
                *found = sums.sum();
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

/// The dot product of two vectors of one length.
#[inline(always)]
pub(super) unsafe fn dot<L: Lanes>(x: &[f32], y: &[f32]) -> f32 {
    type Both = Widened<F32>;
    let row = |numbers: &[f32]| Vectors::rows::<Both>(numbers.as_ptr().cast(), 0, F32::SIZE);
    unsafe { dots::<L, Both, 1, 1>(x.len(), row(x), row(y))[0][0] }
}

/// Rounds to bf16; both are equally long.
#[inline(always)]
pub(super) unsafe fn round<L: Lanes>(x: &[f32], out: &mut [[u8; 2]]) {
    let (x, x_rest) = x.as_chunks::<LANES>();
    let (out, out_rest) = out.as_chunks_mut::<LANES>();
    for (x, out) in x.iter().zip(out) {
        unsafe { L::load_f32(x.as_ptr().cast()).store_bf16(out.as_mut_ptr()) };
    }
    for (x, out) in x_rest.iter().zip(out_rest) {
        *out = round_to_bf16(*x).to_le_bytes();
    }
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
