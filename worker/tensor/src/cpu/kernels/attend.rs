//! Queries against a span of positions: scores, their softmax so far, and the
//! weighted values (Milakov and Gimelshein 2018; Dao et al. 2022).
//!
//! A span is of several tiles, so that what is done once for a span (a maximum,
//! what earlier results are multiplied with) is little beside what is done for
//! each position. A query's numbers depend on its own scores only: queries are
//! computed side by side so that keys and values are loaded once for several.
//!
//! SAFETY (of every body here): the instruction set exists by the contract of
//! [`Lanes`]; `kernels` has checked that slices are as long as shapes say.

// Tiles are indexed by their constant sizes, so that they unroll into registers.
#![allow(clippy::needless_range_loop)]

use std::ops::Range;

use super::generic::dots;
use super::lanes::{Element, F32, LANES, Lanes, Widened};
use crate::cpu::math::{exp, tanh};
use crate::kv_shape::KvDtype;

/// Positions whose scores are computed together, a lane each.
pub(in crate::cpu) const TILE: usize = LANES;
/// Tiles of a span.
pub(in crate::cpu) const TILES: usize = 4;
/// Bytes of a cache line.
const LINE: usize = 64;
/// Queries whose scores are kept at a time.
const KEPT: usize = 16;

/// A query's scores of a span; what tiles do not have is anything.
type Scores = [[f32; TILE]; TILES];

/// A query of one head, and the softmax of the scores that it has seen.
#[derive(Clone, Copy, Debug)]
pub(in crate::cpu) struct Query {
    /// Where it starts in the queries.
    pub q: usize,
    /// Where its result starts.
    pub out: usize,
    /// Positions of the span that it sees, from and to.
    pub seen: (usize, usize),
    pub max: f32,
    /// Sum of e^(score - max).
    pub total: f32,
}

/// Neighbouring positions of one KV head.
pub(in crate::cpu) struct Span<'a> {
    pub q: &'a [f32],
    /// Numbers of a query and of a key.
    pub dim: usize,
    pub value_dim: usize,
    /// Of keys and values, which are little endian.
    pub dtype: KvDtype,
    pub scale: f32,
    pub soft_cap: Option<f32>,
    /// At most [`TILES`].
    pub tiles: &'a [Tile<'a>],
}

/// Some of a span's positions.
#[derive(Clone, Copy)]
pub(in crate::cpu) struct Tile<'a> {
    /// In the span.
    pub first: usize,
    /// At most [`TILE`].
    pub positions: usize,
    pub keys: Keys<'a>,
    /// `[positions][dim]`, of which `value_dim` count.
    pub values: &'a [u8],
    /// Where numbers are kept with scales.
    pub scales: Option<Scales<'a>>,
}

#[derive(Clone, Copy)]
pub(in crate::cpu) enum Keys<'a> {
    /// `[dim][stride]`, of which the tile's positions are the first.
    Across { keys: &'a [u8], stride: usize },
    /// `[positions][dim]`, of which values are the first `value_dim`.
    Along(&'a [u8]),
}

impl<'a> Keys<'a> {
    fn bytes(self) -> &'a [u8] {
        match self {
            Keys::Across { keys, .. } | Keys::Along(keys) => keys,
        }
    }
}

/// What numbers are to be multiplied with; each is `[positions]`.
#[derive(Clone, Copy)]
pub(in crate::cpu) struct Scales<'a> {
    /// Of keys, or of what follows the values in them.
    pub keys: &'a [f32],
    pub values: &'a [f32],
}

impl Span<'_> {
    /// Whether queries, keys and values are there.
    pub(super) fn check(&self, queries: &[Query], out: &[f32]) {
        assert!(self.tiles.len() <= TILES && self.value_dim <= self.dim);
        let begin = self.tiles.first().map_or(0, |tile| tile.first);
        let mut end = begin;
        for tile in self.tiles {
            assert!(tile.first == end);
            self.check_tile(tile);
            end += tile.positions;
        }
        for query in queries {
            assert!(query.q + self.dim <= self.q.len());
            assert!(query.out + self.value_dim <= out.len());
            let (from, to) = query.seen;
            assert!(begin <= from && from < to && to <= end);
        }
    }

    fn check_tile(&self, tile: &Tile<'_>) {
        let positions = tile.positions;
        assert!((1..=TILE).contains(&positions));
        let numbers = |bytes: &[u8]| bytes.len() / self.dtype.size();
        assert!(numbers(tile.values) >= positions * self.dim);
        let keys = match tile.keys {
            Keys::Across { keys, stride } => numbers(keys) >= (self.dim - 1) * stride + positions,
            Keys::Along(keys) => numbers(keys) >= positions * self.dim,
        };
        assert!(keys);
        if let Some(scales) = &tile.scales {
            assert!(scales.keys.len().min(scales.values.len()) >= positions);
        }
    }
}

impl Tile<'_> {
    /// Of positions of the span, from and to, those that are the tile's.
    fn part(&self, (from, to): (usize, usize)) -> (usize, usize) {
        let of = |position: usize| position.saturating_sub(self.first).min(self.positions);
        (of(from), of(to))
    }
}

/// Adds the span to each query's result, S queries' scores at once, and M
/// queries' values in V vectors.
#[inline(always)]
pub(super) unsafe fn attend<
    L: Lanes,
    E: Element,
    const S: usize,
    const M: usize,
    const V: usize,
