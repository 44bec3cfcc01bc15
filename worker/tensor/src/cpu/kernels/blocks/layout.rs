//! Packed layouts: sixteen rows of weights side by side.
//!
//! A block is 32 numbers of each of 16 rows, or 8 steps of 4 numbers. A line
//! has 64 bytes, those of a step: 4 neighbouring numbers of each row in turn.
//! Scales lie apart, in the order in which they are read.

use super::lines::Lines;
use crate::cpu::kernels::lanes::Lanes;

/// Rows in a group.
pub(in crate::cpu) const ROWS: usize = 16;
/// Steps in a block.
pub(super) const STEPS: usize = 8;
/// Bytes of scales of a block of all rows, in every layout.
const RUN: usize = 32;
/// Blocks that share second-order scales, where there are any.
const SUPER: usize = 8;

/// A cache line of weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
pub(in crate::cpu) struct Line(pub(in crate::cpu) [u8; 64]);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cpu) enum BlockLayout {
    /// 8 lines of bytes, plus 128; scales are f16.
    Q8,
    /// 4 lines: step i in the low, step i + 4 in the high halves of line i,
    /// plus 8; scales are f16.
    Q4,
    /// 4 lines as of Q4, plus nothing; each block has a byte as scale and one
    /// as minimum, and each 8 blocks, before those, f16 scales of both.
    Q4K,
    /// 4 lines as of Q4, and 2 lines with the upper 2 bits, of which line i has
    /// step 4 i in the lowest bits; plus 32. Half a block has a signed byte as
    /// scale, and each 8 blocks, before those, an f16 scale of these.
    Q6K,
}

impl BlockLayout {
    /// Lines of a block.
    pub(in crate::cpu) fn lines(self) -> usize {
        match self {
            BlockLayout::Q8 => Q8::LINES,
            BlockLayout::Q4 => Q4::LINES,
            BlockLayout::Q4K => Q4K::LINES,
            BlockLayout::Q6K => Q6K::LINES,
        }
    }

    /// Bytes of scales before those of each [`SUPER`] blocks.
    fn head(self) -> usize {
        match self {
            BlockLayout::Q8 | BlockLayout::Q4 => 0,
            BlockLayout::Q4K => Q4K::HEAD,
            BlockLayout::Q6K => Q6K::HEAD,
        }
    }

    /// Parts of a block that have scales of their own.
    pub(in crate::cpu) fn starts(self) -> usize {
        if self == BlockLayout::Q6K { 2 } else { 1 }
    }

    /// Bytes of scales of a group of rows with so many blocks.
    pub(in crate::cpu) fn scale_bytes(self, blocks: usize) -> usize {
        blocks * RUN + blocks / SUPER * self.head()
    }

    /// Where the scales of a block lie among those of its group.
    pub(in crate::cpu) fn scale_at(self, block: usize) -> usize {
        block * RUN + (block / SUPER + 1) * self.head()
    }

    /// Where the second-order scales of a block lie among those of its group.
    pub(in crate::cpu) fn head_at(self, block: usize) -> usize {
        block / SUPER * (SUPER * RUN + self.head())
    }
}

/// What the kernel must know of a layout.
///
/// # Safety
/// As for [`Lines`]; pointers are to a block's lines, to the scales of its
/// eight, and to its own.
pub(super) trait Quants {
    const LAYOUT: BlockLayout;
    const LINES: usize;
    /// Whether a block's numbers have a minimum, which is subtracted.
    const MINIMA: bool = false;
    /// Parts with scales of their own.
    const PARTS: usize = 1;

    /// The weights of a step.
    unsafe fn step<L: Lines>(lines: *const Line, step: usize) -> L::Bytes;

    /// Adds the products of the weights of a step with 4 activations.
    #[inline(always)]
    unsafe fn dot<L: Lines>(sum: L::Ints, weights: L::Bytes, x: *const i8) -> L::Ints {
        unsafe { L::dot(sum, weights, x) }
    }

