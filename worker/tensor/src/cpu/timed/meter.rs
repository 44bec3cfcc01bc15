//! What was done and how long it took, by kind of operation.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::cpu::Matrix;
use crate::cpu::kernels::peaks::Numbers;
use crate::ops::Part;

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
    pub(super) fn new(clock: Clock) -> Meter {
        Meter {
            clock,
            state: Mutex::new((Part::Other, Usage::default())),
        }
    }

    /// Products are for this from now on.
    pub(super) fn part(&self, part: Part) {
        self.state().0 = part;
    }

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

    pub(super) fn time<T>(&self, operation: Operation, run: impl FnOnce() -> T) -> T {
        let start = self.now();
        let result = run();
        let end = self.now();
        let (_, usage) = &mut *self.state();
        *usage.times.entry(operation).or_default() += end - start;
        usage.ended = end;
        result
    }

    /// Times products, each of a matrix with so many rows of activations.
    pub(super) fn products<'a, T>(
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
