//! Causal attention over paged KV, with an online softmax (Milakov and
//! Gimelshein 2018; Dao et al. 2022, FlashAttention).
//!
//! A row passes over its sequence's positions in tiles that end where blocks
//! and multiples of [`TILE`] end. Tiles are cut by position alone, so neither
//! batch, chunk nor block table changes a bit.

use super::inputs::{CpuInputs, Row};
use super::kernels::{ColumnsMut, FloatProduct, Kernels, Operands, WeightedSum};
use super::kv_pool::{CpuKvPool, Part, Plane};
use super::math::{exp, tanh};
use super::pool::Pool;
use crate::error::DeviceError;
use crate::kv_shape::KvShape;
use crate::ops;

/// Positions whose scores are computed together.
const TILE: usize = 16;
/// Query heads that are computed together, at most.
const GROUP: usize = 8;

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
        let q_width = self.task_heads() * self.shape().head_dim;
        let out_width = self.task_heads() * self.shape().value_dim();
        let task = |task: usize, out: &mut [f32]| {
            self.task(task, &q[task * q_width..(task + 1) * q_width], out);
        };
        match threads {
            None => out
                .chunks_mut(out_width)
                .enumerate()
                .for_each(|(index, out)| task(index, out)),
            Some(pool) => pool.chunks(out, out_width, &task),
        }
    }

    /// Query heads of one task: as many as share a KV head and are computed
    /// together.
    fn task_heads(&self) -> usize {
        let shared = self.op.heads / self.shape().kv_heads;
        let fits = |heads: &usize| shared.is_multiple_of(*heads);
        (1..=GROUP).rev().find(fits).unwrap_or(1)
    }

    /// Multiplications of a batch.
    pub(super) fn work(&self) -> usize {
        let seen = |row: &Row| row.position + 1 - self.first_position(*row);
        let positions: usize = self.inputs.rows.iter().map(seen).sum();
        2 * positions * self.op.heads * self.shape().head_dim
    }

    /// Attention of one task of the batch: `q` is `[task_heads, head_dim]`, `out`
    /// `[task_heads, value_dim]`.
    fn task(&self, task: usize, q: &[f32], out: &mut [f32]) {
        let heads = self.task_heads();
        let per_row = self.op.heads / heads;
        let group = Group {
            row: self.inputs.rows[task / per_row],
            first_head: task % per_row * heads,
            q,
        };
        let (dim, value_dim) = (self.shape().head_dim, self.shape().value_dim());
        if dim == value_dim {
            self.group(&group, out);
        } else {
            // Keys stand for values: their ends are weighted too, and left out.
            let mut wide = vec![0.0; heads * dim];
            self.group(&group, &mut wide);
            for (out, wide) in out.chunks_mut(value_dim).zip(wide.chunks(dim)) {
                out.copy_from_slice(&wide[..value_dim]);
            }
        }
    }

    fn shape(&self) -> &KvShape {
        self.pool.shape()
    }

    /// The first position that a row sees.
    fn first_position(&self, row: Row) -> usize {
        let seen = self.op.window.unwrap_or(usize::MAX);
        (row.position + 1).saturating_sub(seen)
    }

    /// `out` is `[heads, head_dim]`.
    fn group(&self, group: &Group<'_>, out: &mut [f32]) {
        let (dim, row) = (self.shape().head_dim, group.row);
        let block_size = self.shape().block_size;
        let kv_head = group.first_head / (self.op.heads / self.shape().kv_heads);
        let heads = group.q.len() / dim;
        let mut softmax = [Softmax::default(); GROUP];
        if let Some(sinks) = self.op.sinks {
            for (softmax, sink) in softmax.iter_mut().zip(&sinks[group.first_head..]) {
                *softmax = Softmax::of_sink(*sink);
            }
        }
        out.fill(0.0);
        let mut position = self.first_position(row);
        while position <= row.position {
            let offset = position % block_size;
            let tile = TILE
                .min(block_size - offset)
                .min(row.position + 1 - position);
            let block = self.inputs.block(row, position);
            let tile_of = |part| {
                let plane = Plane {
                    layer: self.layer,
                    part,
                };
                &self.pool.head(plane, block, kv_head)[offset * dim..(offset + tile) * dim]
            };
            let mut scores = [0.0; GROUP * TILE];
            let scores = &mut scores[..heads * tile];
            self.scores(group.q, tile_of(Part::Keys), scores);
            let values = tile_of(Part::Values);
            for (head, scores) in scores.chunks_mut(tile).enumerate() {
                let decay = softmax[head].absorb(scores);
                let sum = WeightedSum {
                    scale: decay,
                    weights: scores,
                    rows: values,
                };
                self.kernels
                    .weighted_sum(&sum, &mut out[head * dim..(head + 1) * dim]);
            }
            position += tile;
        }
        for (out, softmax) in out.chunks_mut(dim).zip(&softmax) {
            out.iter_mut().for_each(|v| *v /= softmax.total);
        }
    }

    /// Scaled and capped scores of queries and keys, `[heads, tile]`.
    fn scores(&self, q: &[f32], keys: &[f32], scores: &mut [f32]) {
        let dim = self.shape().head_dim;
        let op = FloatProduct {
            k: dim,
            x: bytemuck::cast_slice(q),
            w: bytemuck::cast_slice(keys),
            operands: Operands::F32,
            row_scales: None,
            bias: None,
        };
        let mut out = ColumnsMut::whole(scores, keys.len() / dim);
        self.kernels.floats(&op, &mut out);
        let scale = self.op.scale;
        scores.iter_mut().for_each(|score| *score *= scale);
        if let Some(cap) = self.op.soft_cap {
            scores
                .iter_mut()
                .for_each(|score| *score = cap * tanh(*score / cap));
        }
    }
}

/// Query heads of one row that share a KV head.
struct Group<'a> {
    row: Row,
    first_head: usize,
    /// `[heads, head_dim]`
    q: &'a [f32],
}

/// The softmax of the scores seen so far.
#[derive(Clone, Copy)]
struct Softmax {
    max: f32,
    /// Sum of e^(score - max).
    total: f32,
}

impl Default for Softmax {
    fn default() -> Softmax {
        Softmax {
            max: f32::NEG_INFINITY,
            total: 0.0,
        }
    }
}

impl Softmax {
    /// A score that has no value has been seen.
    fn of_sink(score: f32) -> Softmax {
        Softmax {
            max: score,
            total: 1.0,
        }
    }

    /// Turns a tile's scores into weights; returns what earlier weights are to
    /// be multiplied with.
    fn absorb(&mut self, scores: &mut [f32]) -> f32 {
        let max = scores.iter().copied().fold(self.max, f32::max);
        let decay = exp(self.max - max);
        let mut weights = [0.0; TILE];
        for (weight, score) in weights.iter_mut().zip(scores.iter_mut()) {
            *score = exp(*score - max);
            *weight = *score;
        }
        self.max = max;
        self.total = self.total * decay + weights.iter().sum::<f32>();
        decay
    }
}