>(
    op: &Span<'_>,
    queries: &mut [Query],
    out: &mut [f32],
) {
    for queries in queries.chunks_mut(KEPT) {
        let mut scores: [Scores; KEPT] = [[[0.0; TILE]; TILES]; KEPT];
        let mut decays = [0.0; KEPT];
        for (index, tile) in op.tiles.iter().enumerate() {
            let of = (op, tile, index);
            unsafe {
                ask_for::<L>(tile.values, tile.positions * op.dim * E::SIZE);
                if let Some(next) = op.tiles.get(index + 1) {
                    ask_for::<L>(next.keys.bytes(), next.positions * op.dim * E::SIZE);
                }
                match tile.keys {
                    Keys::Across { keys, stride } => {
                        across::<L, E, S>(of, (keys, stride), queries, &mut scores);
                    }
                    Keys::Along(keys) => along::<L, E>(of, keys, queries, &mut scores),
                }
            }
        }
        for ((query, scores), decay) in queries.iter_mut().zip(&mut scores).zip(&mut decays) {
            *decay = unsafe { absorb::<L>(op, query, scores) };
            for (tile, scores) in op.tiles.iter().zip(scores) {
                if let Some(scales) = &tile.scales {
                    multiply(scores, scales.values);
                }
            }
        }
        let mut first = 0;
        while first < queries.len() {
            let seen = queries[first].seen;
            let alike = queries[first..].iter().take_while(|it| it.seen == seen);
            let count = match alike.take(M).count() {
                all if all == M => M,
                // A row's heads see alike, where its neighbours do not.
                2.. => 2,
                _ => 1,
            };
            let end = first + count;
            let weighted = Weighted {
                queries: &queries[first..end],
                weights: &scores[first..end],
                decays: &decays[first..end],
            };
            unsafe {
                match count {
                    1 => weigh::<L, E, 1, V>(op, &weighted, out),
                    all if all == M => weigh::<L, E, M, V>(op, &weighted, out),
                    _ => weigh::<L, E, 2, V>(op, &weighted, out),
                }
            }
            first = end;
        }
    }
}

/// Asks for the first `len` bytes: blocks lie anywhere, so the processor does not
/// see what is read next.
#[inline(always)]
unsafe fn ask_for<L: Lanes>(bytes: &[u8], len: usize) {
    for line in (0..len.min(bytes.len())).step_by(LINE) {
        unsafe { L::prefetch(bytes.as_ptr().wrapping_add(line)) };
    }
}

/// Each score with its position's scale.
#[inline(always)]
fn multiply(scores: &mut [f32; TILE], scales: &[f32]) {
    let scores = scores.iter_mut().zip(scales);
    scores.for_each(|(score, scale)| *score *= scale);
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
        let mut starts = [op.q.as_ptr(); S];
        for s in 0..S {
            starts[s] = op.q.as_ptr().add(queries[s].q);
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
    let q = op.q[query.q + numbers.start..].as_ptr().cast();
    let at = |position: usize| {
        let number = position * op.dim + numbers.start;
        keys.as_ptr().wrapping_add(number * E::SIZE)
    };
    let (fours, rest) = found[..positions].as_chunks_mut::<4>();
    let done = fours.len() * 4;
    unsafe {
        for (four, found) in fours.iter_mut().enumerate() {
            *found = dots::<L, Widened<E>, 1, 4>(numbers.len(), q, (at(four * 4), op.dim))[0];
        }
        for (one, found) in rest.iter_mut().enumerate() {
            *found = dots::<L, Widened<E>, 1, 1>(numbers.len(), q, (at(done + one), op.dim))[0][0];
        }
    }
    found
}

/// Turns a query's scores into weights; returns what earlier weights are to be
/// multiplied with. Positions that it does not see have no weight.
#[inline(always)]
unsafe fn absorb<L: Lanes>(op: &Span<'_>, query: &mut Query, scores: &mut Scores) -> f32 {
    let scores = &mut scores[..op.tiles.len()];
    if let Some(cap) = op.soft_cap {
        let scores = scores.as_flattened_mut().iter_mut();
        scores.for_each(|score| *score = cap * tanh(*score / cap));
    }
    let mut largest = unsafe { L::splat(query.max) };
    for (tile, scores) in op.tiles.iter().zip(&mut *scores) {
        fill_unseen(scores, tile.part(query.seen), f32::NEG_INFINITY);
        largest = unsafe { largest.max(L::load_f32(scores.as_ptr().cast())) };
    }
    let max = unsafe { largest.largest() };
    let decay = exp(query.max - max);
    let mut total = unsafe { L::splat(0.0) };
    for (tile, scores) in op.tiles.iter().zip(scores) {
        scores
            .iter_mut()
            .for_each(|score| *score = exp(*score - max));
        fill_unseen(scores, tile.part(query.seen), 0.0);
        total = unsafe { total.fma(L::load_f32(scores.as_ptr().cast()), L::splat(1.0)) };
    }
    query.max = max;
    query.total = query.total * decay + unsafe { total.sum() };
    decay
}

/// Sets what is not from `from` to `to`.
#[inline(always)]
fn fill_unseen(scores: &mut [f32; TILE], (from, to): (usize, usize), value: f32) {
    if (from, to) != (0, TILE) {
        for (position, score) in scores.iter_mut().enumerate() {
            if position < from || position >= to {
                *score = value;
            }
        }
    }
}

/// Queries that see the same positions, and their weights.
struct Weighted<'a> {
    queries: &'a [Query],
    weights: &'a [Scores],
    decays: &'a [f32],
}

/// `out = out * decay + weights * values`, in the order of positions.
#[inline(always)]
unsafe fn weigh<L: Lanes, E: Element, const M: usize, const V: usize>(
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
    let seen = weighted.queries[0].seen;
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
