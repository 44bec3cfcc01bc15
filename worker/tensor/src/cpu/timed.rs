//! The CPU device with a clock around every operation.
//!
//! It computes what [`CpuDevice`] does, and keeps in a [`Meter`] how long each
//! kind of operation took and what products read and multiplied. A device that
//! is not wrapped knows nothing of this.

mod meter;
#[cfg(test)]
mod tests;

pub use meter::{Clock, Meter, Operation, Usage};

use std::sync::Arc;

use super::{CpuDevice, CpuInputs, CpuKvPool, CpuRoutes, Matrix};
use crate::batch::Batch;
use crate::device::{Device, Product};
use crate::encoding::StoredMatrix;
use crate::error::DeviceError;
use crate::kv_shape::KvShape;
use crate::ops::{Activation, Attention, Columns, ExpertInput, Part, RmsNorm, Rotation, Routing};

type Result<T> = std::result::Result<T, DeviceError>;

/// A [`CpuDevice`] whose operations are timed.
pub struct Timed {
    device: CpuDevice,
    meter: Arc<Meter>,
}

impl Timed {
    /// Counts from now on.
    pub fn new(device: CpuDevice, clock: Clock) -> Timed {
        Timed {
            device,
            meter: Arc::new(Meter::new(clock)),
        }
    }

    pub fn meter(&self) -> Arc<Meter> {
        self.meter.clone()
    }
}

impl Device for Timed {
    type Buffer = Vec<f32>;
    type Weight = Matrix;
    type KvPool = CpuKvPool;
    type Inputs = CpuInputs;
    type Routes = CpuRoutes;

    fn part(&self, part: Part) {
        self.meter.part(part);
    }

    fn rows_at_once(&self) -> usize {
        self.device.rows_at_once()
    }

    fn side_by_side(&self, parts: usize, work: &(dyn Fn(usize) + Sync)) {
        self.device.side_by_side(parts, work);
    }

    fn buffer(&self, len: usize) -> Result<Vec<f32>> {
        self.device.buffer(len)
    }

    fn upload(&self, values: &[f32]) -> Result<Vec<f32>> {
        self.device.upload(values)
    }

    fn weight(&self, matrix: StoredMatrix) -> Result<Matrix> {
        self.device.weight(matrix)
    }

    fn kv_pool(&self, shape: &KvShape) -> Result<CpuKvPool> {
        self.device.kv_pool(shape)
    }

    fn inputs(&self, shape: &KvShape) -> CpuInputs {
        self.device.inputs(shape)
    }

    fn load_inputs(&self, batch: &Batch<'_>, inputs: &mut CpuInputs) -> Result<()> {
        self.meter
            .time(Operation::Rows, || self.device.load_inputs(batch, inputs))
    }

    fn read(&self, x: &Vec<f32>, len: usize, out: &mut Vec<f32>) -> Result<()> {
        self.meter
            .time(Operation::Rows, || self.device.read(x, len, out))
    }

    fn embed(&self, table: &Matrix, inputs: &CpuInputs, out: &mut Vec<f32>) -> Result<()> {
        self.meter
            .time(Operation::Rows, || self.device.embed(table, inputs, out))
    }

    fn rms_norm(
        &self,
        x: &Vec<f32>,
        weight: &Vec<f32>,
        norm: RmsNorm,
        out: &mut Vec<f32>,
    ) -> Result<()> {
        self.meter.time(Operation::Norm, || {
            self.device.rms_norm(x, weight, norm, out)
        })
    }

    fn rms_norm_in_place(&self, x: &mut Vec<f32>, weight: &Vec<f32>, norm: RmsNorm) -> Result<()> {
        self.meter.time(Operation::Norm, || {
            self.device.rms_norm_in_place(x, weight, norm)
        })
    }

