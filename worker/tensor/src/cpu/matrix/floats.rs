//! Activations as floats, laid out for products.

use std::sync::{Mutex, PoisonError};

use super::activations::round_to_bf16;
use crate::cpu::compute::On;
use crate::cpu::kernels::Line;

/// Numbers that are worth waking other threads.
const PARALLEL_NUMBERS: usize = 1 << 15;

/// How floats are laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cpu) struct FloatForm {
    /// Tokens that are computed together at most.
    pub together: usize,
    /// In bf16, else in f32.
    pub bf16: bool,
}

impl FloatForm {
    /// Numbers in a line.
    pub(in crate::cpu) const fn numbers(self) -> usize {
        if self.bf16 { 32 } else { 16 }
    }
}

/// Activations in tiles of tokens that are computed together; each tile is
/// `[lines of a row][tokens]`, so that it is read from its beginning to its end.
pub(in crate::cpu) struct Floats {
    form: FloatForm,
    tokens: usize,
    k: usize,
    lines: Vec<Line>,
}

/// Tokens that are computed together.
#[derive(Clone, Copy)]
pub(in crate::cpu) struct FloatTile<'a> {
    pub first: usize,
    pub len: usize,
    /// `[lines of a row][len]`; a last line is filled up with zeros.
    pub lines: &'a [Line],
}

impl Floats {
    /// Of `x`, `[tokens, k]`.
    pub(in crate::cpu) fn new(x: &[f32], k: usize, form: FloatForm, on: On<'_>) -> Floats {
        let tokens = x.len().checked_div(k).unwrap_or(0);
        let row = k.div_ceil(form.numbers());
        let mut floats = Floats {
            form,
            tokens,
            k,
            lines: vec![Line([0; 64]); tokens * row],
        };
        let mut rest = floats.lines.as_mut_slice();
        let count = floats.form.tiles(tokens);
        // A lock each, which nobody else takes: parts are numbers, not slices.
        let tiles = (0..count).map(|tile| {
            let (first, end) = form.tile(tile, tokens);
            let lines = rest.split_off_mut(..(end - first) * row);
            Mutex::new(FloatTileMut {
                form,
                k,
                x: &x[first * k..end * k],
                lines: lines.unwrap_or_default(),
            })
        });
        let tiles: Vec<_> = tiles.collect();
        let fill = |tile: usize| {
            let mut tile = tiles[tile].lock().unwrap_or_else(PoisonError::into_inner);
            on.kernels.lay_out(&mut tile);
        };
        if x.len() < PARALLEL_NUMBERS {
            (0..count).for_each(fill);
        } else {
            on.run(count, &fill);
        }
        drop(tiles);
        floats
    }

    pub(in crate::cpu) fn form(&self) -> FloatForm {
        self.form
    }

    pub(in crate::cpu) fn tokens(&self) -> usize {
        self.tokens
    }

    pub(in crate::cpu) fn k(&self) -> usize {
        self.k
    }

    /// Number of tiles.
    pub(in crate::cpu) fn tiles(&self) -> usize {
        self.form.tiles(self.tokens)
    }

    pub(in crate::cpu) fn tile(&self, tile: usize) -> FloatTile<'_> {
        let (first, end) = self.form.tile(tile, self.tokens);
        let row = self.k.div_ceil(self.form.numbers());
        FloatTile {
            first,
            len: end - first,
            lines: &self.lines[first * row..end * row],
        }
    }
}

impl FloatForm {
    /// Number of tiles, as few as there can be.
    fn tiles(self, tokens: usize) -> usize {
        tokens.div_ceil(self.together)
    }

    /// A tile's first token and the one after its last; all are about equally
    /// large, since a product of few tokens is no faster than one of some more.
    fn tile(self, tile: usize, tokens: usize) -> (usize, usize) {
        let tiles = self.tiles(tokens);
        (tile * tokens / tiles, (tile + 1) * tokens / tiles)
    }
}

/// A tile that is being filled.
pub(in crate::cpu) struct FloatTileMut<'a> {
    form: FloatForm,
    k: usize,
    x: &'a [f32],
    lines: &'a mut [Line],
}

impl FloatTileMut<'_> {
    /// Inlined into a function of each instruction set.
    #[inline(always)]
    pub(in crate::cpu) fn fill(&mut self) {
        match self.form.bf16 {
            true => self.fill_with::<2, 32>(|x| round_to_bf16(x).to_le_bytes()),
            false => self.fill_with::<4, 16>(f32::to_le_bytes),
        }
    }

    /// Of N numbers of so many bytes in a line.
    #[inline(always)]
    fn fill_with<const BYTES: usize, const N: usize>(&mut self, to: impl Fn(f32) -> [u8; BYTES]) {
        let tokens = self.x.len() / self.k;
        let write = |line: &mut Line, numbers: &[f32]| {
            let places = line.0.as_chunks_mut::<BYTES>().0;
            for (place, number) in places.iter_mut().zip(numbers) {
                *place = to(*number);
            }
        };
        for (t, row) in self.x.chunks(self.k).enumerate() {
            let (whole, rest) = row.as_chunks::<N>();
            let mut lines = self.lines[t..].iter_mut().step_by(tokens);
            for (numbers, line) in whole.iter().zip(&mut lines) {
                write(line, numbers);
            }
            if let Some(line) = lines.next() {
                write(line, rest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::compute::{Compute, CpuOptions};
    use crate::cpu::testing::numbers;

    #[test]
    fn tiles_are_few_and_equally_large() {
        let form = FloatForm {
            together: 6,
            bf16: true,
        };
        let sizes = |tokens| {
            let tiles = (0..form.tiles(tokens)).map(|tile| form.tile(tile, tokens));
            tiles.map(|(first, end)| end - first).collect::<Vec<_>>()
        };
        assert_eq!(sizes(0), []);
        assert_eq!(sizes(1), [1]);
        assert_eq!(sizes(6), [6]);
        assert_eq!(sizes(8), [4, 4]);
        assert_eq!(sizes(13), [4, 4, 5]);
    }

    #[test]
    fn every_number_is_in_its_place_and_the_rest_is_zeros() {
        let (tokens, k) = (11, 70);
        let x = numbers(1, tokens * k);
        let on = Compute::new(&CpuOptions::new(2)).unwrap();
        for bf16 in [false, true] {
            let form = FloatForm { together: 4, bf16 };
            let floats = Floats::new(&x, k, form, on.all());
            for tile in 0..floats.tiles() {
                let tile = floats.tile(tile);
                for (t, i) in (0..tile.len).flat_map(|t| (0..96).map(move |i| (t, i))) {
                    let line = i / form.numbers() * tile.len + t;
                    let Some(Line(line)) = tile.lines.get(line) else {
                        assert!(i >= 80, "{i}");
                        continue;
                    };
                    let at = i % form.numbers();
                    let found = match bf16 {
                        true => [0, 0, line[2 * at], line[2 * at + 1]],
                        false => *line[4 * at..].first_chunk().unwrap(),
                    };
                    let exact = if i < k {
                        x[(tile.first + t) * k + i]
                    } else {
                        0.0
                    };
                    let expected = if bf16 {
                        round_to_bf16(exact).to_f32()
                    } else {
                        exact
                    };
                    assert_eq!(f32::from_le_bytes(found), expected);
                }
            }
        }
    }
}
