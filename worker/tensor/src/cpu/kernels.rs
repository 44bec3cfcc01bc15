//! Vector kernels, chosen at run time; the crate's only unsafe code.
//!
//! AVX-512, AVX2 or portable code, whichever the processor has: all give the
//! same bits, so workers on different machines agree. A [`Kernels`] can only be
//! made where its instruction set exists, which is what makes calling it safe.

#![allow(unsafe_code)]

mod columns;
mod generic;
mod lanes;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod x86;

pub(super) use columns::ColumnsMut;

use crate::host::DType;
use lanes::{Bf16, F16, F32, Portable};

/// A product of activations `[tokens, k]` and the transpose of weights
/// `[rows, k]`; tokens and rows are those of the output.
pub(super) struct Matmul<'a> {
    pub k: usize,
    pub x: &'a [f32],
    /// Row-major numbers of `dtype`, little endian.
    pub w: &'a [u8],
    pub dtype: DType,
    /// `[rows]`
    pub bias: Option<&'a [f32]>,
}

/// `out * scale + weights * rows`, where rows is `[weights, out]`.
pub(super) struct WeightedSum<'a> {
    pub scale: f32,
    pub weights: &'a [f32],
    pub rows: &'a [f32],
}

/// The kernels of one instruction set.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kernels(Isa);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Isa {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

/// Calls a kernel of this instruction set.
macro_rules! dispatch {
    ($isa:expr, $portable:ident, $avx2:ident, $avx512:ident, $($arg:expr),*) => {
        match $isa {
            // SAFETY: needs no instruction set; the caller has checked shapes.
            Isa::Portable => unsafe { $portable($($arg),*) },
            // SAFETY: detected when the Isa was made; shapes as above.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => unsafe { $avx2($($arg),*) },
            // SAFETY: as for AVX2.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => unsafe { $avx512($($arg),*) },
        }
    };
}

impl Kernels {
    /// The fastest kernels of this processor.
    pub(super) fn detect() -> Kernels {
        // The last is the fastest, and portable kernels are always there.
        Kernels(Isa::available().last().unwrap_or(Isa::Portable))
    }

    /// Every kind of kernels of this processor.
    #[cfg(test)]
    pub(super) fn all() -> Vec<Kernels> {
        Isa::available().map(Kernels).collect()
    }

    /// Computes the output's columns; weights and bias are those columns' rows.
    pub(super) fn matmul(self, op: &Matmul<'_>, out: &mut ColumnsMut<'_>) {
        assert!(op.x.len() >= out.rows() * op.k);
        assert!(op.w.len() >= out.width() * op.k * op.dtype.size());
        assert!(op.bias.is_none_or(|bias| bias.len() >= out.width()));
        dispatch!(self.0, matmul_portable, matmul_avx2, matmul_avx512, op, out)
    }

    /// The dot product; both are equally long.
    pub(super) fn dot(self, x: &[f32], y: &[f32]) -> f32 {
        assert!(x.len() == y.len());
        dispatch!(self.0, dot_portable, dot_avx2, dot_avx512, x, y)
    }

    pub(super) fn weighted_sum(self, op: &WeightedSum<'_>, out: &mut [f32]) {
        assert!(op.rows.len() >= op.weights.len() * out.len());
        dispatch!(self.0, sum_portable, sum_avx2, sum_avx512, op, out)
    }
}

impl Isa {
    /// Those of this processor, slowest first.
    fn available() -> impl Iterator<Item = Isa> {
        #[cfg(target_arch = "x86_64")]
        let vector = [
            (is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
                && is_x86_feature_detected!("f16c"))
            .then_some(Isa::Avx2),
            (is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl"))
            .then_some(Isa::Avx512),
        ];
        #[cfg(not(target_arch = "x86_64"))]
        let vector: [Option<Isa>; 0] = [];
        std::iter::once(Isa::Portable).chain(vector.into_iter().flatten())
    }
}

/// The entry points of one instruction set, with the tiles that fit its
/// registers.
macro_rules! entry_points {
    (
        $(#[$attribute:meta])* $lanes:ty, tiles $t:literal $r:literal $s:literal:
        $matmul:ident, $dot:ident, $sum:ident
    ) => {
        $(#[$attribute])*
        unsafe fn $matmul(op: &Matmul<'_>, out: &mut ColumnsMut<'_>) {
            // SAFETY: the caller's contract is the callee's.
            unsafe {
                match op.dtype {
                    DType::F32 => generic::matmul::<$lanes, F32, $t, $r, $s>(op, out),
                    DType::Bf16 => generic::matmul::<$lanes, Bf16, $t, $r, $s>(op, out),
                    DType::F16 => generic::matmul::<$lanes, F16, $t, $r, $s>(op, out),
                }
            }
        }

        $(#[$attribute])*
        unsafe fn $dot(x: &[f32], y: &[f32]) -> f32 {
            // SAFETY: the caller's contract is the callee's.
            unsafe { generic::dot::<$lanes>(x, y) }
        }

        $(#[$attribute])*
        unsafe fn $sum(op: &WeightedSum<'_>, out: &mut [f32]) {
            // SAFETY: the caller's contract is the callee's.
            unsafe { generic::weighted_sum::<$lanes>(op, out) }
        }
    };
}

entry_points!(Portable, tiles 2 2 4: matmul_portable, dot_portable, sum_portable);
#[cfg(target_arch = "x86_64")]
entry_points!(
    #[target_feature(enable = "avx2,fma,f16c")]
    x86::Avx2, tiles 2 2 4: matmul_avx2, dot_avx2, sum_avx2
);
#[cfg(target_arch = "x86_64")]
entry_points!(
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    x86::Avx512, tiles 4 4 8: matmul_avx512, dot_avx512, sum_avx512
);
