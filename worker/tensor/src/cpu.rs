//! The CPU device: weights stay as stored and are widened inside the kernels,
//! activations and KV are f32.

mod attention;
mod inputs;
mod kernels;
mod kv_pool;
mod math;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::batch::Batch;
use crate::device::{AttentionHeads, Device, KvShape, RmsNorm};
use crate::error::DeviceError;
use crate::host::HostTensor;
use attention::Attention;
pub use inputs::CpuInputs;
use kernels::{ColumnsMut, Kernels, Matmul};
pub use kv_pool::CpuKvPool;
use kv_pool::{Part, Plane};

type Result<T> = std::result::Result<T, DeviceError>;

/// Multiplications below which waking other threads costs more than it saves.
const PARALLEL_WORK: usize = 1 << 18;
/// Parts of an operation per thread, to even out how fast threads are.
const PARTS_PER_THREAD: usize = 4;

/// A number of threads and the processor's fastest kernels.
pub struct CpuDevice {
    kernels: Kernels,
    /// `None`: the caller's thread computes alone.
    pool: Option<ThreadPool>,
}

impl CpuDevice {
    /// Computes with `threads` threads, at least one.
    pub fn new(threads: usize) -> Result<CpuDevice> {
        CpuDevice::with_kernels(Kernels::detect(), threads)
    }

    fn with_kernels(kernels: Kernels, threads: usize) -> Result<CpuDevice> {
        let build = || {
            ThreadPoolBuilder::new()
                .num_threads(threads)
                .thread_name(|index| format!("compute-{index}"))
                .build()
                .map_err(|error| DeviceError::Threads {
                    threads,
                    reason: error.to_string(),
                })
        };
        let pool = (threads > 1).then(build).transpose()?;
        Ok(CpuDevice { kernels, pool })
    }

    /// The threads, if there are several and `work` multiplications are worth
    /// them.
    fn pool_for(&self, work: usize) -> Option<&ThreadPool> {
        self.pool.as_ref().filter(|_| work >= PARALLEL_WORK)
    }
}

impl Device for CpuDevice {
    type Buffer = Vec<f32>;
    type Weight = HostTensor;
    type KvPool = CpuKvPool;
    type Inputs = CpuInputs;

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

    fn weight(&self, tensor: HostTensor) -> Result<HostTensor> {
        Ok(tensor)
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

    fn embed(&self, table: &HostTensor, inputs: &CpuInputs, out: &mut Vec<f32>) -> Result<()> {
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
        for (x, out) in x[..len]
            .chunks(norm.cols)
            .zip(out[..len].chunks_mut(norm.cols))
        {
            let mean = self.kernels.dot(x, x) / norm.cols as f32;
            let scale = 1.0 / (mean + norm.eps).sqrt();
            for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
                *out = x * scale * weight;
            }
        }
        Ok(())
    }

