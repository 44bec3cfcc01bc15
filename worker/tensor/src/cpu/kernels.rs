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
mod floats;
mod generic;
mod lanes;
pub(super) mod peaks;
mod portable;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod x86;

pub(super) use blocks::Line;
pub(super) use columns::ColumnsMut;
pub(super) use floats::{FloatProduct, Operands};

#[cfg(target_arch = "x86_64")]
use half::bf16;

use super::isa::{Isa, IsaError};
use super::matrix::activations::{GroupMut, Quantized};
use super::matrix::floats::{FloatForm, FloatTileMut};
use super::rows;
use crate::error::DeviceError;
use crate::kv_shape::KvDtype;
use crate::ops::Activation;
use attend::{Pairs, Plain, Query};
use blocks::BlockWeights;
use lanes::{Bf16, Bf16Pairs, F8, F16, F32, I8, Widened};
use peaks::Numbers;
use portable::Portable;

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

    /// How activations are laid out for [`Kernels::floats`].
    pub(super) fn float_form(self, operands: Operands) -> FloatForm {
        FloatForm {
            together: match self.0 {
                Isa::Portable | Isa::Avx2 => 2,
                _ => 6,
            },
            bf16: operands == Operands::Bf16Pairs,
        }
    }

    pub(super) fn lay_out(self, tile: &mut FloatTileMut<'_>) {
        dispatch!(
            self.0,
            lay_out_portable,
            lay_out_avx2,
            lay_out_avx512,
            lay_out_bf16,
            tile
        )
    }

    /// Computes the output's columns; weights, scales and bias are those
    /// columns' rows.
    pub(super) fn floats(self, op: &FloatProduct<'_>, out: &mut ColumnsMut<'_>) {
        assert!(op.x.form() == self.float_form(op.operands) && op.x.tokens() == out.rows());
        assert!(op.w.len() >= out.width() * op.x.k() * op.operands.weight_bytes());
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

    /// Rounds to bf16, little endian; both are equally long.
    pub(super) fn round(self, x: &[f32], out: &mut [[u8; 2]]) {
        assert!(x.len() == out.len());
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
        $matmul:ident, $dot:ident, $attend:ident, $round:ident, $quantize:ident, $lay_out:ident, $gated:ident, $peak:ident, $read:ident
    ) => {
        $(#[$attribute])*
        unsafe fn $matmul(op: &FloatProduct<'_>, out: &mut ColumnsMut<'_>) {
            // SAFETY: the caller's contract is the callee's.
            unsafe {
                match op.operands {
                    Operands::F32 => floats::matmul::<$lanes, Widened<F32>, $t, $r, $s>(op, out),
                    Operands::Bf16 => floats::matmul::<$lanes, Widened<Bf16>, $t, $r, $s>(op, out),
                    Operands::F16 => floats::matmul::<$lanes, Widened<F16>, $t, $r, $s>(op, out),
                    Operands::F8 => floats::matmul::<$lanes, Widened<F8>, $t, $r, $s>(op, out),
                    Operands::Bf16Pairs => floats::matmul::<$lanes, Bf16Pairs, $t, $r, $s>(op, out),
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
                    _ if op.in_pairs() => attend::attend::<$lanes, Pairs, $r, $r, $r>(op, queries, out),
                    KvDtype::F32 => attend::attend::<$lanes, Plain<F32>, { 2 * $r }, $r, $r>(op, queries, out),
                    KvDtype::Bf16 => attend::attend::<$lanes, Plain<Bf16>, { 2 * $r }, $r, $r>(op, queries, out),
                    KvDtype::Int8 => attend::attend::<$lanes, Plain<I8>, { 2 * $r }, $r, $r>(op, queries, out),
                }
            }
        }

        $(#[$attribute])*
        unsafe fn $round(x: &[f32], out: &mut [[u8; 2]]) {
            // SAFETY: the caller's contract is the callee's.
            unsafe { generic::round::<$lanes>(x, out) }
        }

        $(#[$attribute])*
        unsafe fn $quantize(group: &mut GroupMut<'_>) {
            // SAFETY: the caller's contract is the callee's.
            group.fill(|numbers| unsafe { generic::quantize::<$lanes>(numbers) });
        }

        /// The same operations on wider vectors.
        $(#[$attribute])*
        unsafe fn $lay_out(tile: &mut FloatTileMut<'_>) {
            tile.fill();
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
    Portable, tiles 2 2 4: matmul_portable, dot_portable, attend_portable, round_portable, quantize_portable,
    lay_out_portable, gated_portable, peak_portable, read_portable
);
#[cfg(target_arch = "x86_64")]
entry_points!(
    #[target_feature(enable = "avx2,fma,f16c")]
    x86::Avx2, tiles 2 2 4: matmul_avx2, dot_avx2, attend_avx2, round_avx2, quantize_avx2,
    lay_out_avx2, gated_avx2, peak_avx2, read_avx2
);
#[cfg(target_arch = "x86_64")]
entry_points!(
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    x86::Avx512, tiles 6 4 8: matmul_avx512, dot_avx512, attend_avx512, round_avx512, quantize_avx512,
    lay_out_avx512, gated_avx512, peak_avx512, read_avx512
);
#[cfg(target_arch = "x86_64")]
entry_points!(
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    x86::Avx512<true>, tiles 6 4 8: matmul_bf16, dot_bf16, attend_bf16, round_bf16, quantize_bf16,
    lay_out_bf16, gated_bf16, peak_bf16, read_bf16
);
