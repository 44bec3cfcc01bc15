//! Products of bf16 in tiles.

use half::bf16;

use super::tiles::{Shape, Tiles};
use crate::cpu::kernels::blocks::{Line, ROWS};
use crate::cpu::kernels::columns::ColumnsMut;

/// Tokens of a tile.
pub(in crate::cpu) const TOKENS: usize = 16;
/// Numbers of a row in a tile.
pub(in crate::cpu) const STEP: usize = 32;
/// Lines of a tile of weights.
pub(in crate::cpu) const LINES: usize = 16;
/// Bytes by which weights are asked for ahead.
const AHEAD: usize = 8192;

/// Weights `[rows, cols]`, sixteen rows side by side: lines have 2 neighbouring
/// numbers of each row in turn.
#[derive(Clone, Copy)]
pub(in crate::cpu) struct Bf16Weights<'a> {
    /// Tiles of 32 numbers in a row.
    pub steps: usize,
    /// `[groups of rows][steps][16 lines]`
    pub lines: &'a [Line],
    /// `[rows]`
    pub row_scales: Option<&'a [f32]>,
    /// `[rows]`
    pub bias: Option<&'a [f32]>,
}

impl Bf16Weights<'_> {
    pub(super) fn check(&self, x: &[bf16], out: &ColumnsMut<'_>) {
        let groups = out.width().div_ceil(ROWS);
        assert!(x.len() >= out.rows().next_multiple_of(TOKENS) * self.steps * STEP);
        assert!(self.lines.len() >= groups * self.steps * LINES);
        assert!(
            self.row_scales
                .is_none_or(|scales| scales.len() >= out.width())
        );
        assert!(self.bias.is_none_or(|bias| bias.len() >= out.width()));
    }
}

/// # Safety
/// As [`Tiles`]; `op` was checked.
#[inline(always)]
pub(super) unsafe fn product<T: Tiles>(op: &Bf16Weights<'_>, x: &[bf16], out: &mut ColumnsMut<'_>) {
    let groups = out.width().div_ceil(ROWS);
    let tiles = out.rows().div_ceil(TOKENS);
    unsafe {
        T::configure(Shape::BF16);
        for group in (0..groups).step_by(2) {
            for tile in (0..tiles).step_by(2) {
                let area = Area { group, tile };
                match (group + 1 < groups, tile + 1 < tiles) {
                    (true, true) => square::<T, true, true>(op, x, area, out),
                    (true, false) => square::<T, true, false>(op, x, area, out),
                    (false, true) => square::<T, false, true>(op, x, area, out),
                    (false, false) => square::<T, false, false>(op, x, area, out),
                }
            }
        }
        T::release();
    }
}

/// The first group of rows and the first tile of tokens.
#[derive(Clone, Copy)]
struct Area {
    group: usize,
    tile: usize,
}

/// One or two groups of rows with one or two tiles of tokens.
#[inline(always)]
unsafe fn square<T: Tiles, const GROUPS: bool, const TILES: bool>(
    op: &Bf16Weights<'_>,
    x: &[bf16],
    at: Area,
    out: &mut ColumnsMut<'_>,
) {
    let row = op.steps * STEP;
    let x = x.as_ptr().wrapping_add(at.tile * TOKENS * row);
    let lines = op.lines.as_ptr().wrapping_add(at.group * op.steps * LINES);
    unsafe {
        T::zero::<0>();
        T::zero::<1>();
        T::zero::<2>();
        T::zero::<3>();
        for step in 0..op.steps {
            let x = x.add(step * STEP);
            let weights = lines.add(step * LINES).cast::<u8>();
            prefetch(weights);
            T::load::<4>(x.cast(), row * 2);
            T::load::<6>(weights, 64);
            T::dot_bf16::<0, 4, 6>();
            if GROUPS {
                let weights = weights.add(op.steps * LINES * 64);
                prefetch(weights);
                T::load::<7>(weights, 64);
                T::dot_bf16::<1, 4, 7>();
            }
            if TILES {
                T::load::<5>(x.add(TOKENS * row).cast(), row * 2);
                T::dot_bf16::<2, 5, 6>();
                if GROUPS {
                    T::dot_bf16::<3, 5, 7>();
                }
            }
        }
        finish::<T, 0>(op, at, out);
        let next = |group, tile| Area {
            group: at.group + group,
            tile: at.tile + tile,
        };
        if GROUPS {
            finish::<T, 1>(op, next(1, 0), out);
        }
        if TILES {
            finish::<T, 2>(op, next(0, 1), out);
        }
        if GROUPS && TILES {
            finish::<T, 3>(op, next(1, 1), out);
        }
    }
}

#[inline(always)]
unsafe fn prefetch(weights: *const u8) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    for line in 0..LINES {
        unsafe { _mm_prefetch::<_MM_HINT_T0>(weights.wrapping_add(AHEAD + 64 * line).cast()) };
    }
}

/// Scales and shifts the sums of tile C, and writes them.
#[inline(always)]
unsafe fn finish<T: Tiles, const C: usize>(
    op: &Bf16Weights<'_>,
    at: Area,
    out: &mut ColumnsMut<'_>,
) {
    let mut sums = [[0.0f32; ROWS]; TOKENS];
    unsafe { T::store::<C>(sums.as_mut_ptr().cast(), 64) };
    let (first, token) = (at.group * ROWS, at.tile * TOKENS);
    let rows = ROWS.min(out.width() - first);
    for (t, sums) in sums.iter().enumerate().take(out.rows() - token) {
        for (row, sum) in sums.iter().enumerate().take(rows) {
            let scale = op.row_scales.map_or(1.0, |scales| scales[first + row]);
            let bias = op.bias.map_or(0.0, |bias| bias[first + row]);
            unsafe { out.write(token + t, first + row, sum * scale + bias) };
        }
    }
}
