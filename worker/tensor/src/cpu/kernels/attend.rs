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

mod pairs;
mod scores;
mod weigh;

use super::lanes::{LANES, Lanes};
use crate::cpu::math::{exp, tanh};
use crate::kv_shape::KvDtype;
pub(super) use pairs::Pairs;
pub(super) use scores::Plain;

/// Positions whose scores are computed together, a lane each.
pub(in crate::cpu) const TILE: usize = LANES;
/// Tiles of a span.
pub(in crate::cpu) const TILES: usize = 4;
/// Bytes of a cache line.
const LINE: usize = 64;
/// Queries whose scores are kept at a time.
const KEPT: usize = 16;

/// At a cache line: what has been stored in two is not there to be loaded until
/// both have been written.
#[repr(align(64))]
struct Aligned<T>(T);

/// A query's scores of a span; what tiles do not have is anything.
pub(super) type Scores = [[f32; TILE]; TILES];

/// The numbers of queries.
#[derive(Clone, Copy)]
pub(in crate::cpu) enum Queries<'a> {
    F32(&'a [f32]),
    /// Little endian; for keys and values in pairs.
    Bf16(&'a [[u8; 2]]),
}

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
    pub q: Queries<'a>,
    /// Numbers of a query and of a key.
    pub dim: usize,
    pub value_dim: usize,
    /// Of keys and values, which are little endian.
    pub dtype: KvDtype,
    pub scale: f32,
    pub soft_cap: Option<f32>,
    /// At most [`TILES`].
    pub tiles: &'a [Tile<'a>],
    /// What is read after them.
    pub next: &'a [Tile<'a>],
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
    /// `[dim / 2][stride][2]` in bf16, of which the tile's positions are the
    /// first; values are `[positions / 2][dim][2]`.
    Pairs { keys: &'a [u8], stride: usize },
}

