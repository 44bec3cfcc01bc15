//! Lanes in AVX2 (with FMA and F16C) and AVX-512.
//!
//! SAFETY (of every body here): the instruction set exists and pointers are
//! valid by the contract of [`Lanes`]; every load and store is an unaligned one.

use std::arch::x86_64::*;

use super::lanes::Lanes;
use crate::cpu::math::ROUND;

#[inline(always)]
unsafe fn sum_8(v: __m256) -> f32 {
    unsafe {
        let v = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
        let v = _mm_add_ps(v, _mm_movehl_ps(v, v));
        _mm_cvtss_f32(_mm_add_ss(v, _mm_shuffle_ps::<1>(v, v)))
    }
}

#[inline(always)]
unsafe fn largest_8(v: __m256) -> f32 {
    unsafe {
        let v = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
        let v = _mm_max_ps(v, _mm_movehl_ps(v, v));
        _mm_cvtss_f32(_mm_max_ss(v, _mm_shuffle_ps::<1>(v, v)))
    }
}

/// 16 bytes in E4M3 as f16, divided by 256: the bits but for the exponent's
/// bias.
#[inline(always)]
unsafe fn f8_as_f16(p: *const u8) -> __m256i {
    unsafe {
        let wide = _mm256_cvtepu8_epi16(_mm_loadu_si128(p.cast()));
        let sign = _mm256_and_si256(wide, _mm256_set1_epi16(0x80));
        let rest = _mm256_and_si256(wide, _mm256_set1_epi16(0x7f));
        _mm256_or_si256(_mm256_slli_epi16::<8>(sign), _mm256_slli_epi16::<7>(rest))
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

#[derive(Clone, Copy)]
pub(super) struct Avx2(pub(super) __m256, pub(super) __m256);

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

/// With or without dot products of bf16.
#[derive(Clone, Copy)]
pub(super) struct Avx512<const BF16: bool = false>(pub(super) __m512);

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
