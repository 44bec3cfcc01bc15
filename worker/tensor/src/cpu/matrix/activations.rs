//! Activations in the form that products read.

use std::sync::{Mutex, PoisonError};

use half::bf16;

use crate::cpu::compute::On;

/// Numbers of a row that share a scale.
pub(in crate::cpu) const BLOCK: usize = 32;
/// Steps of 4 numbers in it.
const STEPS: usize = BLOCK / 4;
/// Numbers that are worth waking other threads.
const PARALLEL_NUMBERS: usize = 1 << 15;

/// How activations are laid out for a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cpu) struct Form {
    /// Tokens that are computed together.
    pub together: usize,
    /// Tokens lie one after the other and are filled up with zeros to whole
    /// groups; else 4 neighbouring numbers of each token in turn, and what
    /// remains after whole groups is in groups of powers of two.
    pub rows: bool,
    /// What a sum of products starts with for each 1 in its activations.
    pub offset: i32,
    /// Sums of products in a block.
    pub starts: usize,
}

/// Activations as signed bytes from -127 to 127; each 32 of a row share a
/// scale, the largest magnitude over 127.
pub(in crate::cpu) struct Quantized {
    form: Form,
    tokens: usize,
    blocks: usize,
    quants: Vec<[i8; 4]>,
    scales: Vec<f32>,
    starts: Vec<i32>,
    sums: Vec<f32>,
}

/// Tokens that are computed together; everything of theirs lies together.
pub(in crate::cpu) struct TokenGroup<'a> {
    pub first: usize,
    pub len: usize,
    /// `[steps of 4][len][4]`, or `[len][numbers]`
    pub quants: &'a [i8],
    /// `[blocks][len]`
    pub scales: &'a [f32],
    /// `[blocks][starts][len]`: the integer that a sum of products starts with.
    pub starts: &'a [i32],
    /// `[blocks][len]`: the block's sum.
    pub sums: &'a [f32],
}

impl Quantized {
    /// Of `x`, `[tokens, k]`; a last block is filled up with zeros.
    pub(in crate::cpu) fn new(x: &[f32], k: usize, form: Form, on: On<'_>) -> Quantized {
        let tokens = x.len().checked_div(k).unwrap_or(0);
        let room = if form.rows {
            tokens.next_multiple_of(form.together)
        } else {
            tokens
        };
        let blocks = k.div_ceil(BLOCK);
        let mut quantized = Quantized {
            form,
            tokens,
            blocks,
            quants: vec![[0; 4]; room * blocks * STEPS],
            scales: vec![0.0; room * blocks],
            starts: vec![0; room * blocks * form.starts],
            sums: vec![0.0; room * blocks],
        };
        // A lock each, which nobody else takes: parts are numbers, not slices.
        let groups: Vec<_> = quantized.groups_mut(x, k).map(Mutex::new).collect();
        let quantize = |group: usize| {
            let mut group = groups[group].lock().unwrap_or_else(PoisonError::into_inner);
            on.kernels.quantize(&mut group);
        };
        if x.len() < PARALLEL_NUMBERS {
            (0..groups.len()).for_each(quantize);
        } else {
            on.run(groups.len(), &quantize);
        }
        drop(groups);
        quantized
    }

    fn groups_mut<'a>(&'a mut self, x: &'a [f32], k: usize) -> impl Iterator<Item = GroupMut<'a>> {
        let (form, blocks) = (self.form, self.blocks);
        let mut rest = (
            self.quants.as_mut_slice(),
            self.scales.as_mut_slice(),
            self.starts.as_mut_slice(),
            self.sums.as_mut_slice(),
        );
        group_sizes(self.tokens, form).map(move |(first, len)| {
            let end = (first + len).min(x.len() / k);
            GroupMut {
                form,
                len,
                k,
                x: &x[first * k..end * k],
                quants: take(&mut rest.0, len * blocks * STEPS),
                scales: take(&mut rest.1, len * blocks),
                starts: take(&mut rest.2, len * blocks * form.starts),
                sums: take(&mut rest.3, len * blocks),
            }
        })
    }