    fn linears(
        &self,
        x: &Vec<f32>,
        rows: usize,
        products: &mut [Product<'_, Timed>],
    ) -> Result<()> {
        let products = products.iter_mut().map(|product| Product {
            weight: product.weight,
            bias: product.bias,
            out: &mut *product.out,
        });
        let mut products: Vec<Product<'_, CpuDevice>> = products.collect();
        let matrices: Vec<_> = products.iter().map(|it| (it.weight, rows)).collect();
        self.meter.products(matrices.into_iter(), || {
            self.device.linears(x, rows, &mut products)
        })
    }

    fn head_linear(
        &self,
        heads: &[Matrix],
        x: (&Vec<f32>, Columns),
        rows: usize,
        out: (&mut Vec<f32>, Columns),
    ) -> Result<()> {
        self.meter
            .products(heads.iter().map(|head| (head, rows)), || {
                self.device.head_linear(heads, x, rows, out)
            })
    }

    fn copy_columns(
        &self,
        x: (&Vec<f32>, Columns),
        rows: usize,
        out: (&mut Vec<f32>, Columns),
    ) -> Result<()> {
        self.meter
            .time(Operation::Rows, || self.device.copy_columns(x, rows, out))
    }

    fn rope(
        &self,
        table: &Vec<f32>,
        inputs: &CpuInputs,
        rotation: Rotation,
        x: &mut Vec<f32>,
    ) -> Result<()> {
        self.meter.time(Operation::Rope, || {
            self.device.rope(table, inputs, rotation, x)
        })
    }

    fn kv_write(
        &self,
        pool: &mut CpuKvPool,
        layer: usize,
        inputs: &CpuInputs,
        kv: (&Vec<f32>, Option<&Vec<f32>>),
    ) -> Result<()> {
        self.meter.time(Operation::KvWrite, || {
            self.device.kv_write(pool, layer, inputs, kv)
        })
    }

    fn paged_attention(
        &self,
        q: &Vec<f32>,
        attention: Attention<'_, Vec<f32>>,
        kv: (&CpuKvPool, usize),
        inputs: &CpuInputs,
        out: &mut Vec<f32>,
    ) -> Result<()> {
        self.meter.time(Operation::Attention, || {
            self.device.paged_attention(q, attention, kv, inputs, out)
        })
    }

    fn gated(
        &self,
        activation: Activation,
        gate: &mut Vec<f32>,
        up: &Vec<f32>,
        len: usize,
    ) -> Result<()> {
        self.meter.time(Operation::Activation, || {
            self.device.gated(activation, gate, up, len)
        })
    }

    fn add(&self, x: &mut Vec<f32>, y: &Vec<f32>, scale: f32, len: usize) -> Result<()> {
        self.meter
            .time(Operation::Residual, || self.device.add(x, y, scale, len))
    }

    fn scale(&self, x: &mut Vec<f32>, factor: f32, len: usize) -> Result<()> {
        self.meter
            .time(Operation::Residual, || self.device.scale(x, factor, len))
    }

    fn soft_cap(&self, x: &mut Vec<f32>, cap: f32, len: usize) -> Result<()> {
        self.meter
            .time(Operation::Activation, || self.device.soft_cap(x, cap, len))
    }

    fn route(
        &self,
        routing: &Routing,
        logits: (&Vec<f32>, Option<&Vec<f32>>),
        rows: usize,
        routes: &mut CpuRoutes,
    ) -> Result<()> {
        self.meter.time(Operation::Activation, || {
            self.device.route(routing, logits, rows, routes)
        })
    }

    fn expert_linear(
        &self,
        experts: &[Matrix],
        bias: Option<&Vec<f32>>,
        x: ExpertInput<'_, Vec<f32>>,
        routes: &CpuRoutes,
        out: &mut Vec<f32>,
    ) -> Result<()> {
        let used = routes
            .by_expert()
            .filter_map(|(expert, routes)| Some((experts.get(expert)?, routes.len())));
        self.meter.products(used, || {
            self.device.expert_linear(experts, bias, x, routes, out)
        })
    }

    fn combine(
        &self,
        y: &Vec<f32>,
        cols: usize,
        routes: &CpuRoutes,
        out: &mut Vec<f32>,
    ) -> Result<()> {
        self.meter.time(Operation::Residual, || {
            self.device.combine(y, cols, routes, out)
        })
    }

    fn gather(
        &self,
        x: &Vec<f32>,
        cols: usize,
        inputs: &CpuInputs,
        out: &mut Vec<f32>,
    ) -> Result<()> {
        self.meter
            .time(Operation::Rows, || self.device.gather(x, cols, inputs, out))
    }

    fn kv_copy(&self, pool: &mut CpuKvPool, from: u32, to: u32) -> Result<()> {
        self.device.kv_copy(pool, from, to)
    }

    fn kv_export(&self, pool: &CpuKvPool, block: u32, out: &mut Vec<u8>) -> Result<()> {
        self.device.kv_export(pool, block, out)
    }

    fn kv_import(&self, pool: &mut CpuKvPool, block: u32, bytes: &[u8]) -> Result<()> {
        self.device.kv_import(pool, block, bytes)
    }
}
