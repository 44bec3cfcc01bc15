//! From stored blocks to packed ones, and back to single rows.

use std::sync::{Mutex, PoisonError};

use crate::cpu::compute::Compute;
use crate::cpu::kernels::blocks::{BlockLayout, BlockWeights, Line, ROWS};
use crate::cpu::pages::Pages;
use crate::cpu::pool::Pool;
use crate::encoding::blocks::{f16_at, q4_k_parts, q6_k_parts};
use crate::encoding::{Encoding, StoredMatrix};
use crate::error::DeviceError;

/// Numbers of a row in a block of a layout.
const BLOCK: usize = 32;
/// Steps of 4 numbers in it.
const STEPS: usize = 8;

/// Weights whose rows are packed in sixteens; missing rows are zeros.
pub(in crate::cpu) struct Packed {
    layout: BlockLayout,
    /// Blocks of 32 in a row.
    blocks: usize,
    lines: Pages<Line>,
    scales: Pages<u8>,
    row_scales: Option<Box<[f32]>>,
}

/// The layout that an encoding is packed to, if it has one.
fn layout(encoding: Encoding) -> Option<BlockLayout> {
    match encoding {
        Encoding::Q8_0 => Some(BlockLayout::Q8),
        Encoding::Q4_0 => Some(BlockLayout::Q4),
        Encoding::Q4K => Some(BlockLayout::Q4K),
        Encoding::Q6K => Some(BlockLayout::Q6K),
        Encoding::F32 | Encoding::Bf16 | Encoding::F16 | Encoding::F8 => None,
    }
}

impl Packed {
    /// `None` if the encoding is not one of blocks.
    pub(in crate::cpu) fn new(
        matrix: &StoredMatrix,
        on: &Compute,
    ) -> Result<Option<Packed>, DeviceError> {
        let Some(layout) = layout(matrix.encoding()) else {
            return Ok(None);
        };
        let blocks = matrix.cols() / BLOCK;
        let groups = matrix.rows().div_ceil(ROWS);
        let mut packed = Packed {
            layout,
            blocks,
            lines: on.pages.zeroed(groups * blocks * layout.lines())?,
            scales: on.pages.zeroed(groups * layout.scale_bytes(blocks))?,
            row_scales: matrix.row_scales().map(Box::from),
        };
        packed.fill(matrix, &on.pool);
        Ok(Some(packed))
    }

    fn fill(&mut self, matrix: &StoredMatrix, pool: &Pool) {
        let layout = self.layout;
        let group_lines = self.blocks * layout.lines();
        let group_scales = layout.scale_bytes(self.blocks);
        // A lock each, which nobody else takes: parts are numbers, not slices.
        let groups: Vec<_> = self
            .lines
            .chunks_mut(group_lines.max(1))
            .zip(self.scales.chunks_mut(group_scales.max(1)))
            .map(|(lines, scales)| {
                Mutex::new(Group {
                    layout,
                    lines,
                    scales,
                })
            })
            .collect();
        pool.run(groups.len(), &|group| {
            let mut packed = groups[group].lock().unwrap_or_else(PoisonError::into_inner);
            for row in group * ROWS..((group + 1) * ROWS).min(matrix.rows()) {
                packed.set(row % ROWS, matrix.encoding(), matrix.row_bytes(row, 1));
            }
        });
    }

    pub(super) fn bytes(&self) -> usize {
        size_of_val(&*self.lines) + self.scales.len()
    }

    /// From row `first` on, a multiple of [`ROWS`]; bias is those rows'.
    pub(in crate::cpu) fn rows_from<'a>(
        &'a self,
        first: usize,
        bias: Option<&'a [f32]>,
    ) -> BlockWeights<'a> {
        let group = first / ROWS;
        BlockWeights {
            layout: self.layout,
            blocks: self.blocks,
            lines: &self.lines[group * self.blocks * self.layout.lines()..],
            scales: &self.scales[group * self.layout.scale_bytes(self.blocks)..],
            row_scales: self.row_scales.as_ref().map(|scales| &scales[first..]),
            bias,
        }
    }

    pub(super) fn layout(&self) -> BlockLayout {
        self.layout
    }

    /// Writes a row as the numbers that it stands for.
    pub(super) fn decode_row(&self, row: usize, out: &mut [f32]) {
        let weights = self.rows_from(row / ROWS * ROWS, None);
        for (block, out) in out.chunks_mut(BLOCK).enumerate() {
            let lines = &weights.lines[block * self.layout.lines()..];
            let scales = Scales {
                layout: self.layout,
                head: &weights.scales[self.layout.head_at(block)..],
                run: &weights.scales[self.layout.scale_at(block)..],
            };
            for (i, out) in out.iter_mut().enumerate() {
                let (scale, minimum) = scales.of(row % ROWS, i);
                *out = scale * (quant(self.layout, lines, row % ROWS, i)) - minimum;
            }
        }
        if let Some(scales) = &self.row_scales {
            out.iter_mut().for_each(|value| *value *= scales[row]);
        }
    }
}

