//! Keys and values in bf16 that lie in pairs, and queries and weights that are
//! rounded to bf16: the processor multiplies pairs at twice the speed of f32.
//!
//! A score adds up pairs of a key's numbers, a result pairs of positions, the
//! second of a pair before the first.
//!
//! SAFETY (of every body here): as in [`attend`](super).

#![allow(clippy::needless_range_loop)]

use super::{
    Aligned, KEPT, Keys, LANES, Layout, Queries, Query, Scores, Span, TILE, TILES, Weighted,
};
use crate::cpu::kernels::lanes::{Element, F32, Lanes};

/// Bytes of a pair.
const PAIR: usize = 4;

/// The first and the second of a pair.
const FIRST: u32 = 0x0000_ffff;
const SECOND: u32 = 0xffff_0000;

/// A query's weights of a span.
type Rounded = [[[u8; 2]; TILE]; TILES];

pub(in crate::cpu::kernels) struct Pairs;

impl Layout for Pairs {
    #[inline(always)]
    unsafe fn scores<L: Lanes, const S: usize>(
        op: &Span<'_>,
        queries: &[Query],
        scores: &mut [Scores; KEPT],
    ) {
        let (several, rest) = queries.as_chunks::<S>();
        for (queries, scores) in several.iter().zip(scores.chunks_mut(S)) {
            unsafe { scores_of::<L, S>(op, queries, scores) };
        }
        for (query, scores) in rest.iter().zip(&mut scores[several.len() * S..]) {
            unsafe { scores_of::<L, 1>(op, &[*query], std::slice::from_mut(scores)) };
        }
    }

    #[inline(always)]
    unsafe fn weigh<L: Lanes, const M: usize, const V: usize>(
        op: &Span<'_>,
        weighted: &Weighted<'_>,
        out: &mut [f32],
    ) {
        let mut weights: Aligned<[Rounded; M]> = Aligned([[[[0; 2]; TILE]; TILES]; M]);
        let weights = &mut weights.0;
        for m in 0..M {
            let tiles = weighted.weights[m].iter().zip(&mut weights[m]);
            for (weights, rounded) in tiles.take(op.tiles.len()) {
                unsafe { L::load_f32(weights.as_ptr().cast()).store_bf16(rounded.as_mut_ptr()) };
            }
        }
        let of = (weighted, &*weights);
        let mut first = 0;
        unsafe {
            while first + V * LANES <= op.value_dim {
                weigh_numbers::<L, M, V>(op, of, (first, LANES), out);
                first += V * LANES;
            }
            while first < op.value_dim {
                let width = LANES.min(op.value_dim - first);
                weigh_numbers::<L, M, 1>(op, of, (first, width), out);
                first += width;
            }
        }
    }
}

#[inline(always)]
unsafe fn scores_of<L: Lanes, const S: usize>(
    op: &Span<'_>,
    queries: &[Query; S],
    scores: &mut [Scores],
) {
    let whole = op.tiles.len() == TILES && op.tiles.iter().all(|tile| tile.positions == TILE);
    if whole {
        unsafe { scores_of_tiles::<L, S, TILES>(op, 0, queries, scores) };
    } else {
        for index in 0..op.tiles.len() {
            unsafe { scores_of_tiles::<L, S, 1>(op, index, queries, scores) };
        }
    }
}

