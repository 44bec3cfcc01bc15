//! The CPU device: floats stay as stored and are widened inside the kernels,
//! quantised weights are packed for them; activations are f32, and KV is as its
//! pool's shape says.

mod attention;
mod compute;
mod experts;
mod heads;
mod inputs;
mod isa;
mod kernels;
mod kv_pool;
mod limits;
mod math;
mod matrix;
mod pages;
mod pool;
mod rows;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod timed;

use crate::batch::Batch;
use crate::device::{self, Device};
use crate::encoding::StoredMatrix;
use crate::error::DeviceError;
use crate::kv_shape::{KvShape, KvValues};
use crate::ops::{self, Activation, Columns, ExpertInput, RmsNorm, Rotation, Routing};
use attention::Attention;
pub use compute::{Compute, CpuOptions};
pub use experts::CpuRoutes;
use heads::{HeadProducts, same_shape};
pub use inputs::CpuInputs;
pub use isa::{Isa, IsaError};
pub use kv_pool::CpuKvPool;
use kv_pool::{Part, Plane};
pub use limits::Limits;
use matrix::Product;
pub use matrix::{Activations, Bf16Activations, Matrix};
use pool::Pool;
pub use timed::{Clock, Meter, Operation, Timed, Usage};

type Result<T> = std::result::Result<T, DeviceError>;

/// Multiplications below which waking other threads costs more than it saves.
const PARALLEL_WORK: usize = 1 << 18;

/// Multiplications that an activation is about as much work as.
const ACTIVATION_WORK: usize = 16;
/// Multiplications that a number of a norm is about as much work as.
const NORM_WORK: usize = 4;
/// Rows that a thread normalises at a time.
const NORMS_AT_ONCE: usize = 4;
/// Activations that a thread computes at a time.
const ACTIVATION_CHUNK: usize = 2048;
/// Rows of a batch at most: what several operations in turn do with more of them
/// doesn't stay in caches.
const ROWS_AT_ONCE: usize = 512;

/// A number of threads and the kernels of an instruction set.
pub struct CpuDevice {
    compute: Compute,
}

impl CpuDevice {
    /// Fails for an instruction set that this processor lacks.
    pub fn new(options: &CpuOptions) -> Result<CpuDevice> {
        let compute = Compute::new(options)?;
        Ok(CpuDevice { compute })
    }

    /// The threads, if there are several and `work` multiplications are worth
    /// them.
    fn pool_for(&self, work: usize) -> Option<&Pool> {
        let pool = self.compute.all().pool;
        pool.filter(|_| work >= PARALLEL_WORK)
    }

    /// Calls `compute` with each chunk of `width` numbers, the last perhaps
    /// shorter, and its number; a number is as much work as `work`
    /// multiplications.
    fn chunks(
        &self,
        out: &mut [f32],
        width: usize,
        work: usize,
        compute: &(dyn Fn(usize, &mut [f32]) + Sync),
    ) {
        match self.pool_for(out.len() * work) {
            Some(pool) => pool.chunks(out, width, compute),
            None => out
                .chunks_mut(width)
                .enumerate()
                .for_each(|(chunk, out)| compute(chunk, out)),
        }
    }
}

impl Device for CpuDevice {
    type Buffer = Vec<f32>;
    type Weight = Matrix;
    type KvPool = CpuKvPool;
    type Inputs = CpuInputs;
    type Routes = CpuRoutes;

    fn rows_at_once(&self) -> usize {
        ROWS_AT_ONCE
    }

    fn side_by_side(&self, parts: usize, work: &(dyn Fn(usize) + Sync)) {
        match self.compute.all().pool {
            Some(pool) => pool.run(parts, work),
            None => (0..parts).for_each(work),
        }
    }

    fn buffer(&self, len: usize) -> Result<Vec<f32>> {
        bytemuck::allocation::try_zeroed_slice_box(len)
            .map(Vec::from)
            .map_err(|()| DeviceError::OutOfMemory {
                what: "activations",
                elements: len,
            })
    }