    unsafe fn scale<L: Lines>(head: *const u8, run: *const u8, part: usize) -> L::Floats;

    #[inline(always)]
    unsafe fn minimum<L: Lines>(_head: *const u8, _run: *const u8) -> L::Floats {
        unsafe { L::Floats::splat(0.0) }
    }
}

pub(super) struct Q8;
pub(super) struct Q4;
pub(super) struct Q4K;
pub(super) struct Q6K;

impl Q4K {
    const HEAD: usize = 64;
}

impl Q6K {
    const HEAD: usize = 32;
}

// SAFETY (of every body): the caller's contract, and layouts as they are said
// above.
impl Quants for Q8 {
    const LAYOUT: BlockLayout = BlockLayout::Q8;
    const LINES: usize = 8;

    #[inline(always)]
    unsafe fn step<L: Lines>(lines: *const Line, step: usize) -> L::Bytes {
        unsafe { L::load(lines.add(step)) }
    }

    #[inline(always)]
    unsafe fn dot<L: Lines>(sum: L::Ints, weights: L::Bytes, x: *const i8) -> L::Ints {
        unsafe { L::dot_wide(sum, weights, x) }
    }

    #[inline(always)]
    unsafe fn scale<L: Lines>(_head: *const u8, run: *const u8, _part: usize) -> L::Floats {
        unsafe { L::Floats::load_f16(run) }
    }
}

#[inline(always)]
unsafe fn nibbles<L: Lines>(lines: *const Line, step: usize) -> L::Bytes {
    unsafe {
        if step < 4 {
            L::low(L::load(lines.add(step)))
        } else {
            L::high(L::load(lines.add(step - 4)))
        }
    }
}

impl Quants for Q4 {
    const LAYOUT: BlockLayout = BlockLayout::Q4;
    const LINES: usize = 4;

    #[inline(always)]
    unsafe fn step<L: Lines>(lines: *const Line, step: usize) -> L::Bytes {
        unsafe { nibbles::<L>(lines, step) }
    }

    #[inline(always)]
    unsafe fn scale<L: Lines>(_head: *const u8, run: *const u8, _part: usize) -> L::Floats {
        unsafe { L::Floats::load_f16(run) }
    }
}

impl Quants for Q4K {
    const LAYOUT: BlockLayout = BlockLayout::Q4K;
    const LINES: usize = 4;
    const MINIMA: bool = true;

    #[inline(always)]
    unsafe fn step<L: Lines>(lines: *const Line, step: usize) -> L::Bytes {
        unsafe { nibbles::<L>(lines, step) }
    }

    /// Exact: 11 bits times 6.
    #[inline(always)]
    unsafe fn scale<L: Lines>(head: *const u8, run: *const u8, _part: usize) -> L::Floats {
        unsafe { L::Floats::load_f16(head).mul(L::load_u8(run)) }
    }

    #[inline(always)]
    unsafe fn minimum<L: Lines>(head: *const u8, run: *const u8) -> L::Floats {
        unsafe { L::Floats::load_f16(head.add(32)).mul(L::load_u8(run.add(16))) }
    }
}

impl Quants for Q6K {
    const LAYOUT: BlockLayout = BlockLayout::Q6K;
    const LINES: usize = 6;
    const PARTS: usize = 2;

    #[inline(always)]
    unsafe fn step<L: Lines>(lines: *const Line, step: usize) -> L::Bytes {
        unsafe {
            let high = L::load(lines.add(4 + step / 4));
            L::with_upper(nibbles::<L>(lines, step), high, step % 4)
        }
    }

    /// Exact: 11 bits times 7.
    #[inline(always)]
    unsafe fn scale<L: Lines>(head: *const u8, run: *const u8, part: usize) -> L::Floats {
        unsafe { L::Floats::load_f16(head).mul(L::load_i8(run.add(16 * part))) }
    }
}
