//! The product in tiles: the same integers, scaled and summed as elsewhere.
//!
//! SAFETY (of every body here): tiles and instruction set exist by the
//! contracts of [`Tiles`] and [`Lines`]; `blocks` has checked that memory is as
//! long as shapes say.

// Tiles are indexed by their constant sizes, so that they unroll into registers.
#![allow(clippy::needless_range_loop)]

use super::BlockWeights;
use super::layout::{Line, Quants, ROWS, STEPS};
use super::lines::Lines;
use super::product::finish;
use crate::cpu::kernels::amx::tiles::{Shape, Tiles};
use crate::cpu::kernels::columns::ColumnsMut;
use crate::cpu::kernels::lanes::Lanes;
use crate::cpu::matrix::activations::{Quantized, TokenGroup};

/// Tokens of a tile.
pub(super) const TOKENS: usize = 16;

/// Computes all groups of rows of `out`; `x` is in whole rows.
#[inline(always)]
pub(super) unsafe fn groups<T: Tiles, L: Lines, Q: Quants>(
    op: &BlockWeights<'_>,
    x: &Quantized,
    out: &mut ColumnsMut<'_>,
) {
    // Weights as bytes: unpacked once for all tokens.
    let mut unpacked = vec![Line([0; 64]); op.blocks * STEPS];
    unsafe {
        T::configure(Shape::BYTES);
        for group in 0..out.width().div_ceil(ROWS) {
            let lines = op.lines.as_ptr().add(group * op.blocks * Q::LINES);
            for block in 0..op.blocks {
                for step in 0..STEPS {
                    let weights = Q::step::<L>(lines.add(block * Q::LINES), step);
                    L::store(weights, &mut unpacked[block * STEPS + step]);
                }
            }
            for tokens in x.groups() {
                tile::<T, L, Q>(op, (group, &unpacked), &tokens, out);
            }
        }
        T::release();
    }
}

/// One group of rows with sixteen tokens; two blocks at a time, so that one is
/// scaled while the other is multiplied.
#[inline(always)]
unsafe fn tile<T: Tiles, L: Lines, Q: Quants>(
    op: &BlockWeights<'_>,
    (group, unpacked): (usize, &[Line]),
    x: &TokenGroup<'_>,
    out: &mut ColumnsMut<'_>,
) {
    let row = op.blocks * STEPS * 4;
    let mut ints = [[[0i32; ROWS]; TOKENS]; 2];
    unsafe {
        let mut sums = [L::Floats::splat(0.0); TOKENS];
        let mut block = 0;
        while block < op.blocks {
            let both = block + 1 < op.blocks;
            T::zero::<0>();
            T::load::<4>(x.quants.as_ptr().add(block * STEPS * 4).cast(), row);
            T::load::<6>(unpacked.as_ptr().add(block * STEPS).cast(), 64);
            T::dot_bytes::<0, 4, 6>();
            T::store::<0>(ints[0].as_mut_ptr().cast(), 64);
            if both {
                T::zero::<1>();
                T::load::<5>(x.quants.as_ptr().add((block + 1) * STEPS * 4).cast(), row);
                T::load::<7>(unpacked.as_ptr().add((block + 1) * STEPS).cast(), 64);
                T::dot_bytes::<1, 5, 7>();
                T::store::<1>(ints[1].as_mut_ptr().cast(), 64);
            }
            add::<L, Q>(op, (group, block), (x, &ints[0]), &mut sums);
            if both {
                add::<L, Q>(op, (group, block + 1), (x, &ints[1]), &mut sums);
            }
            block += 2;
        }
        for (t, sums) in sums.into_iter().enumerate() {
            if x.first + t < out.rows() {
                finish::<L>(op, group, sums, (x.first + t, &mut *out));
            }
        }
    }
}

/// Adds a block's integers to the sums, scaled.
#[inline(always)]
unsafe fn add<L: Lines, Q: Quants>(
    op: &BlockWeights<'_>,
    (group, block): (usize, usize),
    (x, ints): (&TokenGroup<'_>, &[[i32; ROWS]; TOKENS]),
    sums: &mut [L::Floats; TOKENS],
) {
    unsafe {
        let scales = op.scales.as_ptr();
        let scales = scales.add(group * Q::LAYOUT.scale_bytes(op.blocks));
        let run = scales.add(Q::LAYOUT.scale_at(block));
        let head = scales.add(Q::LAYOUT.head_at(block));
        let scale = Q::scale::<L>(head, run, 0);
        let at = block * TOKENS;
        for t in 0..TOKENS {
            let start = L::splat(*x.starts.as_ptr().add(at + t));
            let scaled = L::to_floats(L::add(L::load_ints(ints[t].as_ptr()), start));
            let scaled = scaled.mul(L::Floats::splat(*x.scales.as_ptr().add(at + t)));
            sums[t] = sums[t].fma(scaled, scale);
        }
        if Q::MINIMA {
            let minimum = Q::minimum::<L>(head, run);
            for t in 0..TOKENS {
                let total = -*x.sums.as_ptr().add(at + t);
                sums[t] = sums[t].fma(L::Floats::splat(total), minimum);
            }
        }
    }
}
