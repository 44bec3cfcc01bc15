//! Lanes in portable code, the oracle of the others.

use half::{bf16, f16};

use super::lanes::{LANES, Lanes};
use crate::cpu::math::round;
use crate::encoding::f8_to_f32;

#[derive(Clone, Copy)]
pub(super) struct Portable([f32; LANES]);

impl Portable {
    // SAFETY: `p` is valid for LANES numbers of N bytes; arrays of bytes need no
    // alignment.
    #[inline(always)]
    unsafe fn load_with<const N: usize>(p: *const u8, decode: fn([u8; N]) -> f32) -> Portable {
        let mut lanes = [0.0; LANES];
        for (i, lane) in lanes.iter_mut().enumerate() {
            *lane = decode(unsafe { *p.add(i * N).cast::<[u8; N]>() });
        }
        Portable(lanes)
    }
}

// SAFETY (of each body): needs no instruction set; pointers are the caller's
// contract.
impl Lanes for Portable {
    type Pairs = [[bf16; 2]; LANES];

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        Portable([value; LANES])
    }

    #[inline(always)]
    unsafe fn load_f32(p: *const u8) -> Self {
        unsafe { Portable::load_with(p, f32::from_le_bytes) }
    }

    #[inline(always)]
    unsafe fn load_bf16(p: *const u8) -> Self {
        unsafe { Portable::load_with(p, |b| bf16::from_le_bytes(b).to_f32()) }
    }

    #[inline(always)]
    unsafe fn load_f16(p: *const u8) -> Self {
        unsafe { Portable::load_with(p, |b| f16::from_le_bytes(b).to_f32()) }
    }

    #[inline(always)]
    unsafe fn load_f8(p: *const u8) -> Self {
        // Exact: E4M3 has no numbers near f32's smallest.
        unsafe { Portable::load_with(p, |[b]| f8_to_f32(b) / 256.0) }
    }

    #[inline(always)]
    unsafe fn load_i8(p: *const u8) -> Self {
        unsafe { Portable::load_with(p, |b| f32::from(i8::from_le_bytes(b))) }
    }

    #[inline(always)]
    unsafe fn load_pairs(p: *const u8) -> Self::Pairs {
        let mut pairs = [[bf16::ZERO; 2]; LANES];
        for (i, number) in pairs.as_flattened_mut().iter_mut().enumerate() {
            *number = bf16::from_le_bytes(unsafe { *p.add(2 * i).cast::<[u8; 2]>() });
        }
        pairs
    }

    #[inline(always)]
    unsafe fn dot_pairs(mut self, a: Self::Pairs, b: Self::Pairs) -> Self {
        for i in 0..LANES {
            for half in [1, 0] {
                self.0[i] = a[i][half].to_f32().mul_add(b[i][half].to_f32(), self.0[i]);
            }
        }
        self
    }

    #[inline(always)]
    unsafe fn splat_pair(p: *const u8) -> Self::Pairs {
        let pair = unsafe { p.cast::<[[u8; 2]; 2]>().read_unaligned() };
        [pair.map(bf16::from_le_bytes); LANES]
    }

    #[inline(always)]
    unsafe fn mask_pairs(pairs: Self::Pairs, mask: u32) -> Self::Pairs {
        let kept = |number: bf16, mask: u32| bf16::from_bits(number.to_bits() & mask as u16);
        pairs.map(|[first, second]| [kept(first, mask), kept(second, mask >> 16)])
    }

    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        unsafe { p.cast::<[f32; LANES]>().write_unaligned(self.0) }
    }

    #[inline(always)]
    unsafe fn mul(mut self, other: Self) -> Self {
        for i in 0..LANES {
            self.0[i] *= other.0[i];
        }
        self
    }

    #[inline(always)]
    unsafe fn fma(mut self, a: Self, b: Self) -> Self {
        for i in 0..LANES {
            self.0[i] = a.0[i].mul_add(b.0[i], self.0[i]);
        }
        self
    }

    #[inline(always)]
    unsafe fn sum(mut self) -> f32 {
        for half in [8, 4, 2, 1] {
            for i in 0..half {
                self.0[i] += self.0[i + half];
            }
        }
        self.0[0]
    }

    #[inline(always)]
    unsafe fn max(mut self, other: Self) -> Self {
        for i in 0..LANES {
            self.0[i] = self.0[i].max(other.0[i]);
        }
        self
    }

    #[inline(always)]
    unsafe fn largest(self) -> f32 {
        self.0.into_iter().fold(f32::NEG_INFINITY, f32::max)
    }

    #[inline(always)]
    unsafe fn or_magnitude(mut self, other: Self) -> Self {
        for i in 0..LANES {
            self.0[i] = self.0[i].max(other.0[i].abs());
        }
        self
    }

    #[inline(always)]
    unsafe fn store_rounded(self, p: *mut i8) {
        let bytes = self.0.map(|x| round(x) as i8);
        unsafe { p.cast::<[i8; LANES]>().write_unaligned(bytes) }
    }

    #[inline(always)]
    unsafe fn prefetch(_: *const u8) {}
}
