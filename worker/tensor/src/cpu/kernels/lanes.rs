//! Sixteen f32 lanes, in each instruction set.
//!
//! Every set computes the same bits: lanes fuse multiply and add, and are
//! summed as one tree. Functions are unsafe because they must only run where
//! their instruction set exists, and because they read and write raw pointers,
//! which need no alignment.

use crate::cpu::matrix::activations::round_to_bf16;

/// Numbers in a vector.
pub(super) const LANES: usize = 16;

/// A vector of [`LANES`] f32.
///
/// # Safety
/// Callers run only where the implementation's instruction set exists, and
/// pointers are valid for the numbers that a function names.
pub(super) trait Lanes: Copy {
    /// Sixteen pairs of bf16.
    type Pairs: Copy;

    unsafe fn splat(value: f32) -> Self;
    unsafe fn load_f32(p: *const u8) -> Self;
    unsafe fn load_bf16(p: *const u8) -> Self;
    unsafe fn load_f16(p: *const u8) -> Self;
    /// Bytes in E4M3, divided by 256.
    unsafe fn load_f8(p: *const u8) -> Self;
    /// Signed bytes.
    unsafe fn load_i8(p: *const u8) -> Self;
    unsafe fn load_pairs(p: *const u8) -> Self::Pairs;
    /// Adds the products of the second numbers of the pairs, then those of the
    /// first; each sum is rounded once.
    unsafe fn dot_pairs(self, a: Self::Pairs, b: Self::Pairs) -> Self;
    /// Pairs of zeros.
    #[inline(always)]
    unsafe fn no_pairs() -> Self::Pairs {
        // SAFETY: the caller's contract is the callee's.
        unsafe { Self::splat_pair([0u8; 4].as_ptr()) }
    }
    /// The pair at `p`, sixteen times.
    unsafe fn splat_pair(p: *const u8) -> Self::Pairs;
    /// Each pair's bits that `mask` has.
    unsafe fn mask_pairs(pairs: Self::Pairs, mask: u32) -> Self::Pairs;
    unsafe fn store(self, p: *mut f32);
    /// Writes what [`round_to_bf16`] makes of each number.
    #[inline(always)]
    unsafe fn store_bf16(self, p: *mut [u8; 2]) {
        let mut numbers = [0.0; LANES];
        // SAFETY: the caller's contract is the callee's.
        unsafe {
            self.store(numbers.as_mut_ptr());
            let rounded = numbers.map(|x| round_to_bf16(x).to_le_bytes());
            p.cast::<[[u8; 2]; LANES]>().write_unaligned(rounded);
        }
    }
    unsafe fn mul(self, other: Self) -> Self;
    /// `self + a * b`, rounded once.
    unsafe fn fma(self, a: Self, b: Self) -> Self;
    /// The sum as a tree: lane i with i + 8, then i + 4, i + 2, i + 1.
    unsafe fn sum(self) -> f32;
    /// [`Lanes::sum`] of each.
    #[inline(always)]
    unsafe fn sums(of: [Self; 4]) -> [f32; 4] {
        // SAFETY: the caller's contract is the callee's.
        of.map(|it| unsafe { it.sum() })
    }
    /// The larger of each two numbers; any, if one is NaN.
    unsafe fn max(self, other: Self) -> Self;
    /// The largest number; any, if one is NaN.
    unsafe fn largest(self) -> f32;
    /// The larger of each number and the other's magnitude; the number, if the
    /// other is NaN.
    unsafe fn or_magnitude(self, other: Self) -> Self;
    /// Writes what [`round`](crate::cpu::math::round) makes of each number as bytes.
    unsafe fn store_rounded(self, p: *mut i8);
    /// Asks for a cache line, which need not be in memory that exists, in the
    /// second-level cache: the first can wait for fewer at a time.
    unsafe fn prefetch(p: *const u8);
}

/// How numbers in memory become lanes.
pub(super) trait Element {
    /// Bytes of a number.
    const SIZE: usize;

    /// # Safety
    /// As [`Lanes`]; `p` is valid for [`LANES`] numbers.
    unsafe fn load<L: Lanes>(p: *const u8) -> L;

    /// As [`Element::load`], of `count < LANES` numbers; the rest are zeros.
    ///
    /// # Safety
    /// As [`Lanes`]; `p` is valid for `count` numbers.
    #[inline(always)]
    unsafe fn load_partial<L: Lanes>(p: *const u8, count: usize) -> L {
        let mut padded = [0u8; LANES * 4];
        // SAFETY: `count` numbers are readable and fit, as they are fewer than
        // LANES of at most 4 bytes.
        unsafe {
            std::ptr::copy_nonoverlapping(p, padded.as_mut_ptr(), count * Self::SIZE);
            Self::load(padded.as_ptr())
        }
    }
}

