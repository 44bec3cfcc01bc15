//! bf16 packed for tiles.

use std::sync::{Mutex, PoisonError};

use half::bf16;

use crate::cpu::compute::Compute;
use crate::cpu::kernels::amx::{Bf16Weights, LINES, STEP, TOKENS};
use crate::cpu::kernels::blocks::{Line, ROWS};
use crate::cpu::matrix::activations::round_to_bf16;
use crate::cpu::pages::Pages;
use crate::encoding::StoredMatrix;
use crate::error::DeviceError;

/// Weights in tiles of 16 rows and 32 columns; missing rows and columns are
/// zeros.
pub(in crate::cpu) struct Tiled {
    steps: usize,
    lines: Pages<Line>,
    row_scales: Option<Box<[f32]>>,
}

impl Tiled {
    /// Of a matrix in bf16.
    pub(in crate::cpu) fn new(matrix: &StoredMatrix, on: &Compute) -> Result<Tiled, DeviceError> {
        let steps = matrix.cols().div_ceil(STEP);
        let groups = matrix.rows().div_ceil(ROWS);
        let mut tiled = Tiled {
            steps,
            lines: on.pages.zeroed(groups * steps * LINES)?,
            row_scales: matrix.row_scales().map(Box::from),
        };
        // A lock each, which nobody else takes: parts are numbers, not slices.
        let groups: Vec<_> = tiled
            .lines
            .chunks_mut((steps * LINES).max(1))
            .map(Mutex::new)
            .collect();
        on.pool.run(groups.len(), &|group| {
            let mut lines = groups[group].lock().unwrap_or_else(PoisonError::into_inner);
            for row in group * ROWS..((group + 1) * ROWS).min(matrix.rows()) {
                let (pairs, rest) = matrix.row_bytes(row, 1).as_chunks::<4>();
                let at = row % ROWS * 4;
                for (line, pair) in lines.iter_mut().zip(pairs) {
                    line.0[at..at + 4].copy_from_slice(pair);
                }
                if !rest.is_empty() {
                    lines[pairs.len()].0[at..at + rest.len()].copy_from_slice(rest);
                }
            }
        });
        drop(groups);
        Ok(tiled)
    }

    pub(super) fn bytes(&self) -> usize {
        size_of_val(&*self.lines)
    }

    /// From row `first` on, a multiple of [`ROWS`]; bias is those rows'.
    pub(in crate::cpu) fn rows_from<'a>(
        &'a self,
        first: usize,
        bias: Option<&'a [f32]>,
    ) -> Bf16Weights<'a> {
        Bf16Weights {
            steps: self.steps,
            lines: &self.lines[first / ROWS * self.steps * LINES..],
            row_scales: self.row_scales.as_ref().map(|scales| &scales[first..]),
            bias,
        }
    }

    pub(super) fn decode_row(&self, row: usize, out: &mut [f32]) {
        let lines = &self.lines[row / ROWS * self.steps * LINES..];
        for (i, out) in out.iter_mut().enumerate() {
            let at = row % ROWS * 4 + i % 2 * 2;
            let number = &lines[i / 2].0[at..at + 2];
            *out = bf16::from_le_bytes([number[0], number[1]]).to_f32();
        }
        if let Some(scales) = &self.row_scales {
            out.iter_mut().for_each(|value| *value *= scales[row]);
        }
    }

    /// `x`, `[tokens, k]`, in whole tiles.
    pub(in crate::cpu) fn activations(&self, x: &[f32], k: usize) -> Vec<bf16> {
        let tokens = x.len().checked_div(k).unwrap_or(0);
        let row = self.steps * STEP;
        let mut out = vec![bf16::ZERO; tokens.next_multiple_of(TOKENS) * row];
        for (out, x) in out.chunks_mut(row.max(1)).zip(x.chunks(k.max(1))) {
            for (out, &x) in out.iter_mut().zip(x) {
                *out = round_to_bf16(x);
            }
        }
        out
    }
}