    pub(in crate::cpu) fn tokens(&self) -> usize {
        self.tokens
    }

    pub(in crate::cpu) fn blocks(&self) -> usize {
        self.blocks
    }

    pub(in crate::cpu) fn form(&self) -> Form {
        self.form
    }

    pub(in crate::cpu) fn groups(&self) -> impl Iterator<Item = TokenGroup<'_>> {
        let (blocks, starts) = (self.blocks, self.form.starts);
        let quants = self.quants.as_flattened();
        group_sizes(self.tokens, self.form).map(move |(first, len)| {
            let of = |each: usize| first * each..(first + len) * each;
            TokenGroup {
                first,
                len,
                quants: &quants[of(blocks * BLOCK)],
                scales: &self.scales[of(blocks)],
                starts: &self.starts[of(blocks * starts)],
                sums: &self.sums[of(blocks)],
            }
        })
    }
}

/// A group that is being quantised, as [`TokenGroup`] has it.
pub(in crate::cpu) struct GroupMut<'a> {
    form: Form,
    len: usize,
    k: usize,
    /// The tokens, `len` or fewer.
    x: &'a [f32],
    quants: &'a mut [[i8; 4]],
    scales: &'a mut [f32],
    starts: &'a mut [i32],
    sums: &'a mut [f32],
}

impl GroupMut<'_> {
    /// Inlined into a function of each instruction set, whose `quantize` makes
    /// bytes and their scale of a block.
    #[inline(always)]
    pub(in crate::cpu) fn fill(&mut self, quantize: impl Fn(&[f32; BLOCK]) -> ([i8; BLOCK], f32)) {
        for (t, row) in self.x.chunks(self.k).enumerate() {
            let (whole, rest) = row.as_chunks::<BLOCK>();
            for (block, numbers) in whole.iter().enumerate() {
                self.set(t, block, quantize(numbers));
            }
            if !rest.is_empty() {
                let mut padded = [0.0; BLOCK];
                padded[..rest.len()].copy_from_slice(rest);
                self.set(t, whole.len(), quantize(&padded));
            }
        }
    }

    #[inline(always)]
    fn set(&mut self, t: usize, block: usize, (quants, scale): ([i8; BLOCK], f32)) {
        let steps = quants.as_chunks::<4>().0;
        if self.form.rows {
            let row = t * (self.quants.len() / self.len);
            self.quants[row + block * STEPS..][..STEPS].copy_from_slice(steps);
        } else {
            let places = self.quants[block * STEPS * self.len..].iter_mut();
            for (place, four) in places.skip(t).step_by(self.len).zip(steps) {
                *place = *four;
            }
        }
        let sum = |quants: &[i8]| quants.iter().map(|&q| i32::from(q)).sum::<i32>();
        let (first, second) = quants.split_at(BLOCK / 2);
        let halves = [sum(first), sum(second)];
        let place = block * self.len + t;
        self.scales[place] = scale;
        self.sums[place] = scale * (halves[0] + halves[1]) as f32;
        if self.form.starts == 1 {
            self.starts[place] = self.form.offset * (halves[0] + halves[1]);
        } else {
            for (part, half) in halves.into_iter().enumerate() {
                self.starts[(2 * block + part) * self.len + t] = self.form.offset * half;
            }
        }
    }
}

/// The first `len` numbers, which are taken off.
fn take<'a, T>(rest: &mut &'a mut [T], len: usize) -> &'a mut [T] {
    let (taken, left) = std::mem::take(rest).split_at_mut(len);
    *rest = left;
    taken
}

/// The first token and the number of tokens of each group.
fn group_sizes(tokens: usize, form: Form) -> impl Iterator<Item = (usize, usize)> {
    let mut first = 0;
    std::iter::from_fn(move || {
        let left = tokens - first.min(tokens);
        let len = match left {
            0 => return None,
            _ if form.rows || left >= form.together => form.together,
            _ => 1 << left.ilog2(),
        };
        first += len;
        Some((first - len, len))
    })
}

