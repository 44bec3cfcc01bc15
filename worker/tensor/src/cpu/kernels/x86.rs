//! Lanes in AVX2 (with FMA and F16C) and AVX-512.
//!
//! SAFETY (of every body here): the instruction set exists and pointers are
//! valid by the contract of [`Lanes`]; every load and store is an unaligned one.

mod avx2;
mod avx512;

use std::arch::x86_64::*;

pub(super) use avx2::Avx2;
pub(super) use avx512::Avx512;

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
