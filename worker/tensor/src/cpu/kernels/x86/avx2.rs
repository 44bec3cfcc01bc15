//! Lanes in two vectors of eight.
//!
//! SAFETY (of every body here): as in [`x86`](super).

use std::arch::x86_64::*;

use super::{f8_as_f16, largest_8, sum_8};
use crate::cpu::kernels::lanes::Lanes;
use crate::cpu::math::ROUND;

#[derive(Clone, Copy)]
pub(in crate::cpu::kernels) struct Avx2(
    pub(in crate::cpu::kernels) __m256,
    pub(in crate::cpu::kernels) __m256,
);

impl Lanes for Avx2 {
    type Pairs = (__m256i, __m256i);

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        unsafe { Avx2(_mm256_set1_ps(value), _mm256_set1_ps(value)) }
    }

    #[inline(always)]
    unsafe fn load_f32(p: *const u8) -> Self {
        unsafe {
            let p = p.cast::<f32>();
            Avx2(_mm256_loadu_ps(p), _mm256_loadu_ps(p.add(8)))
        }
    }

    #[inline(always)]
    unsafe fn load_bf16(p: *const u8) -> Self {
        unsafe {
            let p = p.cast::<__m128i>();
            let low = _mm256_cvtepu16_epi32(_mm_loadu_si128(p));
            let high = _mm256_cvtepu16_epi32(_mm_loadu_si128(p.add(1)));
            Avx2(
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(low)),
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(high)),
            )
        }
    }

    #[inline(always)]
    unsafe fn load_f16(p: *const u8) -> Self {
        unsafe {
            let p = p.cast::<__m128i>();
            Avx2(
                _mm256_cvtph_ps(_mm_loadu_si128(p)),
                _mm256_cvtph_ps(_mm_loadu_si128(p.add(1))),
            )
        }
    }

    #[inline(always)]
    unsafe fn load_f8(p: *const u8) -> Self {
        unsafe {
            let wide = f8_as_f16(p);
            Avx2(
                _mm256_cvtph_ps(_mm256_castsi256_si128(wide)),
                _mm256_cvtph_ps(_mm256_extracti128_si256::<1>(wide)),
            )
        }
    }

    #[inline(always)]
    unsafe fn load_i8(p: *const u8) -> Self {
        unsafe {
            let wide = _mm_loadu_si128(p.cast());
            let low = _mm256_cvtepi8_epi32(wide);
            let high = _mm256_cvtepi8_epi32(_mm_unpackhi_epi64(wide, wide));
            Avx2(_mm256_cvtepi32_ps(low), _mm256_cvtepi32_ps(high))
        }
    }

    #[inline(always)]
    unsafe fn load_pairs(p: *const u8) -> Self::Pairs {
        unsafe {
            let p = p.cast::<__m256i>();
            (_mm256_loadu_si256(p), _mm256_loadu_si256(p.add(1)))
        }
    }

    #[inline(always)]
    unsafe fn dot_pairs(self, a: Self::Pairs, b: Self::Pairs) -> Self {
        unsafe {
            let upper = |v| {
                let mask = _mm256_set1_epi32(0xffff_0000_u32 as i32);
                _mm256_castsi256_ps(_mm256_and_si256(v, mask))
            };
            let lower = |v| _mm256_castsi256_ps(_mm256_slli_epi32::<16>(v));
            let add = |sum, a, b| {
                let sum = _mm256_fmadd_ps(upper(a), upper(b), sum);
                _mm256_fmadd_ps(lower(a), lower(b), sum)
            };
            Avx2(add(self.0, a.0, b.0), add(self.1, a.1, b.1))
        }
    }

    #[inline(always)]
    unsafe fn splat_pair(p: *const u8) -> Self::Pairs {
        unsafe {
            let pair = _mm256_set1_epi32(p.cast::<i32>().read_unaligned());
            (pair, pair)
        }
    }

    #[inline(always)]
    unsafe fn mask_pairs(pairs: Self::Pairs, mask: u32) -> Self::Pairs {
        unsafe {
            let mask = _mm256_set1_epi32(mask as i32);
            (
                _mm256_and_si256(pairs.0, mask),
                _mm256_and_si256(pairs.1, mask),
            )
        }
    }

    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        unsafe {
            _mm256_storeu_ps(p, self.0);
            _mm256_storeu_ps(p.add(8), self.1);
        }
    }

    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        unsafe {
            Avx2(
                _mm256_mul_ps(self.0, other.0),
                _mm256_mul_ps(self.1, other.1),
            )
        }
    }

    #[inline(always)]
    unsafe fn fma(self, a: Self, b: Self) -> Self {
        unsafe {
            Avx2(
                _mm256_fmadd_ps(a.0, b.0, self.0),
                _mm256_fmadd_ps(a.1, b.1, self.1),
            )
        }
    }

    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        unsafe { sum_8(_mm256_add_ps(self.0, self.1)) }
    }

    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        unsafe {
            let (a, b) = (self, other);
            Avx2(_mm256_max_ps(a.0, b.0), _mm256_max_ps(a.1, b.1))
        }
    }

    #[inline(always)]
    unsafe fn largest(self) -> f32 {
        unsafe { largest_8(_mm256_max_ps(self.0, self.1)) }
    }

    #[inline(always)]
    unsafe fn or_magnitude(self, other: Self) -> Self {
        unsafe {
            // A maximum is its second operand where one is NaN.
            let or = |a, b| _mm256_max_ps(_mm256_andnot_ps(_mm256_set1_ps(-0.0), b), a);
            Avx2(or(self.0, other.0), or(self.1, other.1))
        }
    }

    #[inline(always)]
    unsafe fn store_rounded(self, p: *mut i8) {
        unsafe {
            let rounded = |x| {
                // As of a maximum: NaN stays NaN.
                let x = _mm256_min_ps(_mm256_set1_ps(127.0), x);
                let x = _mm256_max_ps(_mm256_set1_ps(-127.0), x);
                let sum = _mm256_castps_si256(_mm256_add_ps(x, _mm256_set1_ps(ROUND)));
                // The lowest bytes of what is left when ROUND's bits are taken off.
                let bytes = _mm256_set1_epi64x(0x0c08_0400);
                _mm256_shuffle_epi8(
                    _mm256_sub_epi32(sum, _mm256_set1_epi32(ROUND.to_bits() as i32)),
                    bytes,
                )
            };
            let four = |v: __m256i| {
                let low = _mm_cvtsi128_si32(_mm256_castsi256_si128(v));
                [low, _mm_cvtsi128_si32(_mm256_extracti128_si256::<1>(v))]
            };
            let fours = [four(rounded(self.0)), four(rounded(self.1))];
            p.cast::<[[i32; 2]; 2]>().write_unaligned(fours);
        }
    }

    #[inline(always)]
    unsafe fn prefetch(p: *const u8) {
        unsafe { _mm_prefetch::<_MM_HINT_T1>(p.cast()) }
    }
}