    fn linear(
        &self,
        weight: &HostTensor,
        bias: Option<&Vec<f32>>,
        x: &Vec<f32>,
        rows: usize,
        out: &mut Vec<f32>,
    ) -> Result<()> {
        let (k, n) = (weight.cols(), weight.rows());
        DeviceError::at_least("linear input", x.len(), rows * k)?;
        DeviceError::at_least("linear output", out.len(), rows * n)?;
        DeviceError::at_least("linear bias", bias.map_or(n, Vec::len), n)?;
        let compute = |mut part: ColumnsMut<'_>| {
            let op = Matmul {
                k,
                x,
                w: weight.row_bytes(part.first(), part.width()),
                dtype: weight.dtype(),
                bias: bias.map(|bias| &bias[part.first()..part.first() + part.width()]),
            };
            self.kernels.matmul(&op, &mut part);
        };
        let out = ColumnsMut::whole(&mut out[..rows * n], n);
        match self.pool_for(rows * k * n) {
            None => compute(out),
            Some(pool) => {
                let parts = pool.current_num_threads() * PARTS_PER_THREAD;
                // Whole cache lines of a row, and whole tiles of weights.
                let width = n.div_ceil(parts).next_multiple_of(16);
                pool.install(|| out.split(width).for_each(compute));
            }
        }
        Ok(())
    }

    fn rope(
        &self,
        table: &Vec<f32>,
        inputs: &CpuInputs,
        heads: AttentionHeads,
        x: &mut Vec<f32>,
    ) -> Result<()> {
        let AttentionHeads { heads, head_dim } = heads;
        DeviceError::at_least("rope", x.len(), inputs.rows.len() * heads * head_dim)?;
        for (row, x) in inputs.rows.iter().zip(x.chunks_mut(heads * head_dim)) {
            DeviceError::in_range("position", row.position, table.len() / head_dim)?;
            let angles = &table[row.position * head_dim..(row.position + 1) * head_dim];
            let (cos, sin) = angles.split_at(head_dim / 2);
            for head in x.chunks_mut(head_dim) {
                let (first, second) = head.split_at_mut(head_dim / 2);
                for i in 0..first.len() {
                    let (a, b) = (first[i], second[i]);
                    first[i] = a * cos[i] - b * sin[i];
                    second[i] = b * cos[i] + a * sin[i];
                }
            }
        }
        Ok(())
    }

    fn kv_write(
        &self,
        pool: &mut CpuKvPool,
        layer: usize,
        inputs: &CpuInputs,
        (k, v): (&Vec<f32>, &Vec<f32>),
    ) -> Result<()> {
        inputs.check_pool(pool.shape())?;
        DeviceError::in_range("layer", layer, pool.shape().layers)?;
        let block_size = pool.shape().block_size;
        let width = pool.shape().kv_heads * pool.shape().head_dim;
        for (part, heads) in [(Part::Keys, k), (Part::Values, v)] {
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
        heads: AttentionHeads,
        (pool, layer): (&CpuKvPool, usize),
        inputs: &CpuInputs,
        out: &mut Vec<f32>,
    ) -> Result<()> {
        let shape = pool.shape();
        inputs.check_pool(shape)?;
        DeviceError::in_range("layer", layer, shape.layers)?;
        let len = inputs.rows.len() * heads.heads * heads.head_dim;
        DeviceError::at_least("attention input", q.len(), len)?;
        DeviceError::at_least("attention output", out.len(), len)?;
        if heads.head_dim != shape.head_dim || !heads.heads.is_multiple_of(shape.kv_heads) {
            return Err(DeviceError::Shape {
                what: "attention heads, which KV heads must divide,",
                found: heads.heads * heads.head_dim,
                expected: shape.kv_heads * shape.head_dim,
            });
        }
        let attention = Attention {
            kernels: self.kernels,
            pool,
            layer,
            inputs,
        };
        let width = heads.heads / shape.kv_heads * heads.head_dim;
        let task = |(task, (q, out)): (usize, (&[f32], &mut [f32]))| {
            attention.row(task / shape.kv_heads, task % shape.kv_heads, q, out);
        };
        let positions: usize = inputs.rows.iter().map(|row| row.position + 1).sum();
        match self.pool_for(2 * positions * heads.heads * heads.head_dim) {
            None => q[..len]
                .chunks(width)
                .zip(out[..len].chunks_mut(width))
                .enumerate()
                .for_each(task),
            Some(pool) => pool.install(|| {
                q[..len]
                    .par_chunks(width)
                    .zip(out[..len].par_chunks_mut(width))
                    .enumerate()
                    .for_each(task);
            }),
        }
        Ok(())
    }

    fn silu_mul(&self, gate: &mut Vec<f32>, up: &Vec<f32>, len: usize) -> Result<()> {
        DeviceError::at_least("silu_mul gate", gate.len(), len)?;
        DeviceError::at_least("silu_mul up", up.len(), len)?;
        for (gate, up) in gate[..len].iter_mut().zip(&up[..len]) {
            *gate = math::silu(*gate) * up;
        }
        Ok(())
    }

    fn add(&self, x: &mut Vec<f32>, y: &Vec<f32>, len: usize) -> Result<()> {
        DeviceError::at_least("add", x.len().min(y.len()), len)?;
        for (x, y) in x[..len].iter_mut().zip(&y[..len]) {
            *x += y;
        }
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

    fn kv_export(&self, pool: &CpuKvPool, block: u32, out: &mut Vec<u8>) -> Result<()> {
        pool.export(block, out)
    }

    fn kv_import(&self, pool: &mut CpuKvPool, block: u32, bytes: &[u8]) -> Result<()> {
        pool.import(block, bytes)
    }
}