/// Nearest, ties to even; what is smaller than a normal number becomes zero, as
/// processors' dot products take it. NaN stays NaN.
#[inline(always)]
pub(in crate::cpu) fn round_to_bf16(x: f32) -> bf16 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    let magnitude = bits & 0x7fff_ffff;
    bf16::from_bits(if magnitude > 0x7f80_0000 {
        0x7fc0
    } else if magnitude < 0x0080_0000 {
        0
    } else {
        rounded as u16
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::compute::{Compute, CpuOptions};
    use crate::cpu::testing::numbers;

    const FORM: Form = Form {
        together: 8,
        rows: false,
        offset: -8,
        starts: 2,
    };

    fn quantized(x: &[f32], k: usize) -> Quantized {
        let on = Compute::new(&CpuOptions::new(1)).unwrap();
        Quantized::new(x, k, FORM, on.all())
    }

    #[test]
    fn groups_cover_all_tokens_in_order() {
        let sizes = |tokens| group_sizes(tokens, FORM).collect::<Vec<_>>();
        assert_eq!(sizes(0), []);
        assert_eq!(sizes(8), [(0, 8)]);
        assert_eq!(sizes(23), [(0, 8), (8, 8), (16, 4), (20, 2), (22, 1)]);
        let rows = Form {
            together: 16,
            rows: true,
            ..FORM
        };
        assert_eq!(
            group_sizes(23, rows).collect::<Vec<_>>(),
            [(0, 16), (16, 16)]
        );
    }

    #[test]
    fn quantised_numbers_are_near_and_their_sums_exact() {
        let x = numbers(5, 11 * 70);
        let quantized = quantized(&x, 70);
        for group in quantized.groups() {
            for t in 0..group.len {
                for i in 0..96 {
                    let quant = group.quants[(i / 4 * group.len + t) * 4 + i % 4];
                    let scale = group.scales[i / 32 * group.len + t];
                    let exact = if i < 70 {
                        x[(group.first + t) * 70 + i]
                    } else {
                        0.0
                    };
                    assert!((f32::from(quant) * scale - exact).abs() <= scale * 0.5001);
                }
                for part in 0..6 {
                    let total: i32 = (part * 16..(part + 1) * 16)
                        .map(|i| i32::from(group.quants[(i / 4 * group.len + t) * 4 + i % 4]))
                        .sum();
                    assert_eq!(group.starts[part * group.len + t], -8 * total);
                }
            }
        }
    }

    #[test]
    fn a_row_is_quantised_alike_in_any_company() {
        let x = numbers(6, 13 * 64);
        let together = quantized(&x, 64);
        let last = together.groups().last().unwrap();
        let alone = quantized(&x[12 * 64..], 64);
        let alone = alone.groups().next().unwrap();
        assert_eq!((last.first, last.len), (12, 1));
        assert_eq!((last.quants, last.scales), (alone.quants, alone.scales));
    }

    #[test]
    fn zeros_infinities_and_nan_do_not_spread() {
        let mut x = vec![0.0; 96];
        x[32] = f32::NAN;
        x[64] = f32::INFINITY;
        let quantized = quantized(&x, 96);
        let group = quantized.groups().next().unwrap();
        assert_eq!(group.scales[0], 0.0);
        assert!(group.quants[..32].iter().all(|&q| q == 0));
    }

    #[test]
    fn bf16_is_rounded_as_the_library_does() {
        for x in numbers(7, 1000)
            .into_iter()
            .chain([0.0, -0.0, f32::INFINITY, 1e38, -3.4e38])
        {
            assert_eq!(round_to_bf16(x).to_f32(), bf16::from_f32(x).to_f32());
        }
        assert!(round_to_bf16(f32::NAN).is_nan());
        assert_eq!(round_to_bf16(1e-39).to_f32(), 0.0);
    }
}
