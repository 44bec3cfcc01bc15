//! The CPU device with a clock around every operation.
//!
//! It computes what [`CpuDevice`] does, and keeps in a [`Meter`] how long each
//! kind of operation took and what products read and multiplied. A device that
//! is not wrapped knows nothing of this.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::kernels::peaks::Numbers;
use super::{CpuDevice, CpuInputs, CpuKvPool, CpuRoutes, Matrix};
use crate::batch::Batch;
use crate::device::Device;
use crate::encoding::StoredMatrix;
use crate::error::DeviceError;
use crate::kv_shape::KvShape;
use crate::ops::{Activation, Attention, Columns, ExpertInput, Part, RmsNorm, Rotation, Routing};

type Result<T> = std::result::Result<T, DeviceError>;

/// Says the time since any moment.
pub type Clock = Box<dyn Fn() -> Duration + Send + Sync>;

/// Kinds of operations whose time is counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// Products with weights, by what they are for.
    Product(Part),
    Attention,
    KvWrite,
    Norm,
    Rope,
    Activation,
    /// Sums and scales of the residual stream and of experts' outputs.
    Residual,
    /// Token embeddings, and rows that are brought to and from the device.
    Rows,
}

impl Operation {
    /// About in the order of a step.
    pub const ALL: [Operation; 14] = [
        Operation::Rows,
        Operation::Norm,
        Operation::Product(Part::Qkv),
        Operation::Rope,
        Operation::KvWrite,
        Operation::Attention,
        Operation::Product(Part::Output),
        Operation::Product(Part::Router),
        Operation::Product(Part::GateUp),
        Operation::Activation,
        Operation::Product(Part::Down),
        Operation::Residual,
        Operation::Product(Part::Other),
        Operation::Product(Part::Head),
    ];

    /// In tables.
    pub fn name(self) -> &'static str {
        match self {
            Operation::Product(Part::Qkv) => "qkv",
            Operation::Product(Part::Output) => "attention output",
            Operation::Product(Part::Router) => "router",
            Operation::Product(Part::GateUp) => "gate, up",
            Operation::Product(Part::Down) => "down",
            Operation::Product(Part::Head) => "lm head",
            Operation::Product(Part::Other) => "other products",
            Operation::Attention => "attention",
            Operation::KvWrite => "kv write",
            Operation::Norm => "norms",
            Operation::Rope => "rope",
            Operation::Activation => "activations",
            Operation::Residual => "residual",
            Operation::Rows => "embedding, copies",
        }
    }
}

/// What was done since the meter was last taken.
#[derive(Clone, Debug, Default)]
pub struct Usage {
    pub times: BTreeMap<Operation, Duration>,
    /// Bytes of weights that products read, each once for a product.
    pub weight_bytes: u64,
    /// Multiplications of weights as f32, bf16 and bytes.
    pub f32: u64,
    pub bf16: u64,
    pub bytes: u64,
    /// When the last operation ended.
    pub ended: Duration,
}

/// Counts what a [`Timed`] device does.
pub struct Meter {
    clock: Clock,
    /// Nobody contends: a device is used by one thread.
    state: Mutex<(Part, Usage)>,
}

impl Meter {
    pub fn now(&self) -> Duration {
        (self.clock)()
    }

    /// When the last operation ended.
    pub fn ended(&self) -> Duration {
        self.state().1.ended
    }

    /// What was done since the last call.
    pub fn take(&self) -> Usage {
        std::mem::take(&mut self.state().1)
    }

    fn state(&self) -> MutexGuard<'_, (Part, Usage)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn time<T>(&self, operation: Operation, run: impl FnOnce() -> T) -> T {
        let start = self.now();
        let result = run();
        let end = self.now();
        let (_, usage) = &mut *self.state();
        *usage.times.entry(operation).or_default() += end - start;
        usage.ended = end;
        result
    }

    /// Times products, each of a matrix with so many rows of activations.
    fn products<'a, T>(
        &self,
        products: impl Iterator<Item = (&'a Matrix, usize)>,
        run: impl FnOnce() -> T,
    ) -> T {
        let part = {
            let (part, usage) = &mut *self.state();
            for (matrix, rows) in products {
                usage.weight_bytes += matrix.bytes() as u64;
                let count = (rows * matrix.rows() * matrix.cols()) as u64;
                match matrix.numbers() {
                    Numbers::F32 => usage.f32 += count,
                    Numbers::Bf16 => usage.bf16 += count,
                    Numbers::Bytes => usage.bytes += count,
                }
            }
            *part
        };
        self.time(Operation::Product(part), run)
    }
}