/// Scores of N tiles from one on, all whole if there are several; each lane a
/// position.
#[inline(always)]
unsafe fn scores_of_tiles<L: Lanes, const S: usize, const N: usize>(
    op: &Span<'_>,
    first: usize,
    queries: &[Query; S],
    scores: &mut [Scores],
) {
    let Queries::Bf16(q) = op.q else { return };
    let tiles = &op.tiles[first..first + N];
    let mut keys = [(std::ptr::null(), 0); N];
    for (place, tile) in keys.iter_mut().zip(tiles) {
        if let Keys::Pairs { keys, stride } = tile.keys {
            *place = (keys.as_ptr(), stride * PAIR);
        }
    }
    let positions = if N == 1 { tiles[0].positions } else { TILE };
    unsafe {
        let mut sums = [[L::splat(0.0); N]; S];
        for pair in 0..op.dim / 2 {
            let mut numbers = [L::no_pairs(); N];
            for n in 0..N {
                let (keys, apart) = keys[n];
                numbers[n] = load_pairs::<L>(keys.wrapping_add(pair * apart), positions);
            }
            for s in 0..S {
                let q = q.as_ptr().add(queries[s].q + 2 * pair);
                let q = L::splat_pair(q.cast());
                for n in 0..N {
                    sums[s][n] = sums[s][n].dot_pairs(q, numbers[n]);
                }
            }
        }
        for s in 0..S {
            for n in 0..N {
                let scores = scores[s][first + n].as_mut_ptr();
                sums[s][n].mul(L::splat(op.scale)).store(scores);
            }
        }
    }
}

/// V vectors of each result from a number on; `width` is that of a vector, or,
/// of a single one, what is left.
#[inline(always)]
unsafe fn weigh_numbers<L: Lanes, const M: usize, const V: usize>(
    op: &Span<'_>,
    (weighted, weights): (&Weighted<'_>, &[Rounded; M]),
    (first, width): (usize, usize),
    out: &mut [f32],
) {
    unsafe {
        let mut sums = [[L::splat(0.0); V]; M];
        for m in 0..M {
            let decay = L::splat(*weighted.decays.get_unchecked(m));
            let out = out
                .as_ptr()
                .add(weighted.queries.get_unchecked(m).out + first);
            for v in 0..V {
                let out = out.wrapping_add(v * LANES).cast();
                let before = match width {
                    LANES => L::load_f32(out),
                    few => F32::load_partial(out, few),
                };
                sums[m][v] = before.mul(decay);
            }
        }
        for (index, tile) in op.tiles.iter().enumerate() {
            let (from, to) = tile.part(weighted.seen);
            for pair in from / 2..to.div_ceil(2) {
                let row = (pair * op.dim + first) * PAIR;
                let row = tile.values.as_ptr().wrapping_add(row);
                // What nobody sees may be anything.
                let mask = match (2 * pair < from, 2 * pair + 2 > to) {
                    (true, _) => SECOND,
                    (_, true) => FIRST,
                    _ => FIRST | SECOND,
                };
                let mut values = [L::no_pairs(); V];
                for v in 0..V {
                    let pairs = load_pairs::<L>(row.wrapping_add(v * LANES * PAIR), width);
                    values[v] = L::mask_pairs(pairs, mask);
                }
                for m in 0..M {
                    let weights = weights[m].get_unchecked(index).as_ptr().add(2 * pair);
                    let weights = L::splat_pair(weights.cast());
                    for v in 0..V {
                        sums[m][v] = sums[m][v].dot_pairs(weights, values[v]);
                    }
                }
            }
        }
        for m in 0..M {
            let query = weighted.queries.get_unchecked(m);
            for v in 0..V {
                let out = out.as_mut_ptr().add(query.out + first + v * LANES);
                if width == LANES {
                    sums[m][v].store(out);
                } else {
                    let mut padded = [0.0; LANES];
                    sums[m][v].store(padded.as_mut_ptr());
                    std::ptr::copy_nonoverlapping(padded.as_ptr(), out, width);
                }
            }
        }
    }
}

/// The first `count` pairs at `p`, and zeros.
#[inline(always)]
unsafe fn load_pairs<L: Lanes>(p: *const u8, count: usize) -> L::Pairs {
    unsafe {
        if count == LANES {
            return L::load_pairs(p);
        }
        let mut padded = [0u8; LANES * PAIR];
        std::ptr::copy_nonoverlapping(p, padded.as_mut_ptr(), count * PAIR);
        L::load_pairs(padded.as_ptr())
    }
}
