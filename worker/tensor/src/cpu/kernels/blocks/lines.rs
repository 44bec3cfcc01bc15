//! Operations on lines of weights, in each instruction set.

use super::layout::{Line, ROWS};
use crate::cpu::kernels::lanes::{LANES, Lanes};
use crate::cpu::kernels::portable::Portable;

/// Lines of 64 bytes, and sixteen 32-bit integers, one a row.
///
/// # Safety
/// Callers run only where the implementation's instruction set exists, and
/// pointers are valid for what a function reads: 4 activations, or 16 bytes.
pub(super) trait Lines {
    type Floats: Lanes;
    type Ints: Copy;
    type Bytes: Copy;

    unsafe fn load(line: *const Line) -> Self::Bytes;
    /// The low half of each byte.
    unsafe fn low(bytes: Self::Bytes) -> Self::Bytes;
    /// The high half of each byte.
    unsafe fn high(bytes: Self::Bytes) -> Self::Bytes;
    /// `bytes`, which are below 16, plus 16 times pair `pair` of bits of `upper`.
    unsafe fn with_upper(bytes: Self::Bytes, upper: Self::Bytes, pair: usize) -> Self::Bytes;

    unsafe fn splat(value: i32) -> Self::Ints;
    /// Adds to each row the products of its 4 weights, which are below 128, with
    /// the 4 activations.
    unsafe fn dot(sum: Self::Ints, weights: Self::Bytes, x: *const i8) -> Self::Ints;
    /// The same with weights of all 8 bits; they may be taken minus 128, as
    /// `offset` says.
    unsafe fn dot_wide(sum: Self::Ints, weights: Self::Bytes, x: *const i8) -> Self::Ints;
    unsafe fn to_floats(ints: Self::Ints) -> Self::Floats;

    unsafe fn store(bytes: Self::Bytes, line: *mut Line);
    unsafe fn load_ints(ints: *const i32) -> Self::Ints;
    unsafe fn add(a: Self::Ints, b: Self::Ints) -> Self::Ints;

    /// 16 bytes.
    unsafe fn load_u8(bytes: *const u8) -> Self::Floats;
    /// 16 signed bytes.
    unsafe fn load_i8(bytes: *const u8) -> Self::Floats;
    /// As [`Lanes::prefetch`].
    unsafe fn prefetch(p: *const u8);
}

/// Portable, and the oracle of the others.
pub(super) struct PortableLines;

// SAFETY (of each body): needs no instruction set; pointers are the caller's
// contract.
impl Lines for PortableLines {
    type Floats = Portable;
    type Ints = [i32; ROWS];
    type Bytes = [u8; 64];

    #[inline(always)]
    unsafe fn load(line: *const Line) -> [u8; 64] {
        unsafe { (*line).0 }
    }

    #[inline(always)]
    unsafe fn low(bytes: [u8; 64]) -> [u8; 64] {
        bytes.map(|b| b & 15)
    }

    #[inline(always)]
    unsafe fn high(bytes: [u8; 64]) -> [u8; 64] {
        bytes.map(|b| b >> 4)
    }

    #[inline(always)]
    unsafe fn with_upper(mut bytes: [u8; 64], upper: [u8; 64], pair: usize) -> [u8; 64] {
        for (byte, upper) in bytes.iter_mut().zip(upper) {
            *byte |= (upper >> (2 * pair) & 3) << 4;
        }
        bytes
    }

    #[inline(always)]
    unsafe fn splat(value: i32) -> [i32; ROWS] {
        [value; ROWS]
    }

    #[inline(always)]
    unsafe fn dot(mut sum: [i32; ROWS], weights: [u8; 64], x: *const i8) -> [i32; ROWS] {
        let x = unsafe { *x.cast::<[i8; 4]>() };
        for (sum, weights) in sum.iter_mut().zip(weights.as_chunks::<4>().0) {
            for (&weight, x) in weights.iter().zip(x) {
                *sum += i32::from(weight) * i32::from(x);
            }
        }
        sum
    }

    #[inline(always)]
    unsafe fn dot_wide(mut sum: [i32; ROWS], weights: [u8; 64], x: *const i8) -> [i32; ROWS] {
        let x = unsafe { *x.cast::<[i8; 4]>() };
        for (sum, weights) in sum.iter_mut().zip(weights.as_chunks::<4>().0) {
            for (&weight, x) in weights.iter().zip(x) {
                *sum += (i32::from(weight) - 128) * i32::from(x);
            }
        }
        sum
    }

    #[inline(always)]
    unsafe fn to_floats(ints: [i32; ROWS]) -> Portable {
        let floats = ints.map(|i| i as f32);
        unsafe { Portable::load_f32(floats.as_ptr().cast()) }
    }

    #[inline(always)]
    unsafe fn store(bytes: [u8; 64], line: *mut Line) {
        unsafe { *line = Line(bytes) }
    }

    #[inline(always)]
    unsafe fn load_ints(ints: *const i32) -> [i32; ROWS] {
        unsafe { ints.cast::<[i32; ROWS]>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn add(mut a: [i32; ROWS], b: [i32; ROWS]) -> [i32; ROWS] {
        a.iter_mut().zip(b).for_each(|(a, b)| *a += b);
        a
    }

    #[inline(always)]
    unsafe fn load_u8(bytes: *const u8) -> Portable {
        let floats = unsafe { *bytes.cast::<[u8; LANES]>() }.map(f32::from);
        unsafe { Portable::load_f32(floats.as_ptr().cast()) }
    }

    #[inline(always)]
    unsafe fn load_i8(bytes: *const u8) -> Portable {
        let floats = unsafe { *bytes.cast::<[i8; LANES]>() }.map(f32::from);
        unsafe { Portable::load_f32(floats.as_ptr().cast()) }
    }

    #[inline(always)]
    unsafe fn prefetch(_: *const u8) {}
}
