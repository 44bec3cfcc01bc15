//! Eight tiles of up to 16 rows of 64 bytes.
//!
//! Tiles 0 to 3 hold sums, 16 rows of 16; 4 and 5 activations, a row a token; 6
//! and 7 weights, in lines of 4 bytes of each of 16 rows.

use std::arch::asm;

/// What tiles 4 to 7 hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cpu) struct Shape {
    /// Bytes of a row of activations; weights have a quarter as many lines.
    pub(super) bytes: u8,
}

impl Shape {
    /// Blocks of 32 bytes.
    pub(in crate::cpu) const BYTES: Shape = Shape { bytes: 32 };
    /// 32 numbers.
    pub(in crate::cpu) const BF16: Shape = Shape { bytes: 64 };
    /// All that a tile can hold.
    pub(super) const WHOLE: Shape = Shape { bytes: 64 };
}

/// # Safety
/// Callers run only where tiles are available, configure them first in the
/// thread, load and store memory of the shape that is configured, and release
/// them last.
pub(in crate::cpu) trait Tiles {
    unsafe fn configure(shape: Shape);
    unsafe fn release();
    unsafe fn zero<const T: usize>();
    /// Rows lie `stride` bytes apart.
    unsafe fn load<const T: usize>(p: *const u8, stride: usize);
    unsafe fn store<const T: usize>(p: *mut u8, stride: usize);
    /// `C += A B`, signed bytes and unsigned ones, in i32.
    unsafe fn dot_bytes<const C: usize, const A: usize, const B: usize>();
    /// `C += A B`, in f32.
    unsafe fn dot_bf16<const C: usize, const A: usize, const B: usize>();
}

/// The processor's own.
pub(in crate::cpu) struct Hardware;

/// The layout of a configuration in memory (Intel's manual, palette 1).
#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

// SAFETY (of each body): the caller's contract; tiles are no registers of the
// compiler's, which keeps such statements in order.
impl Tiles for Hardware {
    #[inline(always)]
    unsafe fn configure(shape: Shape) {
        let mut configuration = Configuration {
            palette: 1,
            start_row: 0,
            reserved: [0; 14],
            row_bytes: [0; 16],
            rows: [0; 16],
        };
        for tile in 0..8 {
            (configuration.row_bytes[tile], configuration.rows[tile]) = match tile {
                4 | 5 => (shape.bytes.into(), 16),
                6 | 7 => (64, shape.bytes / 4),
                _ => (64, 16),
            };
        }
        unsafe {
            asm!("ldtilecfg [{}]", in(reg) &configuration, options(nostack, preserves_flags));
        }
    }

    #[inline(always)]
    unsafe fn release() {
        unsafe { asm!("tilerelease", options(nostack, preserves_flags)) }
    }

    #[inline(always)]
    unsafe fn zero<const T: usize>() {
        unsafe { asm!("tilezero tmm{t}", t = const T, options(nostack, preserves_flags)) }
    }

    #[inline(always)]
    unsafe fn load<const T: usize>(p: *const u8, stride: usize) {
        unsafe {
            asm!(
                "tileloadd tmm{t}, [{p} + {stride}*1]",
                t = const T,
                p = in(reg) p,
                stride = in(reg) stride,
                options(nostack, preserves_flags),
            );
        }
    }

    #[inline(always)]
    unsafe fn store<const T: usize>(p: *mut u8, stride: usize) {
        unsafe {
            asm!(
                "tilestored [{p} + {stride}*1], tmm{t}",
                t = const T,
                p = in(reg) p,
                stride = in(reg) stride,
                options(nostack, preserves_flags),
            );
        }
    }

    #[inline(always)]
    unsafe fn dot_bytes<const C: usize, const A: usize, const B: usize>() {
        unsafe {
            asm!(
                "tdpbsud tmm{c}, tmm{a}, tmm{b}",
                c = const C, a = const A, b = const B,
                options(nostack, preserves_flags),
            );
        }
    }

    #[inline(always)]
    unsafe fn dot_bf16<const C: usize, const A: usize, const B: usize>() {
        unsafe {
            asm!(
                "tdpbf16ps tmm{c}, tmm{a}, tmm{b}",
                c = const C, a = const A, b = const B,
                options(nostack, preserves_flags),
            );
        }
    }
}
