//! Vector kernels, chosen at run time; the crate's only unsafe code.
//!
//! Tiles, AVX-512, AVX2 or portable code, whichever the processor has: all give
//! the same bits, so workers on different machines agree; but for tiles of bf16,
//! whose sums have an order of their own. A [`Kernels`] can only be made where
//! its instruction set exists, which is what makes calling it safe.

#![allow(unsafe_code)]

#[cfg(target_arch = "x86_64")]
pub(super) mod amx;
pub(super) mod attend;
pub(super) mod blocks;
mod columns;
mod generic;
mod lanes;
pub(super) mod peaks;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod x86;

pub(super) use columns::ColumnsMut;

use half::bf16;

use super::isa::{Isa, IsaError};
use super::matrix::activations::{GroupMut, Quantized, round_to_bf16};
use super::rows;
use crate::error::DeviceError;
use crate::kv_shape::KvDtype;
use crate::ops::Activation;
use attend::Query;
use blocks::BlockWeights;
use lanes::{Bf16, Bf16Pairs, F8, F16, F32, I8, Portable, Widened};
use peaks::Numbers;

/// A product of activations `[tokens, k]` and the transpose of weights
/// `[rows, k]`; tokens and rows are those of the output.
pub(super) struct FloatProduct<'a> {
    pub k: usize,
    /// Row-major.
    pub x: &'a [u8],
    /// Row-major, little endian.
    pub w: &'a [u8],
    pub operands: Operands,
    /// `[rows]`: what sums are multiplied with.
    pub row_scales: Option<&'a [f32]>,
    /// `[rows]`
    pub bias: Option<&'a [f32]>,
}

/// What activations and weights are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operands {
    /// f32, and f32.
    F32,
    /// f32, and bf16.
    Bf16,
    /// f32, and f16.
    F16,
    /// f32, and E4M3 taken as divided by 256.
    F8,
    /// bf16, and bf16.
    Bf16Pairs,
}

impl Operands {
    /// Bytes of an activation and of a weight.
    fn sizes(self) -> (usize, usize) {
        match self {
            Operands::F32 => (4, 4),
            Operands::Bf16 | Operands::F16 => (4, 2),
            Operands::F8 => (4, 1),
            Operands::Bf16Pairs => (2, 2),
        }
    }
}

/// The kernels of one instruction set.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kernels(Isa);

/// Calls a kernel of this instruction set.
macro_rules! dispatch {
    ($isa:expr, $portable:ident, $avx2:ident, $avx512:ident, $bf16:ident, $($arg:expr),*) => {
        match $isa {
            // SAFETY: needs no instruction set; the caller has checked shapes.
            Isa::Portable => unsafe { $portable($($arg),*) },
            // SAFETY: there when the Kernels was made; shapes as above.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => unsafe { $avx2($($arg),*) },
            // SAFETY: as for AVX2.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 | Isa::Avx512Vnni => unsafe { $avx512($($arg),*) },
            // SAFETY: as for AVX2.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bf16 | Isa::Amx => unsafe { $bf16($($arg),*) },
            // SAFETY: as for portable code.
            #[cfg(not(target_arch = "x86_64"))]
            _ => unsafe { $portable($($arg),*) },
        }
    };
}

impl Kernels {
    /// Fails if this processor lacks the instruction set.
    pub(super) fn new(isa: Isa) -> Result<Kernels, DeviceError> {
        match Isa::available().any(|available| available == isa) {
            true => Ok(Kernels(isa)),
            false => Err(IsaError::Missing { isa }.into()),
        }
    }

    /// The fastest kernels of this processor.
    pub(super) fn detect() -> Kernels {
        Kernels(Isa::detect())
    }

    /// Every kind of kernels of this processor.
    #[cfg(test)]
    pub(super) fn all() -> Vec<Kernels> {
        Isa::available().map(Kernels).collect()
    }

    pub(super) fn isa(self) -> Isa {
        self.0
    }

    /// Computes the output's columns, whose weights `op` begins with.
    pub(super) fn blocks(self, op: &BlockWeights<'_>, x: &Quantized, out: &mut ColumnsMut<'_>) {
        blocks::product(self.0, op, x, out);
    }

