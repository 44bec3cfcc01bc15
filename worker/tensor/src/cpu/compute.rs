//! What CPU operations compute with: kernels and threads.

use super::isa::Isa;
use super::kernels::Kernels;
use super::matrix::{Bf16Activations, Matrix};
use super::pages::Arena;
use super::pool::Pool;
use crate::encoding::StoredMatrix;
use crate::error::DeviceError;

/// How a CPU computes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuOptions {
    /// At least one.
    pub threads: usize,
    /// `None`: the largest of this processor.
    pub isa: Option<Isa>,
    pub bf16_activations: Bf16Activations,
}

impl CpuOptions {
    /// The processor's best kernels, and exact activations.
    pub const fn new(threads: usize) -> CpuOptions {
        CpuOptions {
            threads,
            isa: None,
            bf16_activations: Bf16Activations::Exact,
        }
    }
}

/// The kernels of an instruction set, and threads.
pub struct Compute {
    pub(super) kernels: Kernels,
    pub(super) pool: Pool,
    pub(super) bf16_activations: Bf16Activations,
    /// Where weights are packed.
    pub(super) pages: Arena,
}

/// Kernels, and threads if there are several that may be used.
#[derive(Clone, Copy)]
pub(super) struct On<'a> {
    pub(super) kernels: Kernels,
    pub(super) pool: Option<&'a Pool>,
}

impl On<'_> {
    /// Calls `compute` once with each number below `parts`.
    pub(super) fn run(self, parts: usize, compute: &(dyn Fn(usize) + Sync)) {
        match self.pool {
            Some(pool) => pool.run(parts, compute),
            None => (0..parts).for_each(compute),
        }
    }
}

impl Compute {
    /// Starts threads; fails for an instruction set that this processor lacks.
    pub fn new(options: &CpuOptions) -> Result<Compute, DeviceError> {
        let kernels = match options.isa {
            Some(isa) => Kernels::new(isa)?,
            None => Kernels::detect(),
        };
        Ok(Compute {
            kernels,
            pool: Pool::new(options.threads)?,
            bf16_activations: options.bf16_activations,
            pages: Arena::new("packed weights"),
        })
    }

    pub fn isa(&self) -> Isa {
        self.kernels.isa()
    }

    /// A weight of any encoding in the form that products read.
    pub fn matrix(&self, stored: StoredMatrix) -> Result<Matrix, DeviceError> {
        Matrix::new(stored, self)
    }

    /// On all threads.
    pub(super) fn all(&self) -> On<'_> {
        On {
            kernels: self.kernels,
            pool: Some(&self.pool).filter(|pool| pool.threads() > 1),
        }
    }
}
