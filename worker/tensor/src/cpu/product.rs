//! Products of heads, divided among the device's threads.

use super::compute::On;
use super::matrix::{Activations, Matrix};
use super::{CpuDevice, rows};
use crate::error::DeviceError;
use crate::ops::Columns;

/// Products of columns of `x`, `[rows, heads, stride]`, each head with its own
/// matrix.
pub(super) struct HeadProducts<'a> {
    pub(super) heads: &'a [Matrix],
    pub(super) x: &'a [f32],
    pub(super) from: Columns,
    pub(super) rows: usize,
}

impl HeadProducts<'_> {
    /// One head's product, `[rows, out]`.
    fn head(&self, on: On<'_>, head: usize, y: &mut [f32]) {
        let weight = &self.heads[head];
        let mut x = Vec::with_capacity(self.rows * weight.cols());
        for row in 0..self.rows {
            let start = (row * self.heads.len() + head) * self.from.stride + self.from.first;
            x.extend_from_slice(&self.x[start..start + weight.cols()]);
        }
        let activations = Activations {
            x: &x,
            tokens: self.rows,
            bias: None,
        };
        weight
            .product_on(activations, y, on)
            .expect("input and output are as long as the matrix says");
    }
}

impl CpuDevice {
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
        let task = |head: usize, y: &mut [f32]| op.head(self.compute.alone(), head, y);
        let per_head = (rows * n).max(1);
        match self.pool_for(heads * rows * k * n) {
            None => products
                .chunks_mut(per_head)
                .enumerate()
                .for_each(|(head, y)| task(head, y)),
            Some(pool) => pool.chunks(&mut products, per_head, &task),
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
pub(super) fn same_shape(weights: &[Matrix]) -> Result<(usize, usize), DeviceError> {
    let shape = |weight: &Matrix| (weight.rows(), weight.cols());
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