/// Number `i` of a block, with the offset of its layout taken off.
fn quant(layout: BlockLayout, lines: &[Line], row: usize, i: usize) -> f32 {
    let (step, at) = (i / 4, row * 4 + i % 4);
    let nibble = || lines[step % 4].0[at] >> (step / 4 * 4) & 15;
    match layout {
        BlockLayout::Q8 => f32::from(lines[step].0[at]) - 128.0,
        BlockLayout::Q4 => f32::from(nibble()) - 8.0,
        BlockLayout::Q4K => f32::from(nibble()),
        BlockLayout::Q6K => {
            let upper = lines[4 + step / 4].0[at] >> (step % 4 * 2) & 3;
            f32::from(nibble() | upper << 4) - 32.0
        }
    }
}

/// The scales of a block of sixteen rows.
struct Scales<'a> {
    layout: BlockLayout,
    head: &'a [u8],
    run: &'a [u8],
}

impl Scales<'_> {
    /// The scale and the minimum of number `i` of a row.
    fn of(&self, row: usize, i: usize) -> (f32, f32) {
        match self.layout {
            BlockLayout::Q8 | BlockLayout::Q4 => (f16_at(self.run, 2 * row), 0.0),
            BlockLayout::Q4K => (
                f16_at(self.head, 2 * row) * f32::from(self.run[row]),
                f16_at(self.head, 32 + 2 * row) * f32::from(self.run[16 + row]),
            ),
            BlockLayout::Q6K => {
                let scale = self.run[i / 16 * 16 + row] as i8;
                (f16_at(self.head, 2 * row) * f32::from(scale), 0.0)
            }
        }
    }
}

/// A group of rows that is being packed.
struct Group<'a> {
    layout: BlockLayout,
    lines: &'a mut [Line],
    scales: &'a mut [u8],
}

impl Group<'_> {
    fn set(&mut self, row: usize, encoding: Encoding, bytes: &[u8]) {
        match encoding {
            Encoding::Q8_0 => each(bytes, |block, bytes| self.q8_0(row, block, bytes)),
            Encoding::Q4_0 => each(bytes, |block, bytes| self.q4_0(row, block, bytes)),
            Encoding::Q4K => each(bytes, |block, bytes| self.q4_k(row, block * 8, bytes)),
            Encoding::Q6K => each(bytes, |block, bytes| self.q6_k(row, block * 8, bytes)),
            Encoding::F32 | Encoding::Bf16 | Encoding::F16 | Encoding::F8 => {}
        }
    }

    fn q8_0(&mut self, row: usize, block: usize, bytes: &[u8; 34]) {
        self.scales(block)[2 * row..][..2].copy_from_slice(&bytes[..2]);
        let lines = self.lines(block);
        for (step, four) in bytes[2..].as_chunks::<4>().0.iter().enumerate() {
            lines[step].0[4 * row..][..4].copy_from_slice(&four.map(|q| q ^ 0x80));
        }
    }

    fn q4_0(&mut self, row: usize, block: usize, bytes: &[u8; 18]) {
        self.scales(block)[2 * row..][..2].copy_from_slice(&bytes[..2]);
        let lines = self.lines(block);
        for (step, four) in bytes[2..].as_chunks::<4>().0.iter().enumerate() {
            lines[step].0[4 * row..][..4].copy_from_slice(four);
        }
    }

    fn q4_k(&mut self, row: usize, first: usize, bytes: &[u8; 144]) {
        let head = self.head(first);
        head[2 * row..][..2].copy_from_slice(&bytes[..2]);
        head[32 + 2 * row..][..2].copy_from_slice(&bytes[2..4]);
        for block in 0..8 {
            let (scale, minimum) = q4_k_parts::scale_and_min(bytes, block);
            let run = self.scales(first + block);
            (run[row], run[16 + row]) = (scale, minimum);
            let lines = self.lines(first + block);
            for i in 0..BLOCK / 2 {
                let low = q4_k_parts::quant(bytes, block, i);
                let high = q4_k_parts::quant(bytes, block, i + BLOCK / 2);
                lines[i / 4].0[4 * row + i % 4] = low | high << 4;
            }
        }
    }

    fn q6_k(&mut self, row: usize, first: usize, bytes: &[u8; 210]) {
        let scale = &bytes[q6_k_parts::SCALE..];
        self.head(first)[2 * row..][..2].copy_from_slice(scale);
        for block in 0..8 {
            let run = self.scales(first + block);
            for part in 0..2 {
                run[16 * part + row] = bytes[q6_k_parts::SCALES + 2 * block + part];
            }
            let lines = self.lines(first + block);
            for i in 0..BLOCK {
                let quant = q6_k_parts::quant(bytes, block * BLOCK + i);
                let (step, at) = (i / 4, 4 * row + i % 4);
                lines[step % (STEPS / 2)].0[at] |= (quant & 15) << (step / 4 * 4);
                lines[4 + step / 4].0[at] |= (quant >> 4) << (step % 4 * 2);
            }
        }
    }

    fn lines(&mut self, block: usize) -> &mut [Line] {
        let lines = self.layout.lines();
        &mut self.lines[block * lines..(block + 1) * lines]
    }

    fn scales(&mut self, block: usize) -> &mut [u8] {
        &mut self.scales[self.layout.scale_at(block)..]
    }

    fn head(&mut self, block: usize) -> &mut [u8] {
        &mut self.scales[self.layout.head_at(block)..]
    }
}

/// Calls `set` with every block's number and bytes.
fn each<const N: usize>(bytes: &[u8], mut set: impl FnMut(usize, &[u8; N])) {
    for (block, bytes) in bytes.as_chunks().0.iter().enumerate() {
        set(block, bytes);
    }
}
