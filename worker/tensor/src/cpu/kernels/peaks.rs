//! The most that an instruction set can do: loops whose only limit is the
//! processor's multipliers, or its memory.

use super::lanes::{LANES, Lanes};

/// Independent sums: enough to hide how long a multiplication takes, and as
/// many as fit the registers.
pub(super) const ACCUMULATORS: usize = 12;
/// Streams that are read side by side, for the processor to prefetch.
const STREAMS: usize = 4;

/// What is multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cpu) enum Numbers {
    F32,
    Bf16,
    Bytes,
}

impl Numbers {
    /// Multiplications of a round in vectors.
    pub(super) fn a_round(self) -> usize {
        let lanes = ACCUMULATORS * LANES;
        match self {
            Numbers::F32 => lanes,
            Numbers::Bf16 => 2 * lanes,
            Numbers::Bytes => 4 * lanes,
        }
    }
}

/// # Safety
/// As [`Lanes`].
#[inline(always)]
pub(super) unsafe fn multiply<L: Lanes>(rounds: usize) -> f32 {
    unsafe {
        let factor = L::splat(std::hint::black_box(0.5));
        let mut sums = [L::splat(1.0); ACCUMULATORS];
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = sum.fma(factor, factor);
            }
        }
        sums.into_iter().map(|sum| sum.sum()).sum()
    }
}

/// # Safety
/// As [`Lanes`].
#[inline(always)]
pub(super) unsafe fn multiply_pairs<L: Lanes>(rounds: usize) -> f32 {
    unsafe {
        let bytes = std::hint::black_box([0x3fu8; 64]);
        let pairs = L::load_pairs(bytes.as_ptr());
        let mut sums = [L::splat(1.0); ACCUMULATORS];
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = sum.dot_pairs(pairs, pairs);
            }
        }
        sums.into_iter().map(|sum| sum.sum()).sum()
    }
}

/// # Safety
/// As [`Lanes`].
#[inline(always)]
pub(super) unsafe fn read<L: Lanes>(numbers: &[f32]) -> f32 {
    let stream = numbers.len() / STREAMS / LANES * LANES;
    unsafe {
        let mut sums = [L::splat(0.0); STREAMS];
        let one = L::splat(1.0);
        let mut at = 0;
        while at < stream {
            for (i, sum) in sums.iter_mut().enumerate() {
                let p = numbers.as_ptr().add(i * stream + at);
                *sum = sum.fma(L::load_f32(p.cast()), one);
            }
            at += LANES;
        }
        sums.into_iter().map(|sum| sum.sum()).sum()
    }
}