    fn upload(&self, values: &[f32]) -> Result<Vec<f32>> {
        Ok(values.to_vec())
    }

    fn weight(&self, matrix: StoredMatrix) -> Result<Matrix> {
        self.compute.matrix(matrix)
    }

    fn kv_pool(&self, shape: &KvShape) -> Result<CpuKvPool> {
        CpuKvPool::new(shape)
    }

    fn inputs(&self, shape: &KvShape) -> CpuInputs {
        CpuInputs::new(shape.clone())
    }

    fn load_inputs(&self, batch: &Batch<'_>, inputs: &mut CpuInputs) -> Result<()> {
        inputs.load(batch)
    }

    fn read(&self, x: &Vec<f32>, len: usize, out: &mut Vec<f32>) -> Result<()> {
        DeviceError::at_least("read", x.len(), len)?;
        out.clear();
        out.extend_from_slice(&x[..len]);
        Ok(())
    }

    fn embed(&self, table: &Matrix, inputs: &CpuInputs, out: &mut Vec<f32>) -> Result<()> {
        let cols = table.cols();
        DeviceError::at_least("embed", out.len(), inputs.tokens.len() * cols)?;
        for (&token, out) in inputs.tokens.iter().zip(out.chunks_mut(cols)) {
            DeviceError::in_range("token", token as usize, table.rows())?;
            table.decode_row(token as usize, out);
        }
        Ok(())
    }

    fn rms_norm(
        &self,
        x: &Vec<f32>,
        weight: &Vec<f32>,
        norm: RmsNorm,
        out: &mut Vec<f32>,
    ) -> Result<()> {
        let len = norm.rows * norm.cols;
        DeviceError::at_least("rms_norm input", x.len(), len)?;
        DeviceError::at_least("rms_norm output", out.len(), len)?;
        DeviceError::at_least("rms_norm weight", weight.len(), norm.cols)?;
        let (x, kernels) = (&x[..len], self.compute.kernels);
        let rows = norm.cols * NORMS_AT_ONCE;
        self.chunks(&mut out[..len], rows, NORM_WORK, &|chunk, out| {
            let x = &x[chunk * rows..][..out.len()];
            rows::rms_norm(kernels, (x, weight), norm, out);
        });
        Ok(())
    }

    fn rms_norm_in_place(&self, x: &mut Vec<f32>, weight: &Vec<f32>, norm: RmsNorm) -> Result<()> {
        let len = norm.rows * norm.cols;
        DeviceError::at_least("rms_norm", x.len(), len)?;
        DeviceError::at_least("rms_norm weight", weight.len(), norm.cols)?;
        let kernels = self.compute.kernels;
        let rows = norm.cols * NORMS_AT_ONCE;
        self.chunks(&mut x[..len], rows, NORM_WORK, &|_, x| {
            rows::rms_norm_in_place(kernels, weight, norm, x);
        });
        Ok(())
    }

