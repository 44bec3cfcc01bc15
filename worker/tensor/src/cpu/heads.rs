//! Products of heads, divided among the device's threads.

use super::matrix::{Activations, Matrix, Product, products};
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
    /// `[heads, rows, cols]`: what each head's matrix meets.
    fn by_head(&self, cols: usize) -> Vec<f32> {
        let mut x = Vec::with_capacity(self.heads.len() * self.rows * cols);
        for head in 0..self.heads.len() {
            for row in 0..self.rows {
                let start = (row * self.heads.len() + head) * self.from.stride + self.from.first;
                x.extend_from_slice(&self.x[start..start + cols]);
            }
        }
        x
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
        let x = op.by_head(k);
        let mut by_head = vec![0.0; heads * rows * n];
        let of = |((matrix, x), out)| Product {
            matrix,
            activations: Activations {
                x,
                tokens: rows,
                bias: None,
            },
            out,
        };
        let heads_of_x = op.heads.iter().zip(x.chunks((rows * k).max(1)));
        let of_heads = heads_of_x.zip(by_head.chunks_mut((rows * n).max(1)));
        let mut of_heads: Vec<_> = of_heads.map(of).collect();
        products(&mut of_heads, self.compute.all())?;
        for (index, y) in by_head.chunks(n).enumerate() {
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
