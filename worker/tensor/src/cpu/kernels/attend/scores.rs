//! Scores of queries in f32 and the keys of a tile.
//!
//! SAFETY (of every body here): as in [`attend`](super).

#![allow(clippy::needless_range_loop)]

use std::ops::Range;

use super::weigh::weigh;
use super::{KEPT, Keys, Layout, Query, Scores, Span, TILE, Tile, Weighted, multiply};
use crate::cpu::kernels::generic::{Vectors, dots};
use crate::cpu::kernels::lanes::{Element, F32, Lanes, Widened};

/// Numbers that are widened to f32 where they meet a query's.
pub(in crate::cpu::kernels) struct Plain<E>(std::marker::PhantomData<E>);

impl<E: Element> Layout for Plain<E> {
    #[inline(always)]
    unsafe fn scores<L: Lanes, const S: usize>(
        op: &Span<'_>,
        queries: &[Query],
        scores: &mut [Scores; KEPT],
    ) {
        for (index, tile) in op.tiles.iter().enumerate() {
            let of = (op, tile, index);
            unsafe {
                match tile.keys {
                    Keys::Across { keys, stride } => {
                        across::<L, E, S>(of, (keys, stride), queries, scores);
                    }
                    Keys::Along(keys) => along::<L, E>(of, keys, queries, scores),
                    Keys::Pairs { .. } => unreachable!("pairs meet queries in bf16"),
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn weigh<L: Lanes, const M: usize, const V: usize>(
        op: &Span<'_>,
        weighted: &Weighted<'_>,
        out: &mut [f32],
    ) {
        unsafe { weigh::<L, E, M, V>(op, weighted, out) }
    }
}

/// Scores of a tile, of its number in the span, whose keys lie across: each
/// lane a position.
#[inline(always)]
unsafe fn across<L: Lanes, E: Element, const S: usize>(
    (op, tile, index): (&Span<'_>, &Tile<'_>, usize),
    keys: (&[u8], usize),
    queries: &[Query],
    scores: &mut [Scores; KEPT],
) {
    let (several, rest) = queries.as_chunks::<S>();
    for (queries, scores) in several.iter().zip(scores.chunks_mut(S)) {
        unsafe { across_of::<L, E, S>((op, tile, index), keys, queries, scores) };
    }
    for (query, scores) in rest.iter().zip(&mut scores[several.len() * S..]) {
        let scores = std::slice::from_mut(scores);
        unsafe { across_of::<L, E, 1>((op, tile, index), keys, &[*query], scores) };
    }
}

#[inline(always)]
unsafe fn across_of<L: Lanes, E: Element, const S: usize>(
    (op, tile, index): (&Span<'_>, &Tile<'_>, usize),
    (keys, stride): (&[u8], usize),
    queries: &[Query; S],
    scores: &mut [Scores],
) {
    unsafe {
        let mut sums = [L::splat(0.0); S];
        let mut starts = [op.floats().as_ptr(); S];
        for s in 0..S {
            starts[s] = starts[s].add(queries[s].q);
        }
        for d in 0..op.dim {
            let keys = keys.as_ptr().wrapping_add(d * stride * E::SIZE);
            let keys = match tile.positions {
                TILE => E::load::<L>(keys),
                few => E::load_partial(keys, few),
            };
            for s in 0..S {
                sums[s] = sums[s].fma(L::splat(*starts[s].add(d)), keys);
            }
        }
        for s in 0..S {
            let scores = &mut scores[s][index];
            sums[s].mul(L::splat(op.scale)).store(scores.as_mut_ptr());
            if let Some(scales) = &tile.scales {
                multiply(scores, scales.keys);
            }
        }
    }
}

/// Scores of a tile whose keys lie one after the other.
#[inline(always)]
unsafe fn along<L: Lanes, E: Element>(
    (op, tile, index): (&Span<'_>, &Tile<'_>, usize),
    keys: &[u8],
    queries: &[Query],
    scores: &mut [Scores; KEPT],
) {
    let keys = (keys, tile.positions);
    for (query, scores) in queries.iter().zip(scores) {
        let scores = &mut scores[index];
        *scores = unsafe {
            match &tile.scales {
                None => dots_along::<L, E>(op, keys, query, 0..op.dim),
                Some(scales) => {
                    let mut sums = dots_along::<L, E>(op, keys, query, 0..op.value_dim);
                    let mut rest = dots_along::<L, E>(op, keys, query, op.value_dim..op.dim);
                    multiply(&mut sums, scales.values);
                    multiply(&mut rest, scales.keys);
                    sums.iter_mut()
                        .zip(rest)
                        .for_each(|(sum, rest)| *sum += rest);
                    sums
                }
            }
        };
        scores.iter_mut().for_each(|score| *score *= op.scale);
    }
}

/// Dot products of some of the numbers of a query and of so many keys, which lie
/// one after the other.
#[inline(always)]
unsafe fn dots_along<L: Lanes, E: Element>(
    op: &Span<'_>,
    (keys, positions): (&[u8], usize),
    query: &Query,
    numbers: Range<usize>,
) -> [f32; TILE] {
    let mut found = [0.0; TILE];
    let q = op.floats()[query.q + numbers.start..].as_ptr().cast();
    let q = Vectors::rows::<Widened<E>>(q, 0, F32::SIZE);
    let from = |position: usize| {
        let number = position * op.dim + numbers.start;
        let first = keys.as_ptr().wrapping_add(number * E::SIZE);
        Vectors::rows::<Widened<E>>(first, op.dim * E::SIZE, E::SIZE)
    };
    let (fours, rest) = found[..positions].as_chunks_mut::<4>();
    let done = fours.len() * 4;
    unsafe {
        for (four, found) in fours.iter_mut().enumerate() {
            *found = dots::<L, Widened<E>, 1, 4>(numbers.len(), q, from(four * 4))[0];
        }
        for (one, found) in rest.iter_mut().enumerate() {
            *found = dots::<L, Widened<E>, 1, 1>(numbers.len(), q, from(done + one))[0][0];
        }
    }
    found
}