    fn linears(
        &self,
        x: &Vec<f32>,
        rows: usize,
        products: &mut [device::Product<'_, CpuDevice>],
    ) -> Result<()> {
        let products = products.iter_mut().map(|product| Product {
            matrix: product.weight,
            activations: Activations {
                x,
                tokens: rows,
                bias: product.bias.map(Vec::as_slice),
            },
            out: &mut product.out[..],
        });
        let mut products: Vec<_> = products.collect();
        matrix::products(&mut products, self.compute.all())
    }

    fn head_linear(
        &self,
        heads: &[Matrix],
        (x, from): (&Vec<f32>, Columns),
        rows: usize,
        (out, to): (&mut Vec<f32>, Columns),
    ) -> Result<()> {
        let op = HeadProducts {
            heads,
            x,
            from,
            rows,
        };
        self.head_products(op, (out, to))
    }

    fn copy_columns(
        &self,
        (x, from): (&Vec<f32>, Columns),
        rows: usize,
        (out, to): (&mut Vec<f32>, Columns),
    ) -> Result<()> {
        rows::copy((x, from), rows, (out, to))
    }

    fn rope(
        &self,
        table: &Vec<f32>,
        inputs: &CpuInputs,
        rotation: Rotation,
        x: &mut Vec<f32>,
    ) -> Result<()> {
        rows::rope(table, inputs, rotation, x)
    }

    fn kv_write(
        &self,
        pool: &mut CpuKvPool,
        layer: usize,
        inputs: &CpuInputs,
        (k, v): (&Vec<f32>, Option<&Vec<f32>>),
    ) -> Result<()> {
        inputs.check_pool(pool.shape())?;
        DeviceError::in_range("layer", layer, pool.shape().layers)?;
        let stored = pool.shape().values == KvValues::Stored;
        if stored != v.is_some() {
            return Err(DeviceError::Shape {
                what: "values to write, of which the pool keeps its own kind,",
                found: usize::from(v.is_some()),
                expected: usize::from(stored),
            });
        }
        let block_size = pool.shape().block_size;
        let width = pool.shape().kv_heads * pool.shape().head_dim;
        for (part, heads) in [(Part::Keys, Some(k)), (Part::Values, v)] {
            let Some(heads) = heads else { continue };
            DeviceError::at_least("kv_write", heads.len(), inputs.rows.len() * width)?;
            let plane = Plane { layer, part };
            for (&row, heads) in inputs.rows.iter().zip(heads.chunks(width)) {
                let block = inputs.block(row, row.position);
                pool.write(plane, block, row.position % block_size, heads);
            }
        }
        Ok(())
    }

    fn paged_attention(
        &self,
        q: &Vec<f32>,
        op: ops::Attention<'_, Vec<f32>>,
        (pool, layer): (&CpuKvPool, usize),
        inputs: &CpuInputs,
        out: &mut Vec<f32>,
    ) -> Result<()> {
        let attention = Attention {
            kernels: self.compute.kernels,
            pool,
            layer,
            inputs,
            op,
        };
        attention.check()?;
        let heads = inputs.rows.len() * attention.op.heads;
        let (q_len, out_len) = (
            heads * pool.shape().head_dim,
            heads * pool.shape().value_dim(),
        );
        DeviceError::at_least("attention input", q.len(), q_len)?;
        DeviceError::at_least("attention output", out.len(), out_len)?;
        let pool = self.pool_for(attention.work());
        attention.run(pool, &q[..q_len], &mut out[..out_len]);
        Ok(())
    }

    fn gated(
        &self,
        activation: Activation,
        gate: &mut Vec<f32>,
        up: &Vec<f32>,
        len: usize,
    ) -> Result<()> {
        DeviceError::at_least("gate", gate.len(), len)?;
        DeviceError::at_least("gated input", up.len(), len)?;
        let (up, kernels) = (&up[..len], self.compute.kernels);
        let (width, work) = (ACTIVATION_CHUNK, ACTIVATION_WORK);
        self.chunks(&mut gate[..len], width, work, &|chunk, gate| {
            let up = &up[chunk * width..][..gate.len()];
            kernels.gated(activation, gate, up);
        });
        Ok(())
    }

    fn add(&self, x: &mut Vec<f32>, y: &Vec<f32>, scale: f32, len: usize) -> Result<()> {
        DeviceError::at_least("add", x.len().min(y.len()), len)?;
        for (x, y) in x[..len].iter_mut().zip(&y[..len]) {
            *x += scale * y;
        }
        Ok(())
    }

    fn scale(&self, x: &mut Vec<f32>, factor: f32, len: usize) -> Result<()> {
        DeviceError::at_least("scale", x.len(), len)?;
        x[..len].iter_mut().for_each(|x| *x *= factor);
        Ok(())
    }

    fn soft_cap(&self, x: &mut Vec<f32>, cap: f32, len: usize) -> Result<()> {
        DeviceError::at_least("soft_cap", x.len(), len)?;
        x[..len]
            .iter_mut()
            .for_each(|x| *x = cap * math::tanh(*x / cap));
        Ok(())
    }

    fn route(
        &self,
        routing: &Routing,
        (logits, bias): (&Vec<f32>, Option<&Vec<f32>>),
        rows: usize,
        routes: &mut CpuRoutes,
    ) -> Result<()> {
        let len = rows * routing.experts;
        DeviceError::at_least("router logits", logits.len(), len)?;
        let bias_len = bias.map_or(routing.experts, Vec::len);
        DeviceError::at_least("router bias", bias_len, routing.experts)?;
        routes.choose(routing, bias.map(Vec::as_slice), &logits[..len])
    }

    fn expert_linear(
        &self,
        experts: &[Matrix],
        bias: Option<&Vec<f32>>,
        x: ExpertInput<'_, Vec<f32>>,
        routes: &CpuRoutes,
        out: &mut Vec<f32>,
    ) -> Result<()> {
        let (n, k) = same_shape(experts)?;
        DeviceError::at_least("experts", experts.len(), routes.experts())?;
        DeviceError::at_least("expert output", out.len(), routes.len() * n)?;
        let bias_len = bias.map_or(experts.len() * n, Vec::len);
        DeviceError::at_least("expert bias", bias_len, experts.len() * n)?;
        let gathered;
        let x = match x {
            ExpertInput::Routes(x) => x,
            ExpertInput::Tokens(x) => {
                gathered = routes.gather(x, k)?;
                &gathered
            }
        };
        DeviceError::at_least("expert input", x.len(), routes.len() * k)?;
        let mut products = Vec::new();
        let mut rest = &mut out[..];
        for (expert, routes) in routes.by_expert() {
            let (out, after) = std::mem::take(&mut rest).split_at_mut(routes.len() * n);
            rest = after;
            products.push(Product {
                matrix: &experts[expert],
                activations: Activations {
                    x: &x[routes.start * k..routes.end * k],
                    tokens: routes.len(),
                    bias: bias.map(|bias| &bias[expert * n..(expert + 1) * n]),
                },
                out,
            });
        }
        matrix::products(&mut products, self.compute.all())
    }

    fn combine(
        &self,
        y: &Vec<f32>,
        cols: usize,
        routes: &CpuRoutes,
        out: &mut Vec<f32>,
    ) -> Result<()> {
        let len = routes.row_count() * cols;
        DeviceError::at_least("combine input", y.len(), routes.len() * cols)?;
        DeviceError::at_least("combine output", out.len(), len)?;
        routes.combine(y, cols, &mut out[..len]);
        Ok(())
    }

    fn gather(
        &self,
        x: &Vec<f32>,
        cols: usize,
        inputs: &CpuInputs,
        out: &mut Vec<f32>,
    ) -> Result<()> {
        DeviceError::at_least("gather input", x.len(), inputs.rows.len() * cols)?;
        DeviceError::at_least("gather output", out.len(), inputs.outputs.len() * cols)?;
        for (&row, out) in inputs.outputs.iter().zip(out.chunks_mut(cols)) {
            let row = row as usize;
            out.copy_from_slice(&x[row * cols..(row + 1) * cols]);
        }
        Ok(())
    }

    fn kv_copy(&self, pool: &mut CpuKvPool, from: u32, to: u32) -> Result<()> {
        pool.copy(from, to)
    }

    fn kv_export(&self, pool: &CpuKvPool, block: u32, out: &mut Vec<u8>) -> Result<()> {
        pool.export(block, out)
    }

    fn kv_import(&self, pool: &mut CpuKvPool, block: u32, bytes: &[u8]) -> Result<()> {
        pool.import(block, bytes)
    }
}
