//! Causal attention over paged KV, with an online softmax (Milakov and
//! Gimelshein 2018; Dao et al. 2022, FlashAttention).
//!
//! A row passes over its sequence's positions in tiles that end where blocks
//! and multiples of [`TILE`] end. Tiles are cut by position alone, so neither
//! batch, chunk nor block table changes a bit.

use super::inputs::{CpuInputs, Row};
use super::kernels::{ColumnsMut, Kernels, Matmul, WeightedSum};
use super::kv_pool::{CpuKvPool, Part, Plane};
use super::math::exp;
use crate::device::KvShape;
use crate::host::DType;

/// Positions whose scores are computed together.
const TILE: usize = 16;
/// Query heads that are computed together.
const GROUP: usize = 8;

/// One layer's attention.
pub(super) struct Attention<'a> {
    pub(super) kernels: Kernels,
    pub(super) pool: &'a CpuKvPool,
    pub(super) layer: usize,
    pub(super) inputs: &'a CpuInputs,
}

impl Attention<'_> {
    /// Attention of all query heads of one KV head of one row: `q` and `out` are
    /// `[heads / kv_heads, head_dim]`.
    pub(super) fn row(&self, row: usize, kv_head: usize, q: &[f32], out: &mut [f32]) {
        let dim = self.shape().head_dim;
        let row = self.inputs.rows[row];
        for (q, out) in q.chunks(GROUP * dim).zip(out.chunks_mut(GROUP * dim)) {
            self.group(row, kv_head, q, out);
        }
    }

    fn shape(&self) -> &KvShape {
        self.pool.shape()
    }

    fn group(&self, row: Row, kv_head: usize, q: &[f32], out: &mut [f32]) {
        let dim = self.shape().head_dim;
        let block_size = self.shape().block_size;
        let mut softmax = [Softmax::default(); GROUP];
        out.fill(0.0);
        let mut position = 0;
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
            self.scores(q, tile_of(Part::Keys), &mut scores[..q.len() / dim * tile]);
            let values = tile_of(Part::Values);
            for (head, scores) in scores[..q.len() / dim * tile].chunks_mut(tile).enumerate() {
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

    /// `scores = q keys^T / sqrt(head_dim)`, `[heads, tile]`.
    fn scores(&self, q: &[f32], keys: &[f32], scores: &mut [f32]) {
        let dim = self.shape().head_dim;
        let op = Matmul {
            k: dim,
            x: q,
            w: bytemuck::cast_slice(keys),
            dtype: DType::F32,
            bias: None,
        };
        let mut out = ColumnsMut::whole(scores, keys.len() / dim);
        self.kernels.matmul(&op, &mut out);
        let scale = 1.0 / (dim as f32).sqrt();
        scores.iter_mut().for_each(|score| *score *= scale);
    }
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
