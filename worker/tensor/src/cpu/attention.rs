//! Causal attention over paged KV, with an online softmax (Milakov and
//! Gimelshein 2018; Dao et al. 2022, FlashAttention).
//!
//! A row passes over its sequence's positions in tiles that end where blocks
//! and multiples of [`TILE`] end, and in spans of [`TILES`] of these. Both are
//! cut by position alone, so neither batch, chunk nor block table changes a bit.
//! Neighbouring rows of a sequence pass over them together, so that keys and
//! values are read once for several.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use super::inputs::{CpuInputs, Row};
use super::kernels::Kernels;
use super::kernels::attend::{Queries, Query, Span, TILE, TILES, Tile};
use super::kv_pool::CpuKvPool;
use super::pool::Pool;
use crate::error::DeviceError;
use crate::kv_shape::KvShape;
use crate::ops;

/// Query heads of a single row that are computed together, at most.
const GROUP: usize = 8;
/// Rows of a sequence that are computed together, at most.
const ROWS: usize = 64;
/// Tasks that a thread has at least, where there are so many: those of long
/// sequences take long.
const TASKS_PER_THREAD: usize = 4;

/// One layer's attention.
pub(super) struct Attention<'a> {
    pub(super) kernels: Kernels,
    pub(super) pool: &'a CpuKvPool,
    pub(super) layer: usize,
    pub(super) inputs: &'a CpuInputs,
    pub(super) op: ops::Attention<'a, Vec<f32>>,
}

