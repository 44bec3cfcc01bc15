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
use crate::cpu::kernels::lanes::{LANES, Lanes};
use crate::cpu::kernels::peaks::ACCUMULATORS;
use crate::cpu::matrix::activations::{Quantized, TokenGroup};

/// Weights that stay in the second-level cache while tokens pass.
const STRIP_BYTES: usize = 256 * 1024;
/// How far ahead each group's weights are asked for.
const AHEAD: usize = 1024;

/// Tokens whose integers are summed at once.
const AT_ONCE: usize = 4;

/// Computes all groups of rows of `out`, GROUPS of them at once with MANY
/// tokens, and the rest in smaller tiles. A single token meets SINGLE groups at
/// once: it only reads, and memory is read fastest in several streams.
#[inline(always)]
pub(super) unsafe fn groups<
    L: Lines,
    Q: Quants,
    const MANY: usize,
    const GROUPS: usize,
    const SINGLE: usize,
>(
    op: &BlockWeights<'_>,
    x: &Quantized,
    out: &mut ColumnsMut<'_>,
) {
    let groups = out.width().div_ceil(ROWS);
    let strip = (STRIP_BYTES / (op.blocks * Q::LINES * 64).max(1)).max(1);
    let strip = strip.next_multiple_of(SINGLE);
    let mut first = 0;
    while first < groups {
        let end = (first + strip).min(groups);
        for tokens in x.groups() {
            let mut group = first;
            unsafe {
                while tokens.len == 1 && group + SINGLE <= end {
                    tile::<L, Q, 1, SINGLE>(op, group, &tokens, out);
                    group += SINGLE;
                }
                while group + GROUPS <= end {
                    tiles::<L, Q, MANY, GROUPS>(op, group, &tokens, out);
                    group += GROUPS;
                }
                while group < end {
                    tiles::<L, Q, MANY, 1>(op, group, &tokens, out);
                    group += 1;
                }
            }
        }
        first = end;
    }
}

/// G groups of rows with as many tokens as there are.
#[inline(always)]
unsafe fn tiles<L: Lines, Q: Quants, const MANY: usize, const G: usize>(
    op: &BlockWeights<'_>,
    group: usize,
    tokens: &TokenGroup<'_>,
    out: &mut ColumnsMut<'_>,
) {
    unsafe {
        match tokens.len {
            1 => tile::<L, Q, 1, G>(op, group, tokens, out),
            2 => tile::<L, Q, 2, G>(op, group, tokens, out),
            len if len == MANY => tile::<L, Q, MANY, G>(op, group, tokens, out),
            _ => tile::<L, Q, 4, G>(op, group, tokens, out),
        }
    }
}

/// G groups of rows with M tokens.
#[inline(always)]
unsafe fn tile<L: Lines, Q: Quants, const M: usize, const G: usize>(
    op: &BlockWeights<'_>,
    group: usize,
    x: &TokenGroup<'_>,
    out: &mut ColumnsMut<'_>,
) {
    unsafe {
        let mut sums = [[L::Floats::splat(0.0); M]; G];
        for block in 0..op.blocks {
            let mut places = [Place::of::<Q>(op, group, block); G];
            for g in 0..G {
                places[g] = Place::of::<Q>(op, group + g, block);
                places[g].prefetch::<L, Q>();
            }
            let x_scales = x.scales.as_ptr().add(block * M);
            for part in 0..Q::PARTS {
                let mut first = 0;
                while first < M {
                    let ints = dots::<L, Q, M, G>(&places, x, (block, part), first);
                    for g in 0..G {
                        let scale = Q::scale::<L>(places[g].head, places[g].run, part);
                        for t in 0..AT_ONCE.min(M) {
                            let x_scale = L::Floats::splat(*x_scales.add(first + t));
                            let scaled = L::to_floats(ints[g][t]).mul(x_scale);
                            sums[g][first + t] = sums[g][first + t].fma(scaled, scale);
                        }
                    }
                    first += AT_ONCE;
                }
            }
            if Q::MINIMA {
                for g in 0..G {
                    let minimum = Q::minimum::<L>(places[g].head, places[g].run);
                    for t in 0..M {
                        let total = -*x.sums.as_ptr().add(block * M + t);
                        sums[g][t] = sums[g][t].fma(L::Floats::splat(total), minimum);
                    }
                }
            }
        }
        for g in 0..G {
            for t in 0..M {
                finish::<L>(op, group + g, sums[g][t], (x.first + t, out));
            }
        }
    }
}

/// A block's lines, the scales of its eight, and its own.
#[derive(Clone, Copy)]
struct Place {
    lines: *const Line,
    head: *const u8,
    run: *const u8,
}

impl Place {
    #[inline(always)]
    unsafe fn of<Q: Quants>(op: &BlockWeights<'_>, group: usize, block: usize) -> Place {
        unsafe {
            let lines = op.lines.as_ptr().add(group * op.blocks * Q::LINES);
            let scales = op.scales.as_ptr();
            let scales = scales.add(group * Q::LAYOUT.scale_bytes(op.blocks));
            Place {
                lines: lines.add(block * Q::LINES),
                head: scales.add(Q::LAYOUT.head_at(block)),
                run: scales.add(Q::LAYOUT.scale_at(block)),
            }
        }
    }

    #[inline(always)]
    unsafe fn prefetch<L: Lines, Q: Quants>(self) {
        unsafe {
            for line in 0..Q::LINES {
                L::prefetch(self.lines.add(line).cast::<u8>().wrapping_add(AHEAD));
            }
            L::prefetch(self.run.wrapping_add(AHEAD / (2 * Q::LINES)));
        }
    }
}

/// The integer products of one part of a block of G groups with some of M
/// tokens, from `first` on.
#[inline(always)]
unsafe fn dots<L: Lines, Q: Quants, const M: usize, const G: usize>(
    places: &[Place; G],
    x: &TokenGroup<'_>,
    (block, part): (usize, usize),
    first: usize,
) -> [[L::Ints; AT_ONCE]; G] {
    unsafe {
        let starts = x.starts.as_ptr().add((block * Q::PARTS + part) * M + first);
        let quants = x.quants.as_ptr().add((block * STEPS * M + first) * 4);
        let count = AT_ONCE.min(M);
        let mut ints = [[L::splat(0); AT_ONCE]; G];
        for g in 0..G {
            for t in 0..count {
                ints[g][t] = L::splat(*starts.add(t));
            }
        }
        let steps = STEPS / Q::PARTS;
        for step in part * steps..(part + 1) * steps {
            for g in 0..G {
                let weights = Q::step::<L>(places[g].lines, step);
                for t in 0..count {
                    ints[g][t] = Q::dot::<L>(ints[g][t], weights, quants.add((step * M + t) * 4));
                }
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
    let mut values = [0.0; LANES];
    unsafe { sums.store(values.as_mut_ptr()) };
    let count = ROWS.min(out.width() - first);
    for (row, value) in values[..count].iter_mut().enumerate() {
        if let Some(scales) = op.row_scales {
            *value *= scales[first + row];
        }
        if let Some(bias) = op.bias {
            *value += bias[first + row];
        }
        unsafe { out.write(token, first + row, *value) };
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
