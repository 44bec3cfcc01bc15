//! The most that tiles can do: whole tiles, multiplied where they lie.

use super::tiles::{Shape, Tiles};
use crate::cpu::kernels::peaks::Numbers;

/// Tiles of sums, which two of activations and two of weights allow.
const SUMS: usize = 4;

/// Multiplications of a round.
pub(in crate::cpu::kernels) fn a_round(numbers: Numbers) -> usize {
    let row = usize::from(Shape::WHOLE.bytes);
    let numbers = match numbers {
        Numbers::Bytes => row,
        Numbers::F32 | Numbers::Bf16 => row / 2,
    };
    SUMS * 16 * 16 * numbers
}

/// Multiplies bytes, or else bf16; returns one of the sums' bits.
///
/// # Safety
/// As [`Tiles`]: they are available.
pub(super) unsafe fn multiply<T: Tiles>(numbers: Numbers, rounds: usize) -> u32 {
    // A half in bf16.
    let row = std::hint::black_box([[0u8, 0x3f]; 32]);
    let tile = [row; 16];
    let mut sums = [[0u32; 16]; 16];
    // SAFETY: the caller's contract; tiles are as large as is configured.
    unsafe {
        T::configure(Shape::WHOLE);
        T::zero::<0>();
        T::zero::<1>();
        T::zero::<2>();
        T::zero::<3>();
        T::load::<4>(tile.as_ptr().cast(), 64);
        T::load::<5>(tile.as_ptr().cast(), 64);
        T::load::<6>(tile.as_ptr().cast(), 64);
        T::load::<7>(tile.as_ptr().cast(), 64);
        for _ in 0..rounds {
            match numbers {
                Numbers::Bytes => {
                    T::dot_bytes::<0, 4, 6>();
                    T::dot_bytes::<1, 4, 7>();
                    T::dot_bytes::<2, 5, 6>();
                    T::dot_bytes::<3, 5, 7>();
                }
                Numbers::F32 | Numbers::Bf16 => {
                    T::dot_bf16::<0, 4, 6>();
                    T::dot_bf16::<1, 4, 7>();
                    T::dot_bf16::<2, 5, 6>();
                    T::dot_bf16::<3, 5, 7>();
                }
            }
        }
        T::store::<3>(sums.as_mut_ptr().cast(), 64);
        T::release();
    }
    sums[15][15]
}

#[cfg(test)]
mod tests {
    use super::super::Software;
    use super::*;

    #[test]
    fn a_round_is_as_many_multiplications_as_it_says() {
        for (numbers, product) in [(Numbers::Bytes, 63.0 * 63.0), (Numbers::Bf16, 0.25)] {
            // SAFETY: there is software everywhere.
            let sum = unsafe { multiply::<Software>(numbers, 3) };
            // Every other byte is 0.
            let (sum, counted) = match numbers {
                Numbers::Bytes => (sum as f32, a_round(numbers) / 2),
                _ => (f32::from_bits(sum), a_round(numbers)),
            };
            assert_eq!(sum, 3.0 * product * (counted / (SUMS * 16 * 16)) as f32);
        }
    }
}