impl Attention<'_> {
    /// `Ok` if heads, layer, sinks and batch fit the pool.
    pub(super) fn check(&self) -> Result<(), DeviceError> {
        let shape = self.shape();
        self.inputs.check_pool(shape)?;
        DeviceError::in_range("layer", self.layer, shape.layers)?;
        if !self.op.heads.is_multiple_of(shape.kv_heads) {
            return Err(DeviceError::Shape {
                what: "attention heads, which KV heads must divide,",
                found: self.op.heads,
                expected: shape.kv_heads,
            });
        }
        let sinks = self.op.sinks.map_or(self.op.heads, Vec::len);
        DeviceError::at_least("attention sinks", sinks, self.op.heads)
    }

    /// Attention of the whole batch: `q` is `[rows, heads, head_dim]`, `out`
    /// `[rows, heads, value_dim]`.
    pub(super) fn run(&self, threads: Option<&Pool>, q: &[f32], out: &mut [f32]) {
        // A lock each, which nobody else takes: tasks are numbers, not slices.
        let tasks = self.tasks(threads.map_or(1, Pool::threads));
        let tasks: Vec<_> = tasks.into_iter().map(Mutex::new).collect();
        let run = |task: usize| {
            let mut task = tasks[task].lock().unwrap_or_else(PoisonError::into_inner);
            self.task(q, &mut task);
        };
        match threads {
            None => (0..tasks.len()).for_each(run),
            Some(pool) => pool.run(tasks.len(), &run),
        }
        let value_dim = self.shape().value_dim();
        for task in tasks {
            let task = task.into_inner().unwrap_or_else(PoisonError::into_inner);
            let width = task.heads.len() * value_dim;
            for (row, values) in task.rows.zip(task.out.chunks(width)) {
                let first = (row * self.op.heads + task.heads.start) * value_dim;
                out[first..first + width].copy_from_slice(values);
            }
        }
    }

    /// Cuts the batch into tasks, of which several threads have several each.
    fn tasks(&self, threads: usize) -> Vec<Task> {
        let value_dim = self.shape().value_dim();
        let mut groups = Vec::new();
        let mut first = 0;
        while first < self.inputs.rows.len() {
            let rows = first..first + self.inputs.neighbours(first, ROWS);
            first = rows.end;
            groups.push(rows);
        }
        let width = self.task_heads((threads * TASKS_PER_THREAD).div_ceil(groups.len().max(1)));
        let mut tasks = Vec::new();
        for rows in groups {
            tasks.extend((0..self.op.heads).step_by(width).map(|head| Task {
                rows: rows.clone(),
                heads: head..head + width,
                out: vec![0.0; rows.len() * width * value_dim],
            }));
        }
        tasks
    }

    /// Query heads of a task: as many as leave at least so many tasks of a row,
    /// since heads lie beside each other. Those that share a KV head are only
    /// divided where KV heads are too few.
    fn task_heads(&self, tasks: usize) -> usize {
        let kv_heads = self.shape().kv_heads;
        let shared = self.op.heads / kv_heads;
        let enough = |parts: &usize| kv_heads.is_multiple_of(*parts) && *parts >= tasks;
        let fits = |heads: &usize| shared.is_multiple_of(*heads);
        match (1..=kv_heads).find(enough) {
            Some(parts) => self.op.heads / parts,
            None => (1..=GROUP).rev().find(fits).unwrap_or(1),
        }
    }

    /// Multiplications of a batch.
    pub(super) fn work(&self) -> usize {
        let seen = |row: &Row| row.position + 1 - self.first_position(*row);
        let positions: usize = self.inputs.rows.iter().map(seen).sum();
        2 * positions * self.op.heads * self.shape().head_dim
    }

    fn shape(&self) -> &KvShape {
        self.pool.shape()
    }

    /// The first position that a row sees.
    fn first_position(&self, row: Row) -> usize {
        let seen = self.op.window.unwrap_or(usize::MAX);
        (row.position + 1).saturating_sub(seen)
    }

    /// All rows of a task over all positions that they see: span after span, and
    /// in each of these KV head after KV head, as they lie in memory.
    fn task(&self, q: &[f32], task: &mut Task) {
        let rows = &self.inputs.rows[task.rows.clone()];
        let (Some(&first_row), Some(&last_row)) = (rows.first(), rows.last()) else {
            return;
        };
        let rounded = self.pool.in_pairs().then(|| self.rounded(q, task));
        let q = rounded.as_deref().map_or(Queries::F32(q), Queries::Bf16);
        let shared = self.op.heads / self.shape().kv_heads;
        let kv_heads = task.heads.start / shared..task.heads.end.div_ceil(shared);
        let mut queries = self.queries(q, task);
        // A row's, of one KV head.
        let together = shared.min(task.heads.len());
        let cuts = self.cuts();
        let (begin, end) = (self.first_position(first_row), last_row.position + 1);
        // Blocks beyond a window may be others' by now.
        let tiles_of = |(index, kv_head): (usize, usize)| {
            let seen = index.max(cuts.tile_of(begin))..index + TILES;
            let starts = seen.map(|tile| cuts.start(tile)).take_while(|&it| it < end);
            let first = cuts.start(index);
            starts.map(move |start| self.tile((last_row, kv_head), start, first))
        };
        let spans = cuts.tile_of(begin) / TILES..=cuts.tile_of(end - 1) / TILES;
        let steps = spans.flat_map(|span| kv_heads.clone().map(move |head| (span * TILES, head)));
        let mut steps = steps.peekable();
        let (mut tiles, mut next) = (Vec::with_capacity(TILES), Vec::with_capacity(TILES));
        next.extend(steps.peek().copied().into_iter().flat_map(tiles_of));
        while let Some((index, kv_head)) = steps.next() {
            std::mem::swap(&mut tiles, &mut next);
            next.clear();
            next.extend(steps.peek().copied().into_iter().flat_map(tiles_of));
            let each = rows.len() * together;
            let queries = &mut queries[(kv_head - kv_heads.start) * each..][..each];
            let positions = cuts.start(index)..cuts.start(index + TILES);
            let span = Span {
                q,
                dim: self.shape().head_dim,
                value_dim: self.shape().value_dim(),
                dtype: self.shape().dtype,
                scale: self.op.scale,
                soft_cap: self.op.soft_cap,
                tiles: &tiles,
                next: &next,
            };
            let seeing = self.seeing(rows, positions, queries);
            self.kernels.attend(&span, seeing, &mut task.out);
        }
        let value_dim = self.shape().value_dim();
        for query in queries {
            let out = &mut task.out[query.out..query.out + value_dim];
            out.iter_mut().for_each(|value| *value /= query.total);
        }
    }

    /// The queries of rows that see any of a span, and what they see of it.
    fn seeing<'q>(
        &self,
        rows: &[Row],
        span: Range<usize>,
        queries: &'q mut [Query],
    ) -> &'q mut [Query] {
        let together = queries.len() / rows.len().max(1);
        let mut seeing = rows.len()..0;
        for (index, &row) in rows.iter().enumerate() {
            let from = self.first_position(row).max(span.start);
            let to = span.end.min(row.position + 1);
            if from < to {
                // They are neighbours.
                seeing = seeing.start.min(index)..index + 1;
                for query in &mut queries[index * together..(index + 1) * together] {
                    query.seen = (from - span.start, to - span.start);
                }
            }
        }
        &mut queries[seeing.start.min(seeing.end) * together..seeing.end * together]
    }

    /// A task's queries in bf16, `[rows, heads, head_dim]`.
    fn rounded(&self, q: &[f32], task: &Task) -> Vec<[u8; 2]> {
        let width = task.heads.len() * self.shape().head_dim;
        let mut rounded = vec![[0; 2]; task.rows.len() * width];
        for (row, rounded) in task.rows.clone().zip(rounded.chunks_mut(width)) {
            let first = (row * self.op.heads + task.heads.start) * self.shape().head_dim;
            self.kernels.round(&q[first..first + width], rounded);
        }
        rounded
    }

    /// A task's queries: of heads that share a KV head row after row.
    fn queries(&self, q: Queries<'_>, task: &Task) -> Vec<Query> {
        let (dim, value_dim) = (self.shape().head_dim, self.shape().value_dim());
        let shared = self.op.heads / self.shape().kv_heads;
        let mut queries = Vec::with_capacity(task.rows.len() * task.heads.len());
        for first in task.heads.clone().step_by(shared) {
            let heads = first..task.heads.end.min(first + shared);
            for (index, row) in task.rows.clone().enumerate() {
                queries.extend(heads.clone().map(|head| {
                    // A sink is a score that has been seen, and has no value.
                    let sink = self.op.sinks.map(|sinks| sinks[head]);
                    let in_task = index * task.heads.len() + head - task.heads.start;
                    Query {
                        q: match q {
                            Queries::F32(_) => (row * self.op.heads + head) * dim,
                            Queries::Bf16(_) => in_task * dim,
                        },
                        out: in_task * value_dim,
                        seen: (0, 0),
                        max: sink.unwrap_or(f32::NEG_INFINITY),
                        total: if sink.is_some() { 1.0 } else { 0.0 },
                    }
                }));
            }
        }
        queries
    }

    /// The tile that starts at a position of a row's sequence, in a span that
    /// starts at `first`.
    fn tile(&self, (row, kv_head): (Row, usize), start: usize, first: usize) -> Tile<'_> {
        let in_block = start % self.shape().block_size;
        let place = (self.inputs.block(row, start), kv_head, in_block);
        Tile {
            first: start - first,
            positions: TILE.min(self.shape().block_size - in_block),
            keys: self.pool.keys(self.layer, place),
            values: self.pool.values(self.layer, place),
            scales: self.pool.scales(self.layer, place),
        }
    }

    fn cuts(&self) -> Cuts {
        Cuts {
            block_size: self.shape().block_size,
        }
    }
}

/// Where tiles begin.
#[derive(Clone, Copy)]
struct Cuts {
    block_size: usize,
}

impl Cuts {
    fn of_a_block(self) -> usize {
        self.block_size.div_ceil(TILE)
    }

    /// The tile that a position is in.
    fn tile_of(self, position: usize) -> usize {
        position / self.block_size * self.of_a_block() + position % self.block_size / TILE
    }

    /// The first position of a tile.
    fn start(self, tile: usize) -> usize {
        tile / self.of_a_block() * self.block_size + tile % self.of_a_block() * TILE
    }
}

/// Neighbouring rows of a sequence and some heads of theirs.
struct Task {
    rows: Range<usize>,
    heads: Range<usize>,
    /// `[rows, heads, value_dim]`
    out: Vec<f32>,
}