/// A [`CpuDevice`] whose operations are timed.
pub struct Timed {
    device: CpuDevice,
    meter: Arc<Meter>,
}

impl Timed {
    /// Counts from now on.
    pub fn new(device: CpuDevice, clock: Clock) -> Timed {
        let meter = Meter {
            clock,
            state: Mutex::new((Part::Other, Usage::default())),
        };
        Timed {
            device,
            meter: Arc::new(meter),
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
        self.meter.state().0 = part;
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

    fn linear(
        &self,
        weight: &Matrix,
        bias: Option<&Vec<f32>>,
        x: &Vec<f32>,
        rows: usize,
        out: &mut Vec<f32>,
    ) -> Result<()> {
        self.meter.products(std::iter::once((weight, rows)), || {
            self.device.linear(weight, bias, x, rows, out)
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

    fn kv_export(&self, pool: &CpuKvPool, block: u32, out: &mut Vec<u8>) -> Result<()> {
        self.device.kv_export(pool, block, out)
    }

    fn kv_import(&self, pool: &mut CpuKvPool, block: u32, bytes: &[u8]) -> Result<()> {
        self.device.kv_import(pool, block, bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::cpu::CpuOptions;
    use crate::encoding::Encoding;

    /// Every look at the clock takes a second.
    fn timed() -> Timed {
        let seconds = AtomicU64::new(0);
        let clock = move || Duration::from_secs(seconds.fetch_add(1, Ordering::Relaxed));
        Timed::new(
            CpuDevice::new(&CpuOptions::new(1)).unwrap(),
            Box::new(clock),
        )
    }

    #[test]
    fn products_are_counted_by_what_they_are_for_and_read() {
        let device = timed();
        let data = vec![0; 8 * 34];
        let stored = StoredMatrix::new(Encoding::Q8_0, (4, 64), data.into()).unwrap();
        let weight = device.weight(stored).unwrap();
        let (x, mut out) = (vec![1.0; 3 * 64], vec![0.0; 3 * 4]);
        device.part(Part::Down);
        device.linear(&weight, None, &x, 3, &mut out).unwrap();
        device.part(Part::Head);
        device.linear(&weight, None, &x, 1, &mut out).unwrap();
        device.linear(&weight, None, &x, 1, &mut out).unwrap();
        device.scale(&mut out, 2.0, 12).unwrap();
        let usage = device.meter().take();
        let times: Vec<_> = usage.times.into_iter().collect();
        let seconds = Duration::from_secs;
        let expected = [
            (Operation::Product(Part::Down), seconds(1)),
            (Operation::Product(Part::Head), seconds(2)),
            (Operation::Residual, seconds(1)),
        ];
        assert_eq!(times, expected);
        assert_eq!(usage.ended, seconds(7));
        assert_eq!(usage.weight_bytes, 3 * weight.bytes() as u64);
        assert_eq!((usage.f32, usage.bf16), (0, 0));
        assert_eq!(usage.bytes, 5 * 4 * 64);
        assert!(device.meter().take().times.is_empty());
    }

    #[test]
    fn floats_are_counted_as_what_they_are_multiplied_as() {
        let device = timed();
        for (encoding, size) in [(Encoding::Bf16, 2), (Encoding::F16, 2), (Encoding::F32, 4)] {
            let stored = StoredMatrix::new(encoding, (2, 8), vec![0; 16 * size].into()).unwrap();
            let weight = device.weight(stored).unwrap();
            let (x, mut out) = (vec![1.0; 8], vec![0.0; 2]);
            device.linear(&weight, None, &x, 1, &mut out).unwrap();
        }
        let usage = device.meter().take();
        // Activations that meet bf16 are exact unless asked for otherwise.
        assert_eq!((usage.f32, usage.bf16, usage.bytes), (48, 0, 0));
    }
}