impl<'a> Keys<'a> {
    fn bytes(self) -> &'a [u8] {
        match self {
            Keys::Across { keys, .. } | Keys::Along(keys) | Keys::Pairs { keys, .. } => keys,
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

impl<'a> Span<'a> {
    /// Whether keys and values lie in pairs.
    pub(super) fn in_pairs(&self) -> bool {
        matches!(self.q, Queries::Bf16(_))
    }

    /// Numbers of queries that are not in pairs.
    fn floats(&self) -> &'a [f32] {
        match self.q {
            Queries::F32(q) => q,
            Queries::Bf16(_) => &[],
        }
    }

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
        let numbers = match self.q {
            Queries::F32(q) => q.len(),
            Queries::Bf16(q) => q.len(),
        };
        for query in queries {
            assert!(query.q + self.dim <= numbers);
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
            Keys::Pairs { keys, stride } => {
                assert!(self.dim.is_multiple_of(2) && positions.is_multiple_of(2));
                numbers(keys) >= (self.dim - 2) * stride + 2 * positions
            }
        };
        assert!(keys && self.in_pairs() == matches!(tile.keys, Keys::Pairs { .. }));
        assert!(!self.in_pairs() || self.dtype == KvDtype::Bf16);
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

/// How keys and values lie and are multiplied.
pub(super) trait Layout {
    /// Scores of the span, S queries' at once.
    ///
    /// # Safety
    /// As [`attend`].
    unsafe fn scores<L: Lanes, const S: usize>(
        op: &Span<'_>,
        queries: &[Query],
        scores: &mut [Scores; KEPT],
    );

    /// `out = out * decay + weights * values`, in the order of positions, of M
    /// queries and V vectors at once.
    ///
    /// # Safety
    /// As [`attend`]; there are M queries.
    unsafe fn weigh<L: Lanes, const M: usize, const V: usize>(
        op: &Span<'_>,
        weighted: &Weighted<'_>,
        out: &mut [f32],
    );
}

/// Queries and their weights; a position that a query does not see has none.
pub(super) struct Weighted<'a> {
    queries: &'a [Query],
    weights: &'a [Scores],
    decays: &'a [f32],
    /// Positions of the span that any of them sees, from and to.
    seen: (usize, usize),
}

/// Adds the span to each query's result, S queries' scores at once, and M
/// queries' values in V vectors.
#[inline(always)]
pub(super) unsafe fn attend<L: Lanes, K: Layout, const S: usize, const M: usize, const V: usize>(
    op: &Span<'_>,
    queries: &mut [Query],
    out: &mut [f32],
) {
    for tile in op.next {
        let bytes = tile.positions * op.dim * op.dtype.size();
        unsafe {
            ask_for::<L>(tile.keys.bytes(), bytes);
            ask_for::<L>(tile.values, bytes);
        }
    }
    for queries in queries.chunks_mut(KEPT) {
        let seen = seen_by_any(queries);
        let of_any = op.tiles.partition_point(|tile| tile.first < seen.1);
        let op = &Span {
            tiles: &op.tiles[..of_any],
            ..*op
        };
        let mut scores = Aligned([[[0.0; TILE]; TILES]; KEPT]);
        let scores = &mut scores.0;
        let mut decays = [0.0; KEPT];
        unsafe { K::scores::<L, S>(op, queries, scores) };
        let mut maxima = [0.0; KEPT];
        for ((query, scores), max) in queries.iter().zip(&mut *scores).zip(&mut maxima) {
            *max = unsafe { highest::<L>(op, query, scores) };
        }
        // All at once, in vectors.
        for (query, decay) in queries.iter().zip(&mut decays) {
            *decay = query.max;
        }
        for (decay, max) in decays.iter_mut().zip(&maxima) {
            *decay = exp(*decay - max);
        }
        for (index, query) in queries.iter_mut().enumerate() {
            query.max = maxima[index];
            unsafe { absorb::<L>(op, (query, decays[index]), &mut scores[index]) };
        }
        let mut first = 0;
        while first < queries.len() {
            let count = match queries.len() - first {
                left if left >= M => M,
                2.. => 2,
                _ => 1,
            };
            let end = first + count;
            let queries = &queries[first..end];
            let weighted = Weighted {
                queries,
                weights: &scores[first..end],
                decays: &decays[first..end],
                seen: seen_by_any(queries),
            };
            unsafe {
                match count {
                    1 => K::weigh::<L, 1, V>(op, &weighted, out),
                    all if all == M => K::weigh::<L, M, V>(op, &weighted, out),
                    _ => K::weigh::<L, 2, V>(op, &weighted, out),
                }
            }
            first = end;
        }
    }
}

/// Positions that any of them sees, from and to.
#[inline(always)]
fn seen_by_any(queries: &[Query]) -> (usize, usize) {
    let from = queries.iter().map(|query| query.seen.0).min();
    let to = queries.iter().map(|query| query.seen.1).max();
    (from.unwrap_or(0), to.unwrap_or(0))
}

/// Asks for the first `len` bytes: blocks lie anywhere, so the processor does not
/// see what is read next.
#[inline(always)]
unsafe fn ask_for<L: Lanes>(bytes: &[u8], len: usize) {
    for line in (0..len.min(bytes.len())).step_by(LINE) {
        unsafe { L::prefetch(bytes.as_ptr().wrapping_add(line)) };
    }
}

/// The highest score that a query has seen. Those that it does not see become
/// impossible.
#[inline(always)]
unsafe fn highest<L: Lanes>(op: &Span<'_>, query: &Query, scores: &mut Scores) -> f32 {
    let scores = &mut scores[..op.tiles.len()];
    if let Some(cap) = op.soft_cap {
        let scores = scores.as_flattened_mut().iter_mut();
        scores.for_each(|score| *score = cap * tanh(*score / cap));
    }
    let mut highest = unsafe { L::splat(query.max) };
    for (tile, scores) in op.tiles.iter().zip(scores) {
        hide_unseen(scores, tile.part(query.seen));
        highest = unsafe { highest.max(L::load_f32(scores.as_ptr().cast())) };
    }
    unsafe { highest.largest() }
}

/// Turns a query's scores into weights; earlier ones are to be multiplied with
/// `decay`.
#[inline(always)]
unsafe fn absorb<L: Lanes>(op: &Span<'_>, (query, decay): (&mut Query, f32), scores: &mut Scores) {
    let mut total = unsafe { L::splat(0.0) };
    for (tile, scores) in op.tiles.iter().zip(scores) {
        scores.iter_mut().for_each(|score| {
            let weight = exp(*score - query.max);
            *score = if *score == f32::NEG_INFINITY {
                0.0
            } else {
                weight
            };
        });
        total = unsafe { total.fma(L::load_f32(scores.as_ptr().cast()), L::splat(1.0)) };
        if let Some(scales) = &tile.scales {
            multiply(scores, scales.values);
        }
    }
    query.total = query.total * decay + unsafe { total.sum() };
}

/// Makes positions impossible that are not from `from` to `to`.
#[inline(always)]
fn hide_unseen(scores: &mut [f32; TILE], (from, to): (usize, usize)) {
    if (from, to) != (0, TILE) {
        for (position, score) in scores.iter_mut().enumerate() {
            if position < from || position >= to {
                *score = f32::NEG_INFINITY;
            }
        }
    }
}

/// Each score with its position's scale.
#[inline(always)]
fn multiply(scores: &mut [f32; TILE], scales: &[f32]) {
    let scores = scores.iter_mut().zip(scales);
    scores.for_each(|(score, scale)| *score *= scale);
}