    /// Multiplications of a round of [`Kernels::multiply`].
    pub(super) fn a_round(self, numbers: Numbers) -> usize {
        match (self.0, numbers) {
            #[cfg(target_arch = "x86_64")]
            (Isa::Amx, Numbers::Bf16 | Numbers::Bytes) => amx::peak::a_round(numbers),
            _ => numbers.a_round(),
        }
    }

    /// Multiplies in registers for so many rounds of [`peaks`].
    pub(super) fn multiply(self, numbers: Numbers, rounds: usize) -> f32 {
        match numbers {
            #[cfg(target_arch = "x86_64")]
            Numbers::Bf16 | Numbers::Bytes if self.0 == Isa::Amx => amx::multiply(numbers, rounds),
            Numbers::Bytes => blocks::multiply(self.0, rounds),
            floats => dispatch!(
                self.0,
                peak_portable,
                peak_avx2,
                peak_avx512,
                peak_bf16,
                floats,
                rounds
            ),
        }
    }

    /// Reads all of `numbers`.
    pub(super) fn read(self, numbers: &[f32]) -> f32 {
        dispatch!(
            self.0,
            read_portable,
            read_avx2,
            read_avx512,
            read_bf16,
            numbers
        )
    }

    /// Computes the output's columns, whose weights `op` begins with; only where
    /// there are tiles.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn tiles(self, op: &amx::Bf16Weights<'_>, x: &[bf16], out: &mut ColumnsMut<'_>) {
        assert!(self.0 == Isa::Amx);
        amx::product(op, x, out);
    }

    pub(super) fn quantize(self, group: &mut GroupMut<'_>) {
        dispatch!(
            self.0,
            quantize_portable,
            quantize_avx2,
            quantize_avx512,
            quantize_bf16,
            group
        )
    }

    /// `gate = activation(gate, up)`; both are equally long.
    pub(super) fn gated(self, activation: Activation, gate: &mut [f32], up: &[f32]) {
        dispatch!(
            self.0,
            gated_portable,
            gated_avx2,
            gated_avx512,
            gated_bf16,
            activation,
            gate,
            up
        )
    }

    /// Rounds to bf16, little endian; both are equally long.
    pub(super) fn round(self, x: &[f32], out: &mut [[u8; 2]]) {
        dispatch!(
            self.0,
            round_portable,
            round_avx2,
            round_avx512,
            round_bf16,
            x,
            out
        )
    }

    /// Computes the output's columns; weights, scales and bias are those
    /// columns' rows.
    pub(super) fn floats(self, op: &FloatProduct<'_>, out: &mut ColumnsMut<'_>) {
        let (x_size, w_size) = op.operands.sizes();
        assert!(op.x.len() >= out.rows() * op.k * x_size);
        assert!(op.w.len() >= out.width() * op.k * w_size);
        assert!(
            op.row_scales
                .is_none_or(|scales| scales.len() >= out.width())
        );
        assert!(op.bias.is_none_or(|bias| bias.len() >= out.width()));
        dispatch!(
            self.0,
            matmul_portable,
            matmul_avx2,
            matmul_avx512,
            matmul_bf16,
            op,
            out
        )
    }

    /// The dot product; both are equally long.
    pub(super) fn dot(self, x: &[f32], y: &[f32]) -> f32 {
        assert!(x.len() == y.len());
        dispatch!(self.0, dot_portable, dot_avx2, dot_avx512, dot_bf16, x, y)
    }

    /// Adds a span of positions to the results of queries, each of which sees
    /// some of it.
    pub(super) fn attend(self, op: &attend::Span<'_>, queries: &mut [Query], out: &mut [f32]) {
        op.check(queries, out);
        dispatch!(
            self.0,
            attend_portable,
            attend_avx2,
            attend_avx512,
            attend_bf16,
            op,
            queries,
            out
        )
    }
}

