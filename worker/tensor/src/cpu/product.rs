//! Products with matrices, divided among the device's threads.

use rayon::prelude::*;

use super::kernels::{ColumnsMut, Kernels, Matmul};
use super::{CpuDevice, rows};
use crate::error::DeviceError;
use crate::host::HostTensor;
use crate::ops::Columns;

/// Parts of an operation per thread, to even out how fast threads are.
const PARTS_PER_THREAD: usize = 4;

/// A product of activations and a matrix: `x w^T + bias`.
#[derive(Clone, Copy)]
pub(super) struct Product<'a> {
    pub(super) weight: &'a HostTensor,
    pub(super) bias: Option<&'a [f32]>,
    pub(super) x: &'a [f32],
}

/// Products of columns of `x`, `[rows, heads, stride]`, each head with its own
/// matrix.
pub(super) struct HeadProducts<'a> {
    pub(super) heads: &'a [HostTensor],
    pub(super) x: &'a [f32],
    pub(super) from: Columns,
    pub(super) rows: usize,
}

impl Product<'_> {
    /// Computes these columns of the output.
    fn columns(&self, kernels: Kernels, mut out: ColumnsMut<'_>) {
        let (first, width) = (out.first(), out.width());
        let op = Matmul {
            k: self.weight.cols(),
            x: self.x,
            w: self.weight.row_bytes(first, width),
            dtype: self.weight.dtype(),
            bias: self.bias.map(|bias| &bias[first..first + width]),
        };
        kernels.matmul(&op, &mut out);
    }
}

impl HeadProducts<'_> {
    /// One head's product, `[rows, out]`.
    fn head(&self, kernels: Kernels, head: usize, y: &mut [f32]) {
        let weight = &self.heads[head];
        let mut x = Vec::with_capacity(self.rows * weight.cols());
        for row in 0..self.rows {
            let start = (row * self.heads.len() + head) * self.from.stride + self.from.first;
            x.extend_from_slice(&self.x[start..start + weight.cols()]);
        }
        let op = Product {
            weight,
            bias: None,
            x: &x,
        };
        op.columns(kernels, ColumnsMut::whole(y, weight.rows()));
    }
}

impl CpuDevice {
    /// Computes all of `out`, `[rows, out]`, by columns on all threads if it is
    /// worth them.
    pub(super) fn product(&self, op: Product<'_>, out: &mut [f32]) {
        let (k, n) = (op.weight.cols(), op.weight.rows());
        let compute = |part| op.columns(self.kernels, part);
        let work = out.len() * k;
        let out = ColumnsMut::whole(out, n);
        match self.pool_for(work) {
            None => compute(out),
            Some(pool) => {
                let parts = pool.current_num_threads() * PARTS_PER_THREAD;
                // Whole cache lines of a row, and whole tiles of weights.
                let width = n.div_ceil(parts).next_multiple_of(16);
                pool.install(|| out.split(width).for_each(compute));
            }
        }
    }

    /// Writes each head's product to its columns of `out`.
    pub(super) fn head_products(
        &self,
        op: HeadProducts<'_>,
        (out, to): (&mut [f32], Columns),
    ) -> Result<(), DeviceError> {
        let (n, k) = same_shape(op.heads)?;
        let (heads, rows) = (op.heads.len(), op.rows);
        DeviceError::at_least("head_linear input", op.from.width, k)?;
        DeviceError::at_least("head_linear output", to.width, n)?;
        rows::check("head_linear input", op.x.len(), rows * heads, op.from)?;
        rows::check("head_linear output", out.len(), rows * heads, to)?;
        // Head after head, so that each product is of neighbours.
        let mut products = vec![0.0; heads * rows * n];
        let task = |(head, y): (usize, &mut [f32])| op.head(self.kernels, head, y);
        let per_head = (rows * n).max(1);
        match self.pool_for(heads * rows * k * n) {
            None => products.chunks_mut(per_head).enumerate().for_each(task),
            Some(pool) => {
                pool.install(|| products.par_chunks_mut(per_head).enumerate().for_each(task));
            }
        }
        for (index, y) in products.chunks(n).enumerate() {
            let (head, row) = (index / rows, index % rows);
            let start = (row * heads + head) * to.stride + to.first;
            out[start..start + n].copy_from_slice(y);
        }
        Ok(())
    }
}

/// The shape `[rows, cols]` that all matrices have.
pub(super) fn same_shape(weights: &[HostTensor]) -> Result<(usize, usize), DeviceError> {
    let shape = |weight: &HostTensor| (weight.rows(), weight.cols());
    let first = weights.first().map_or((0, 0), shape);
    let other = weights.iter().map(shape).find(|other| *other != first);
    let (rows, cols) = other.unwrap_or(first);
    if other.is_some() || rows * cols == 0 {
        return Err(DeviceError::Shape {
            what: "a matrix, which must be like the first,",
            found: rows * cols,
            expected: first.0 * first.1,
        });
    }
    Ok(first)
}
