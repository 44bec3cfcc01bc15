//! The product over any layout and lines.
//!
//! SAFETY (of every body here): the instruction set exists by the contract of
//! [`Lines`]; `blocks` has checked that memory is as long as shapes say.

// Tiles are indexed by their constant sizes, so that they unroll into registers.
#![allow(clippy::needless_range_loop)]

use super::BlockWeights;
use super::layout::{Line, Quants, ROWS, STEPS};
use super::lines::Lines;
use crate::cpu::kernels::columns::ColumnsMut;
use crate::cpu::kernels::lanes::{Element, F32, LANES, Lanes};
use crate::cpu::kernels::peaks::ACCUMULATORS;
use crate::cpu::matrix::activations::{Quantized, TokenGroup};

/// Weights that stay in the second-level cache while tokens pass.
const STRIP_BYTES: usize = 256 * 1024;

/// How far ahead weights are asked for: a single packed stream is too slow for
/// the processor's own prefetching to keep memory busy. With few tokens weights
/// pass fast, and memory is busy with little.
const fn ahead(tokens: usize) -> usize {
    if tokens <= 2 { 2048 } else { 16384 }
}

/// Computes all groups of rows of `out`, MANY tokens at once and the rest in
/// smaller tiles.
#[inline(always)]
pub(super) unsafe fn groups<L: Lines, Q: Quants, const MANY: usize>(
    op: &BlockWeights<'_>,
    x: &Quantized,
    out: &mut ColumnsMut<'_>,
) {
    let groups = out.width().div_ceil(ROWS);
    let strip = (STRIP_BYTES / (op.blocks * Q::LINES * 64).max(1)).max(1);
    let mut first = 0;
    while first < groups {
        let end = (first + strip).min(groups);
        for tokens in x.groups() {
            for group in first..end {
                unsafe {
                    match tokens.len {
                        1 => tile::<L, Q, 1>(op, group, &tokens, out),
                        2 => tile::<L, Q, 2>(op, group, &tokens, out),
                        len if len == MANY => tile::<L, Q, MANY>(op, group, &tokens, out),
                        _ => tile::<L, Q, 4>(op, group, &tokens, out),
                    }
                }
            }
        }
        first = end;
    }
}

/// One group of rows with M tokens.
#[inline(always)]
unsafe fn tile<L: Lines, Q: Quants, const M: usize>(
    op: &BlockWeights<'_>,
    group: usize,
    x: &TokenGroup<'_>,
    out: &mut ColumnsMut<'_>,
) {
    unsafe {
        let lines = op.lines.as_ptr().add(group * op.blocks * Q::LINES);
        let scales = op
            .scales
            .as_ptr()
            .add(group * Q::LAYOUT.scale_bytes(op.blocks));
        let mut sums = [L::Floats::splat(0.0); M];
        for block in 0..op.blocks {
            let lines = lines.add(block * Q::LINES);
            let run = scales.add(Q::LAYOUT.scale_at(block));
            let head = scales.add(Q::LAYOUT.head_at(block));
            for line in 0..Q::LINES {
                L::prefetch(lines.add(line).cast::<u8>().wrapping_add(ahead(M)));
            }
            L::prefetch(run.wrapping_add(ahead(M) / (2 * Q::LINES)));
            let x_scales = x.scales.as_ptr().add(block * M);
            for part in 0..Q::PARTS {
                let ints = dots::<L, Q, M>(lines, x, block, part);
                let scale = Q::scale::<L>(head, run, part);
                for t in 0..M {
                    let scaled = L::to_floats(ints[t]).mul(L::Floats::splat(*x_scales.add(t)));
                    sums[t] = sums[t].fma(scaled, scale);
                }
            }
            if Q::MINIMA {
                let minimum = Q::minimum::<L>(head, run);
                for t in 0..M {
                    let total = -*x.sums.as_ptr().add(block * M + t);
                    sums[t] = sums[t].fma(L::Floats::splat(total), minimum);
                }
            }
        }
        for t in 0..M {
            finish::<L>(op, group, sums[t], (x.first + t, out));
        }
    }
}

/// The integer products of one part of a block with M tokens.
#[inline(always)]
unsafe fn dots<L: Lines, Q: Quants, const M: usize>(
    lines: *const Line,
    x: &TokenGroup<'_>,
    block: usize,
    part: usize,
) -> [L::Ints; M] {
    unsafe {
        let starts = x.starts.as_ptr().add((block * Q::PARTS + part) * M);
        let quants = x.quants.as_ptr().add(block * STEPS * M * 4);
        let mut ints = [L::splat(0); M];
        for t in 0..M {
            ints[t] = L::splat(*starts.add(t));
        }
        let steps = STEPS / Q::PARTS;
        for step in part * steps..(part + 1) * steps {
            let weights = Q::step::<L>(lines, step);
            for t in 0..M {
                ints[t] = Q::dot::<L>(ints[t], weights, quants.add((step * M + t) * 4));
            }
        }
        ints
    }
}

/// Scales and shifts one token's rows of a group, and writes them.
#[inline(always)]
pub(super) unsafe fn finish<L: Lines>(
    op: &BlockWeights<'_>,
    group: usize,
    sums: L::Floats,
    (token, out): (usize, &mut ColumnsMut<'_>),
) {
    let first = group * ROWS;
    let count = ROWS.min(out.width() - first);
    unsafe {
        let of = |numbers: &[f32]| load::<L>(&numbers[first..first + count]);
        let mut values = sums;
        if let Some(scales) = op.row_scales {
            values = values.mul(of(scales));
        }
        if let Some(bias) = op.bias {
            values = of(bias).fma(values, L::Floats::splat(1.0));
        }
        if count == ROWS {
            values.store(out.at(token, first));
        } else {
            let mut padded = [0.0; LANES];
            values.store(padded.as_mut_ptr());
            std::ptr::copy_nonoverlapping(padded.as_ptr(), out.at(token, first), count);
        }
    }
}

/// Numbers, and zeros if they are too few.
#[inline(always)]
unsafe fn load<L: Lines>(numbers: &[f32]) -> L::Floats {
    let p = numbers.as_ptr().cast();
    unsafe {
        match numbers.len() {
            LANES.. => L::Floats::load_f32(p),
            few => F32::load_partial(p, few),
        }
    }
}

/// Dot products of bytes in registers, as [`peaks`](super::super::peaks) has
/// them.
#[inline(always)]
pub(super) unsafe fn multiply<L: Lines>(rounds: usize) -> f32 {
    unsafe {
        let line = std::hint::black_box(Line([3; 64]));
        let x = std::hint::black_box([1i8; 4]);
        let weights = L::load(&line);
        let mut sums = [L::splat(0); ACCUMULATORS];
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = L::dot(*sum, weights, x.as_ptr());
            }
        }
        sums.into_iter().map(|sum| L::to_floats(sum).sum()).sum()
    }
}
