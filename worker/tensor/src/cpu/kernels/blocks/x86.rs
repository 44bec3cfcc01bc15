//! Lines in AVX2, and in AVX-512 with and without dot products of bytes.
//!
//! SAFETY (of every body here): the instruction set exists and pointers are
//! valid by the contract of [`Lines`]; loads need no alignment but those of
//! lines, which are aligned.

use std::arch::x86_64::*;

use super::layout::Line;
use super::lines::Lines;
use crate::cpu::kernels::x86::{Avx2, Avx512};

pub(super) struct Avx2Lines;

impl Avx2Lines {
    #[inline(always)]
    unsafe fn both(
        (a, b): (__m256i, __m256i),
        f: impl Fn(__m256i) -> __m256i,
    ) -> (__m256i, __m256i) {
        (f(a), f(b))
    }
}

#[inline(always)]
unsafe fn four(x: *const i8) -> i32 {
    unsafe { x.cast::<i32>().read_unaligned() }
}

impl Lines for Avx2Lines {
    type Floats = Avx2;
    type Ints = (__m256i, __m256i);
    type Bytes = (__m256i, __m256i);

    #[inline(always)]
    unsafe fn load(line: *const Line) -> Self::Bytes {
        unsafe {
            let line = line.cast::<__m256i>();
            (_mm256_load_si256(line), _mm256_load_si256(line.add(1)))
        }
    }

    #[inline(always)]
    unsafe fn low(bytes: Self::Bytes) -> Self::Bytes {
        unsafe { Self::both(bytes, |b| _mm256_and_si256(b, _mm256_set1_epi8(15))) }
    }

    #[inline(always)]
    unsafe fn high(bytes: Self::Bytes) -> Self::Bytes {
        unsafe { Self::low(Self::both(bytes, |b| _mm256_srli_epi16::<4>(b))) }
    }

    #[inline(always)]
    unsafe fn with_upper(bytes: Self::Bytes, upper: Self::Bytes, pair: usize) -> Self::Bytes {
        unsafe {
            let shifted = match pair {
                0 => Self::both(upper, |b| _mm256_slli_epi16::<4>(b)),
                1 => Self::both(upper, |b| _mm256_slli_epi16::<2>(b)),
                2 => upper,
                _ => Self::both(upper, |b| _mm256_srli_epi16::<2>(b)),
            };
            let upper = Self::both(shifted, |b| _mm256_and_si256(b, _mm256_set1_epi8(0x30)));
            (
                _mm256_or_si256(bytes.0, upper.0),
                _mm256_or_si256(bytes.1, upper.1),
            )
        }
    }

    #[inline(always)]
    unsafe fn splat(value: i32) -> Self::Ints {
        unsafe { (_mm256_set1_epi32(value), _mm256_set1_epi32(value)) }
    }

    #[inline(always)]
    unsafe fn dot(sum: Self::Ints, weights: Self::Bytes, x: *const i8) -> Self::Ints {
        unsafe {
            let x = _mm256_set1_epi32(four(x));
            let ones = _mm256_set1_epi16(1);
            let add = |sum, weights| {
                // Pairs stay below 2^15, as weights are below 128.
                let pairs = _mm256_maddubs_epi16(weights, x);
                _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, ones))
            };
            (add(sum.0, weights.0), add(sum.1, weights.1))
        }
    }

    #[inline(always)]
    unsafe fn dot_wide(sum: Self::Ints, weights: Self::Bytes, x: *const i8) -> Self::Ints {
        unsafe {
            let x = _mm256_set1_epi32(four(x));
            let ones = _mm256_set1_epi16(1);
            let add = |sum, weights| {
                let signed = _mm256_xor_si256(weights, _mm256_set1_epi8(-128));
                // Magnitudes are at most 128 and activations 127, so pairs stay
                // below 2^15.
                let magnitudes = _mm256_abs_epi8(signed);
                let pairs = _mm256_maddubs_epi16(magnitudes, _mm256_sign_epi8(x, signed));
                _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, ones))
            };
            (add(sum.0, weights.0), add(sum.1, weights.1))
        }
    }

    #[inline(always)]
    unsafe fn to_floats(ints: Self::Ints) -> Avx2 {
        unsafe { Avx2(_mm256_cvtepi32_ps(ints.0), _mm256_cvtepi32_ps(ints.1)) }
    }

    #[inline(always)]
    unsafe fn store(bytes: Self::Bytes, line: *mut Line) {
        unsafe {
            let line = line.cast::<__m256i>();
            _mm256_store_si256(line, bytes.0);
            _mm256_store_si256(line.add(1), bytes.1);
        }
    }

    #[inline(always)]
    unsafe fn load_ints(ints: *const i32) -> Self::Ints {
        unsafe {
            let ints = ints.cast::<__m256i>();
            (_mm256_loadu_si256(ints), _mm256_loadu_si256(ints.add(1)))
        }
    }

    #[inline(always)]
    unsafe fn add(a: Self::Ints, b: Self::Ints) -> Self::Ints {
        unsafe { (_mm256_add_epi32(a.0, b.0), _mm256_add_epi32(a.1, b.1)) }
    }

    #[inline(always)]
    unsafe fn load_u8(bytes: *const u8) -> Avx2 {
        unsafe {
            let bytes = _mm_loadu_si128(bytes.cast());
            Self::to_floats((
                _mm256_cvtepu8_epi32(bytes),
                _mm256_cvtepu8_epi32(_mm_srli_si128::<8>(bytes)),
            ))
        }
    }

    #[inline(always)]
    unsafe fn load_i8(bytes: *const u8) -> Avx2 {
        unsafe {
            let bytes = _mm_loadu_si128(bytes.cast());
            Self::to_floats((
                _mm256_cvtepi8_epi32(bytes),
                _mm256_cvtepi8_epi32(_mm_srli_si128::<8>(bytes)),
            ))
        }
    }

    #[inline(always)]
    unsafe fn prefetch(p: *const u8) {
        unsafe { _mm_prefetch::<_MM_HINT_T1>(p.cast()) }
    }
}