/// The entry points of one instruction set, with the tiles that fit its
/// registers.
macro_rules! entry_points {
    (
        $(#[$attribute:meta])* $lanes:ty, tiles $t:literal $r:literal $s:literal:
        $matmul:ident, $dot:ident, $attend:ident, $quantize:ident, $round:ident, $gated:ident, $peak:ident, $read:ident
    ) => {
        $(#[$attribute])*
        unsafe fn $matmul(op: &FloatProduct<'_>, out: &mut ColumnsMut<'_>) {
            // SAFETY: the caller's contract is the callee's.
            unsafe {
                match op.operands {
                    Operands::F32 => generic::matmul::<$lanes, Widened<F32>, $t, $r, $s>(op, out),
                    Operands::Bf16 => generic::matmul::<$lanes, Widened<Bf16>, $t, $r, $s>(op, out),
                    Operands::F16 => generic::matmul::<$lanes, Widened<F16>, $t, $r, $s>(op, out),
                    Operands::F8 => generic::matmul::<$lanes, Widened<F8>, $t, $r, $s>(op, out),
                    Operands::Bf16Pairs => generic::matmul::<$lanes, Bf16Pairs, $t, $r, $s>(op, out),
                }
            }
        }

        $(#[$attribute])*
        unsafe fn $dot(x: &[f32], y: &[f32]) -> f32 {
            // SAFETY: the caller's contract is the callee's.
            unsafe { generic::dot::<$lanes>(x, y) }
        }

        $(#[$attribute])*
        unsafe fn $attend(op: &attend::Span<'_>, queries: &mut [Query], out: &mut [f32]) {
            // SAFETY: the caller's contract is the callee's.
            unsafe {
                match op.dtype {
                    KvDtype::F32 => attend::attend::<$lanes, F32, { 2 * $t }, $t, $r>(op, queries, out),
                    KvDtype::Bf16 => attend::attend::<$lanes, Bf16, { 2 * $t }, $t, $r>(op, queries, out),
                    KvDtype::Int8 => attend::attend::<$lanes, I8, { 2 * $t }, $t, $r>(op, queries, out),
                }
            }
        }

        $(#[$attribute])*
        unsafe fn $quantize(group: &mut GroupMut<'_>) {
            // SAFETY: the caller's contract is the callee's.
            group.fill(|numbers| unsafe { generic::quantize::<$lanes>(numbers) });
        }

        /// The same operations on wider vectors.
        $(#[$attribute])*
        unsafe fn $round(x: &[f32], out: &mut [[u8; 2]]) {
            for (x, out) in x.iter().zip(out) {
                *out = round_to_bf16(*x).to_le_bytes();
            }
        }

        $(#[$attribute])*
        unsafe fn $gated(activation: Activation, gate: &mut [f32], up: &[f32]) {
            rows::gated(activation, gate, up);
        }

        $(#[$attribute])*
        unsafe fn $peak(numbers: Numbers, rounds: usize) -> f32 {
            // SAFETY: the caller's contract is the callee's.
            unsafe {
                match numbers {
                    Numbers::Bf16 => peaks::multiply_pairs::<$lanes>(rounds),
                    _ => peaks::multiply::<$lanes>(rounds),
                }
            }
        }

        $(#[$attribute])*
        unsafe fn $read(numbers: &[f32]) -> f32 {
            // SAFETY: the caller's contract is the callee's.
            unsafe { peaks::read::<$lanes>(numbers) }
        }
    };
}

entry_points!(
    Portable, tiles 2 2 4: matmul_portable, dot_portable, attend_portable, quantize_portable,
    round_portable, gated_portable, peak_portable, read_portable
);
#[cfg(target_arch = "x86_64")]
entry_points!(
    #[target_feature(enable = "avx2,fma,f16c")]
    x86::Avx2, tiles 2 2 4: matmul_avx2, dot_avx2, attend_avx2, quantize_avx2,
    round_avx2, gated_avx2, peak_avx2, read_avx2
);
#[cfg(target_arch = "x86_64")]
entry_points!(
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    x86::Avx512, tiles 4 4 8: matmul_avx512, dot_avx512, attend_avx512, quantize_avx512,
    round_avx512, gated_avx512, peak_avx512, read_avx512
);
#[cfg(target_arch = "x86_64")]
entry_points!(
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    x86::Avx512<true>, tiles 4 4 8: matmul_bf16, dot_bf16, attend_bf16, quantize_bf16,
    round_bf16, gated_bf16, peak_bf16, read_bf16
);
