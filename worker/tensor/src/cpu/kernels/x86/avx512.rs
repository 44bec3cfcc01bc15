//! Lanes in one vector.
//!
//! SAFETY (of every body here): as in [`x86`](super).

use std::arch::x86_64::*;

use super::{f8_as_f16, largest_8, sum_8};
use crate::cpu::kernels::lanes::Lanes;
use crate::cpu::math::ROUND;

/// With or without dot products of bf16.
#[derive(Clone, Copy)]
pub(in crate::cpu::kernels) struct Avx512<const BF16: bool = false>(
    pub(in crate::cpu::kernels) __m512,
);

impl<const BF16: bool> Lanes for Avx512<BF16> {
    type Pairs = __m512i;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        unsafe { Avx512(_mm512_set1_ps(value)) }
    }

    #[inline(always)]
    unsafe fn load_f32(p: *const u8) -> Self {
        unsafe { Avx512(_mm512_loadu_ps(p.cast())) }
    }

    #[inline(always)]
    unsafe fn load_bf16(p: *const u8) -> Self {
        unsafe {
            let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(p.cast()));
            Avx512(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide)))
        }
    }

    #[inline(always)]
    unsafe fn load_f16(p: *const u8) -> Self {
        unsafe { Avx512(_mm512_cvtph_ps(_mm256_loadu_si256(p.cast()))) }
    }

    #[inline(always)]
    unsafe fn load_f8(p: *const u8) -> Self {
        unsafe { Avx512(_mm512_cvtph_ps(f8_as_f16(p))) }
    }

    #[inline(always)]
    unsafe fn load_i8(p: *const u8) -> Self {
        unsafe {
            let wide = _mm512_cvtepi8_epi32(_mm_loadu_si128(p.cast()));
            Avx512(_mm512_cvtepi32_ps(wide))
        }
    }

    #[inline(always)]
    unsafe fn load_pairs(p: *const u8) -> __m512i {
        unsafe { _mm512_loadu_si512(p.cast()) }
    }

    #[inline(always)]
    unsafe fn dot_pairs(self, a: __m512i, b: __m512i) -> Self {
        unsafe {
            if BF16 {
                let pairs = |v| std::mem::transmute::<__m512i, __m512bh>(v);
                return Avx512(_mm512_dpbf16_ps(self.0, pairs(a), pairs(b)));
            }
            let upper = |v| {
                let mask = _mm512_set1_epi32(0xffff_0000_u32 as i32);
                _mm512_castsi512_ps(_mm512_and_si512(v, mask))
            };
            let lower = |v| _mm512_castsi512_ps(_mm512_slli_epi32::<16>(v));
            let sum = _mm512_fmadd_ps(upper(a), upper(b), self.0);
            Avx512(_mm512_fmadd_ps(lower(a), lower(b), sum))
        }
    }

    #[inline(always)]
    unsafe fn splat_pair(p: *const u8) -> __m512i {
        unsafe { _mm512_set1_epi32(p.cast::<i32>().read_unaligned()) }
    }

    #[inline(always)]
    unsafe fn mask_pairs(pairs: __m512i, mask: u32) -> __m512i {
        unsafe { _mm512_and_si512(pairs, _mm512_set1_epi32(mask as i32)) }
    }

    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        unsafe { _mm512_storeu_ps(p, self.0) }
    }

    #[inline(always)]
    unsafe fn store_bf16(self, p: *mut [u8; 2]) {
        unsafe {
            let rounded = if BF16 {
                std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(self.0))
            } else {
                round_to_bf16(self.0)
            };
            _mm256_storeu_si256(p.cast(), rounded);
        }
    }

    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        unsafe { Avx512(_mm512_mul_ps(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn fma(self, a: Self, b: Self) -> Self {
        unsafe { Avx512(_mm512_fmadd_ps(a.0, b.0, self.0)) }
    }

    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        unsafe {
            let low = _mm512_castps512_ps256(self.0);
            let high = _mm512_extractf32x8_ps::<1>(self.0);
            sum_8(_mm256_add_ps(low, high))
        }
    }

    #[inline(always)]
    unsafe fn sums(of: [Self; 4]) -> [f32; 4] {
        unsafe {
            let [a, b, c, d] = of.map(|it| it.0);
            // Lanes i and i + 8: of two vectors in each, then i and i + 4 of
            // all four, a quarter each.
            let halves = |v, w| {
                let low = _mm512_shuffle_f32x4::<0b0100_0100>(v, w);
                _mm512_add_ps(low, _mm512_shuffle_f32x4::<0b1110_1110>(v, w))
            };
            let (ab, cd) = (halves(a, b), halves(c, d));
            let even = _mm512_shuffle_f32x4::<0b1000_1000>(ab, cd);
            let v = _mm512_add_ps(even, _mm512_shuffle_f32x4::<0b1101_1101>(ab, cd));
            let v = _mm512_add_ps(v, _mm512_shuffle_ps::<0b0100_1110>(v, v));
            let v = _mm512_add_ps(v, _mm512_shuffle_ps::<0b1011_0001>(v, v));
            // Each quarter's first.
            let firsts = _mm512_setr_epi32(0, 4, 8, 12, 0, 4, 8, 12, 0, 4, 8, 12, 0, 4, 8, 12);
            let found = _mm512_castps512_ps128(_mm512_permutexvar_ps(firsts, v));
            let mut sums = [0.0; 4];
            _mm_storeu_ps(sums.as_mut_ptr(), found);
            sums
        }
    }

    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        unsafe { Avx512(_mm512_max_ps(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn largest(self) -> f32 {
        unsafe {
            let low = _mm512_castps512_ps256(self.0);
            let high = _mm512_extractf32x8_ps::<1>(self.0);
            largest_8(_mm256_max_ps(low, high))
        }
    }

    #[inline(always)]
    unsafe fn or_magnitude(self, other: Self) -> Self {
        // A maximum is its second operand where one is NaN.
        unsafe { Avx512(_mm512_max_ps(_mm512_abs_ps(other.0), self.0)) }
    }

    #[inline(always)]
    unsafe fn store_rounded(self, p: *mut i8) {
        unsafe {
            // As of a maximum: NaN stays NaN.
            let x = _mm512_min_ps(_mm512_set1_ps(127.0), self.0);
            let x = _mm512_max_ps(_mm512_set1_ps(-127.0), x);
            let sum = _mm512_castps_si512(_mm512_add_ps(x, _mm512_set1_ps(ROUND)));
            let left = _mm512_sub_epi32(sum, _mm512_set1_epi32(ROUND.to_bits() as i32));
            _mm_storeu_si128(p.cast(), _mm512_cvtepi32_epi8(left));
        }
    }

    #[inline(always)]
    unsafe fn prefetch(p: *const u8) {
        unsafe { _mm_prefetch::<_MM_HINT_T1>(p.cast()) }
    }
}

/// To nearest, ties to even; what is smaller than a normal number becomes zero.
#[inline(always)]
unsafe fn round_to_bf16(v: __m512) -> __m256i {
    unsafe {
        let bits = _mm512_castps_si512(v);
        let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
        let up = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff));
        let rounded = _mm512_srli_epi32::<16>(_mm512_add_epi32(bits, up));
        let magnitude = _mm512_and_si512(bits, _mm512_set1_epi32(0x7fff_ffff));
        let normal = _mm512_cmpge_epi32_mask(magnitude, _mm512_set1_epi32(0x0080_0000));
        let nan = _mm512_cmpgt_epi32_mask(magnitude, _mm512_set1_epi32(0x7f80_0000));
        let rounded = _mm512_maskz_mov_epi32(normal, rounded);
        let rounded = _mm512_mask_mov_epi32(rounded, nan, _mm512_set1_epi32(0x7fc0));
        _mm512_cvtepi32_epi16(rounded)
    }
}