/// With dot products of bytes, or without.
pub(super) struct Avx512Lines<const VNNI: bool>;

impl<const VNNI: bool> Lines for Avx512Lines<VNNI> {
    type Floats = Avx512;
    type Ints = __m512i;
    type Bytes = __m512i;

    #[inline(always)]
    unsafe fn load(line: *const Line) -> __m512i {
        unsafe { _mm512_load_si512(line.cast()) }
    }

    #[inline(always)]
    unsafe fn low(bytes: __m512i) -> __m512i {
        unsafe { _mm512_and_si512(bytes, _mm512_set1_epi8(15)) }
    }

    #[inline(always)]
    unsafe fn high(bytes: __m512i) -> __m512i {
        unsafe { Self::low(_mm512_srli_epi16::<4>(bytes)) }
    }

    #[inline(always)]
    unsafe fn with_upper(bytes: __m512i, upper: __m512i, pair: usize) -> __m512i {
        unsafe {
            let shifted = match pair {
                0 => _mm512_slli_epi16::<4>(upper),
                1 => _mm512_slli_epi16::<2>(upper),
                2 => upper,
                _ => _mm512_srli_epi16::<2>(upper),
            };
            // bytes | (shifted & mask)
            _mm512_ternarylogic_epi32::<0xf8>(bytes, shifted, _mm512_set1_epi8(0x30))
        }
    }

    #[inline(always)]
    unsafe fn splat(value: i32) -> __m512i {
        unsafe { _mm512_set1_epi32(value) }
    }

    #[inline(always)]
    unsafe fn dot(sum: __m512i, weights: __m512i, x: *const i8) -> __m512i {
        unsafe {
            let x = _mm512_set1_epi32(four(x));
            if VNNI {
                return _mm512_dpbusd_epi32(sum, weights, x);
            }
            // Pairs stay below 2^15, as weights are below 128.
            let pairs = _mm512_maddubs_epi16(weights, x);
            _mm512_add_epi32(sum, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)))
        }
    }

    #[inline(always)]
    unsafe fn dot_wide(sum: __m512i, weights: __m512i, x: *const i8) -> __m512i {
        unsafe {
            if VNNI {
                return Self::dot(sum, weights, x);
            }
            let x = _mm512_set1_epi32(four(x));
            let signed = _mm512_xor_si512(weights, _mm512_set1_epi8(-128));
            let negative = _mm512_movepi8_mask(signed);
            let x = _mm512_mask_sub_epi8(x, negative, _mm512_setzero_si512(), x);
            // Magnitudes are at most 128 and activations 127.
            let pairs = _mm512_maddubs_epi16(_mm512_abs_epi8(signed), x);
            _mm512_add_epi32(sum, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)))
        }
    }

    #[inline(always)]
    unsafe fn to_floats(ints: __m512i) -> Avx512 {
        unsafe { Avx512(_mm512_cvtepi32_ps(ints)) }
    }

    #[inline(always)]
    unsafe fn store(bytes: __m512i, line: *mut Line) {
        unsafe { _mm512_store_si512(line.cast(), bytes) }
    }

    #[inline(always)]
    unsafe fn load_ints(ints: *const i32) -> __m512i {
        unsafe { _mm512_loadu_si512(ints.cast()) }
    }

    #[inline(always)]
    unsafe fn add(a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_add_epi32(a, b) }
    }

    #[inline(always)]
    unsafe fn load_u8(bytes: *const u8) -> Avx512 {
        unsafe { Self::to_floats(_mm512_cvtepu8_epi32(_mm_loadu_si128(bytes.cast()))) }
    }

    #[inline(always)]
    unsafe fn load_i8(bytes: *const u8) -> Avx512 {
        unsafe { Self::to_floats(_mm512_cvtepi8_epi32(_mm_loadu_si128(bytes.cast()))) }
    }

    #[inline(always)]
    unsafe fn prefetch(p: *const u8) {
        unsafe { _mm_prefetch::<_MM_HINT_T1>(p.cast()) }
    }
}
