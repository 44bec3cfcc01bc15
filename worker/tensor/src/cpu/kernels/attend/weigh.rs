//! Values of a span, widened to f32, weighted and added to results.
//!
//! SAFETY (of every body here): as in [`attend`](super).

#![allow(clippy::needless_range_loop)]

use super::{Span, Weighted};
use crate::cpu::kernels::lanes::{Element, F32, LANES, Lanes};

/// `out = out * decay + weights * values`, in the order of positions.
#[inline(always)]
pub(super) unsafe fn weigh<L: Lanes, E: Element, const M: usize, const V: usize>(
    op: &Span<'_>,
    weighted: &Weighted<'_>,
    out: &mut [f32],
) {
    let vectors = op.value_dim / LANES;
    let rest = op.value_dim % LANES;
    let mut vector = 0;
    unsafe {
        while vector + V <= vectors {
            weigh_vectors::<L, E, M, V>(op, weighted, vector, out);
            vector += V;
        }
        while vector < vectors {
            weigh_vectors::<L, E, M, 1>(op, weighted, vector, out);
            vector += 1;
        }
    }
    if rest > 0 {
        unsafe { weigh_rest::<L, E>(op, weighted, rest, out) };
    }
}

#[inline(always)]
unsafe fn weigh_vectors<L: Lanes, E: Element, const M: usize, const V: usize>(
    op: &Span<'_>,
    weighted: &Weighted<'_>,
    vector: usize,
    out: &mut [f32],
) {
    let seen = weighted.seen;
    unsafe {
        let mut sums = [[L::splat(0.0); V]; M];
        for m in 0..M {
            let decay = L::splat(*weighted.decays.get_unchecked(m));
            let out = out.as_ptr().add(weighted.queries.get_unchecked(m).out);
            for v in 0..V {
                let at = out.wrapping_add((vector + v) * LANES);
                sums[m][v] = L::load_f32(at.cast()).mul(decay);
            }
        }
        for (index, tile) in op.tiles.iter().enumerate() {
            let (from, to) = tile.part(seen);
            for position in from..to {
                let number = position * op.dim + vector * LANES;
                let row = tile.values.as_ptr().wrapping_add(number * E::SIZE);
                let mut values = [L::splat(0.0); V];
                for v in 0..V {
                    values[v] = E::load::<L>(row.wrapping_add(v * LANES * E::SIZE));
                }
                for m in 0..M {
                    let weights = weighted.weights.get_unchecked(m).get_unchecked(index);
                    let weight = L::splat(*weights.get_unchecked(position));
                    for v in 0..V {
                        sums[m][v] = sums[m][v].fma(weight, values[v]);
                    }
                }
            }
        }
        for m in 0..M {
            let out = out.as_mut_ptr().add(weighted.queries.get_unchecked(m).out);
            for v in 0..V {
                sums[m][v].store(out.wrapping_add((vector + v) * LANES));
            }
        }
    }
}

/// The last numbers, fewer than a vector.
#[inline(always)]
unsafe fn weigh_rest<L: Lanes, E: Element>(
    op: &Span<'_>,
    weighted: &Weighted<'_>,
    rest: usize,
    out: &mut [f32],
) {
    let first = op.value_dim - rest;
    for (m, query) in weighted.queries.iter().enumerate() {
        let out = &mut out[query.out + first..query.out + op.value_dim];
        unsafe {
            let decay = L::splat(weighted.decays[m]);
            let mut sum = F32::load_partial::<L>(out.as_ptr().cast(), rest).mul(decay);
            for (tile, weights) in op.tiles.iter().zip(&weighted.weights[m]) {
                let (from, to) = tile.part(query.seen);
                for (position, &weight) in weights.iter().enumerate().take(to).skip(from) {
                    let values = tile.values[(position * op.dim + first) * E::SIZE..].as_ptr();
                    sum = sum.fma(L::splat(weight), E::load_partial(values, rest));
                }
            }
            let mut padded = [0.0; LANES];
            sum.store(padded.as_mut_ptr());
            out.copy_from_slice(&padded[..rest]);
        }
    }
}
