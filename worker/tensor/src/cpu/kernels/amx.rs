//! Tiles: which processors and kernels of Linux have them, and the products of
//! bf16 that are computed with them.
//!
//! A product of bf16 adds 32 numbers at a time, even and odd ones apart, and is
//! computed so for a single token too: its bits are its own, but as independent
//! of the batch as all others.

mod floats;
pub(super) mod peak;
#[cfg(test)]
mod tests;
pub(super) mod tiles;

use std::arch::x86_64::__cpuid_count;
use std::sync::OnceLock;

pub(in crate::cpu) use floats::{Bf16Weights, LINES, STEP, TOKENS};
#[cfg(test)]
pub(in crate::cpu) use tests::Software;

use half::bf16;

use super::columns::ColumnsMut;
use super::peaks::Numbers;
use tiles::{Hardware, Shape, Tiles};

/// The state of tiles, in the numbers that XCR0 and Linux give it.
const TILE_DATA: libc::c_ulong = 18;
const TILE_STATES: u64 = 1 << 17 | 1 << 18;
const REQUEST_PERMISSION: libc::c_ulong = 0x1023;
/// Leaf 7, EDX: bf16, tiles, bytes.
const FEATURES: u32 = 1 << 22 | 1 << 24 | 1 << 25;
/// Leaf 1, ECX: the operating system has said which states it keeps.
const OSXSAVE: u32 = 1 << 27;

/// Whether tiles are there, this process may use them, and they compute what
/// they are said to.
pub(in crate::cpu) fn is_available() -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| has_instructions() && is_permitted() && computes())
}

fn has_instructions() -> bool {
    let features = __cpuid_count(7, 0).edx;
    if __cpuid_count(1, 0).ecx & OSXSAVE == 0 || features & FEATURES != FEATURES {
        return false;
    }
    let (low, high): (u32, u32);
    // SAFETY: the system allows it, as OSXSAVE says.
    unsafe {
        std::arch::asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high, options(nomem, nostack));
    }
    (u64::from(high) << 32 | u64::from(low)) & TILE_STATES == TILE_STATES
}

/// Linux keeps a process' tiles only if asked to; threads inherit it.
#[cfg(target_os = "linux")]
fn is_permitted() -> bool {
    // SAFETY: changes only what is kept of this process' registers.
    unsafe { libc::syscall(libc::SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0 }
}

#[cfg(not(target_os = "linux"))]
fn is_permitted() -> bool {
    false
}

/// A product of bytes and one of bf16, against the sums they must be.
fn computes() -> bool {
    let a: [[i8; 32]; 16] = std::array::from_fn(|m| std::array::from_fn(|k| (m * 5 + k * 3) as i8));
    let b: [[u8; 64]; 8] =
        std::array::from_fn(|k| std::array::from_fn(|n| (k * 37 + n * 11) as u8));
    let ones = [[bf16::ONE; 32]; 16];
    let mut bytes = [[0i32; 16]; 16];
    let mut floats = [[0f32; 16]; 16];
    // SAFETY: the instructions are there and permitted; tiles are of the shape
    // that is configured.
    unsafe {
        Hardware::configure(Shape::BYTES);
        Hardware::zero::<0>();
        Hardware::load::<4>(a.as_ptr().cast(), 32);
        Hardware::load::<6>(b.as_ptr().cast(), 64);
        Hardware::dot_bytes::<0, 4, 6>();
        Hardware::store::<0>(bytes.as_mut_ptr().cast(), 64);
        Hardware::configure(Shape::BF16);
        Hardware::zero::<0>();
        Hardware::load::<4>(ones.as_ptr().cast(), 64);
        Hardware::load::<6>(ones.as_ptr().cast(), 64);
        Hardware::dot_bf16::<0, 4, 6>();
        Hardware::store::<0>(floats.as_mut_ptr().cast(), 64);
        Hardware::release();
    }
    let sum = |m: usize, n: usize| -> i32 {
        let term = |k: usize| i32::from(a[m][k]) * i32::from(b[k / 4][4 * n + k % 4]);
        (0..32).map(term).sum()
    };
    (0..16).all(|m| (0..16).all(|n| bytes[m][n] == sum(m, n) && floats[m][n] == 32.0))
}

/// Multiplies in tiles; see [`super::peaks`].
pub(super) fn multiply(numbers: Numbers, rounds: usize) -> f32 {
    // SAFETY: an Isa with tiles is only made where they are available.
    f32::from_bits(unsafe { peak::multiply::<Hardware>(numbers, rounds) })
}

/// `out = x w^T`, then scaled and shifted, of the columns that `op` begins with;
/// `x` is `[tokens, op.cols()]`, with zeros up to a multiple of sixteen tokens.
pub(super) fn product(op: &Bf16Weights<'_>, x: &[bf16], out: &mut ColumnsMut<'_>) {
    op.check(x, out);
    // SAFETY: an Isa with tiles is only made where they are available; shapes
    // were checked.
    unsafe { floats::product::<Hardware>(op, x, out) }
}