pub(super) struct F32;
pub(super) struct Bf16;
pub(super) struct F16;
/// E4M3, divided by 256.
pub(super) struct F8;
/// Signed bytes.
pub(super) struct I8;

/// How a vector of activations and one of weights become terms of sums.
pub(super) trait Terms {
    /// Bytes of an activation.
    const X_SIZE: usize;
    /// Bytes of a weight.
    const W_SIZE: usize;
    /// Numbers in a vector.
    const STEP: usize;
    type X<L: Lanes>: Copy;
    type W<L: Lanes>: Copy;

    /// What a register holds before it is loaded.
    ///
    /// # Safety
    /// As [`Lanes`], here and below; pointers are valid for `STEP` numbers.
    unsafe fn no_weights<L: Lanes>() -> Self::W<L>;
    unsafe fn load_x<L: Lanes>(p: *const u8) -> Self::X<L>;
    unsafe fn load_w<L: Lanes>(p: *const u8) -> Self::W<L>;
    unsafe fn add<L: Lanes>(sum: L, x: Self::X<L>, w: Self::W<L>) -> L;
}

/// f32 activations, and weights that are widened to f32.
pub(super) struct Widened<E>(std::marker::PhantomData<E>);

/// Both in bf16.
pub(super) struct Bf16Pairs;

// SAFETY (both): the callee's contract is the caller's.
impl<E: Element> Terms for Widened<E> {
    const X_SIZE: usize = F32::SIZE;
    const W_SIZE: usize = E::SIZE;
    const STEP: usize = LANES;
    type X<L: Lanes> = L;
    type W<L: Lanes> = L;

    #[inline(always)]
    unsafe fn no_weights<L: Lanes>() -> L {
        unsafe { L::splat(0.0) }
    }

    #[inline(always)]
    unsafe fn load_x<L: Lanes>(p: *const u8) -> L {
        unsafe { L::load_f32(p) }
    }

    #[inline(always)]
    unsafe fn load_w<L: Lanes>(p: *const u8) -> L {
        unsafe { E::load(p) }
    }

    #[inline(always)]
    unsafe fn add<L: Lanes>(sum: L, x: L, w: L) -> L {
        unsafe { sum.fma(x, w) }
    }
}

impl Terms for Bf16Pairs {
    const X_SIZE: usize = Bf16::SIZE;
    const W_SIZE: usize = Bf16::SIZE;
    const STEP: usize = 2 * LANES;
    type X<L: Lanes> = L::Pairs;
    type W<L: Lanes> = L::Pairs;

    #[inline(always)]
    unsafe fn no_weights<L: Lanes>() -> L::Pairs {
        unsafe { L::no_pairs() }
    }

    #[inline(always)]
    unsafe fn load_x<L: Lanes>(p: *const u8) -> L::Pairs {
        unsafe { L::load_pairs(p) }
    }

    #[inline(always)]
    unsafe fn load_w<L: Lanes>(p: *const u8) -> L::Pairs {
        unsafe { L::load_pairs(p) }
    }

    #[inline(always)]
    unsafe fn add<L: Lanes>(sum: L, x: L::Pairs, w: L::Pairs) -> L {
        unsafe { sum.dot_pairs(x, w) }
    }
}

// SAFETY (all of them): the callee's contract is the caller's.
impl Element for F32 {
    const SIZE: usize = 4;
    #[inline(always)]
    unsafe fn load<L: Lanes>(p: *const u8) -> L {
        unsafe { L::load_f32(p) }
    }
}

impl Element for Bf16 {
    const SIZE: usize = 2;
    #[inline(always)]
    unsafe fn load<L: Lanes>(p: *const u8) -> L {
        unsafe { L::load_bf16(p) }
    }
}

impl Element for F16 {
    const SIZE: usize = 2;
    #[inline(always)]
    unsafe fn load<L: Lanes>(p: *const u8) -> L {
        unsafe { L::load_f16(p) }
    }
}

impl Element for F8 {
    const SIZE: usize = 1;
    #[inline(always)]
    unsafe fn load<L: Lanes>(p: *const u8) -> L {
        unsafe { L::load_f8(p) }
    }
}

impl Element for I8 {
    const SIZE: usize = 1;
    #[inline(always)]
    unsafe fn load<L: Lanes>(p: *const u8) -> L {
        unsafe { L::load_i8(p) }
    }
}
