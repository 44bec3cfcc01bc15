//! Products of quantised weights and quantised activations.
//!
//! Within a block both are small integers, whose dot product is exact in every
//! instruction set and any order. Only its scaling and the sum over blocks are
//! in floats, and those are the same multiplications and fused additions in the
//! order of blocks everywhere. So an output number depends on its row of
//! activations and its row of weights only, to the bit, whatever computes it.

mod layout;
mod lines;
mod product;
#[cfg(all(test, target_arch = "x86_64"))]
mod tests;
#[cfg(target_arch = "x86_64")]
mod tiled;
#[cfg(target_arch = "x86_64")]
mod x86;

pub(in crate::cpu) use layout::{BlockLayout, Line, ROWS};

#[cfg(target_arch = "x86_64")]
use super::amx::tiles::Hardware;
use super::columns::ColumnsMut;
use crate::cpu::isa::Isa;
use crate::cpu::matrix::activations::{Form, Quantized};
use layout::{Q4, Q4K, Q6K, Q8};
use lines::PortableLines;
use product::groups;

/// Tokens that fill enough of a tile to be worth it.
const LEAST_TOKENS: usize = 12;

/// Packed weights `[rows, cols]` and what their output numbers need.
#[derive(Clone, Copy)]
pub(in crate::cpu) struct BlockWeights<'a> {
    pub layout: BlockLayout,
    /// Blocks of 32 in a row.
    pub blocks: usize,
    /// `[groups of rows][blocks][lines of a block]`
    pub lines: &'a [Line],
    /// `[groups of rows][runs of scales]`
    pub scales: &'a [u8],
    /// `[rows]`
    pub row_scales: Option<&'a [f32]>,
    /// `[rows]`
    pub bias: Option<&'a [f32]>,
}

macro_rules! entry_point {
    ($(#[$attribute:meta])* $name:ident, $peak:ident, $lines:ty, $many:literal) => {
        $(#[$attribute])*
        unsafe fn $peak(rounds: usize) -> f32 {
            // SAFETY: the caller's contract is the callee's.
            unsafe { product::multiply::<$lines>(rounds) }
        }

        $(#[$attribute])*
        unsafe fn $name(op: &BlockWeights<'_>, x: &Quantized, out: &mut ColumnsMut<'_>) {
            // SAFETY: the caller's contract is the callee's.
            unsafe {
                match op.layout {
                    BlockLayout::Q8 => groups::<$lines, Q8, $many>(op, x, out),
                    BlockLayout::Q4 => groups::<$lines, Q4, $many>(op, x, out),
                    BlockLayout::Q4K => groups::<$lines, Q4K, $many>(op, x, out),
                    BlockLayout::Q6K => groups::<$lines, Q6K, $many>(op, x, out),
                }
            }
        }
    };
}

entry_point!(blocks_portable, peak_portable, PortableLines, 2);
#[cfg(target_arch = "x86_64")]
entry_point!(
    #[target_feature(enable = "avx2,fma,f16c")]
    blocks_avx2,
    peak_avx2,
    x86::Avx2Lines,
    2
);
#[cfg(target_arch = "x86_64")]
entry_point!(
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    blocks_avx512,
    peak_avx512,
    x86::Avx512Lines<false>,
    8
);
#[cfg(target_arch = "x86_64")]
entry_point!(
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    blocks_vnni,
    peak_vnni,
    x86::Avx512Lines<true>,
    8
);

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn blocks_amx(op: &BlockWeights<'_>, x: &Quantized, out: &mut ColumnsMut<'_>) {
    type Vnni = x86::Avx512Lines<true>;
    // SAFETY: the caller's contract is the callee's.
    unsafe {
        match op.layout {
            BlockLayout::Q8 => tiled::groups::<Hardware, Vnni, Q8>(op, x, out),
            BlockLayout::Q4 => tiled::groups::<Hardware, Vnni, Q4>(op, x, out),
            BlockLayout::Q4K => tiled::groups::<Hardware, Vnni, Q4K>(op, x, out),
            BlockLayout::Q6K => groups::<Vnni, Q6K, 8>(op, x, out),
        }
    }
}

/// How so many tokens' activations that meet `layout` are quantised.
pub(in crate::cpu) fn form(isa: Isa, layout: BlockLayout, tokens: usize) -> Form {
    // Halves of blocks with scales of their own are too small for tiles.
    let tiles = isa == Isa::Amx && tokens >= LEAST_TOKENS && layout.starts() == 1;
    Form {
        together: match isa {
            Isa::Portable | Isa::Avx2 => 2,
            _ if tiles => 16,
            _ => 8,
        },
        rows: tiles,
        offset: match (layout, isa) {
            // These take bytes minus 128.
            (BlockLayout::Q8, Isa::Portable | Isa::Avx2 | Isa::Avx512) => 0,
            (BlockLayout::Q8, _) => -128,
            (BlockLayout::Q4, _) => -8,
            (BlockLayout::Q4K, _) => 0,
            (BlockLayout::Q6K, _) => -32,
        },
        starts: layout.starts(),
    }
}

/// Computes the output's groups of rows, whose weights `op` begins with.
pub(super) fn product(isa: Isa, op: &BlockWeights<'_>, x: &Quantized, out: &mut ColumnsMut<'_>) {
    let groups = out.width().div_ceil(ROWS);
    assert!(x.blocks() == op.blocks && x.tokens() == out.rows());
    assert!(x.form() == form(isa, op.layout, out.rows()));
    assert!(op.lines.len() >= groups * op.blocks * op.layout.lines());
    assert!(op.scales.len() >= groups * op.layout.scale_bytes(op.blocks));
    assert!(
        op.row_scales
            .is_none_or(|scales| scales.len() >= out.width())
    );
    assert!(op.bias.is_none_or(|bias| bias.len() >= out.width()));
    // SAFETY: an Isa is only made where it is available; shapes as asserted.
    unsafe {
        match isa {
            Isa::Portable => blocks_portable(op, x, out),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => blocks_avx2(op, x, out),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => blocks_avx512(op, x, out),
            #[cfg(target_arch = "x86_64")]
            Isa::Amx if x.form().rows => blocks_amx(op, x, out),
            #[cfg(target_arch = "x86_64")]
            _ => blocks_vnni(op, x, out),
            #[cfg(not(target_arch = "x86_64"))]
            _ => blocks_portable(op, x, out),
        }
    }
}

/// Multiplies bytes in registers; see [`super::peaks`].
pub(super) fn multiply(isa: Isa, rounds: usize) -> f32 {
    // SAFETY: an Isa in a Kernels is there; nothing is read.
    unsafe {
        match isa {
            Isa::Portable => peak_portable(rounds),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => peak_avx2(rounds),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => peak_avx512(rounds),
            #[cfg(target_arch = "x86_64")]
            _ => peak_vnni(rounds),
            #[cfg(not(target_arch = "x86_64"))]
            _ => peak_portable(rounds),
        }
    }
}
