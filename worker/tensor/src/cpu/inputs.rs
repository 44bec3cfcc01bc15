//! A batch as the CPU's operations read it: row by row.

use crate::batch::Batch;
use crate::error::DeviceError;
use crate::kv_shape::KvShape;

/// A batch, unrolled to rows. Its vectors keep their room from batch to batch.
#[derive(Debug)]
pub struct CpuInputs {
    kv: KvShape,
    pub(super) tokens: Vec<u32>,
    pub(super) outputs: Vec<u32>,
    pub(super) rows: Vec<Row>,
    blocks: Vec<u32>,
}

/// One token's place.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row {
    pub(super) position: usize,
    /// Where its sequence's block table starts.
    table: usize,
}

impl CpuInputs {
    pub(super) fn new(kv: KvShape) -> CpuInputs {
        CpuInputs {
            kv,
            tokens: Vec::new(),
            outputs: Vec::new(),
            rows: Vec::new(),
            blocks: Vec::new(),
        }
    }

    /// Takes a batch over if it fits the pool; what is here then is valid.
    pub(super) fn load(&mut self, batch: &Batch<'_>) -> Result<(), DeviceError> {
        batch.validate(&self.kv)?;
        self.tokens.clear();
        self.tokens.extend_from_slice(batch.tokens);
        self.outputs.clear();
        self.outputs.extend_from_slice(batch.outputs);
        self.blocks.clear();
        self.blocks.extend_from_slice(batch.blocks);
        self.rows.clear();
        for sequence in batch.sequences {
            self.rows.extend(
                (sequence.first_position()..sequence.context_len).map(|position| Row {
                    position,
                    table: sequence.blocks.start,
                }),
            );
        }
        Ok(())
    }

    /// `Ok` if these rows' blocks are blocks of a pool of this shape.
    pub(super) fn check_pool(&self, kv: &KvShape) -> Result<(), DeviceError> {
        if self.kv != *kv {
            return Err(DeviceError::Shape {
                what: "the KV pool of a batch",
                found: self.kv.total_blocks,
                expected: kv.total_blocks,
            });
        }
        Ok(())
    }

    /// Rows from `first` on, at most `most`, that follow each other in a sequence.
    pub(super) fn neighbours(&self, first: usize, most: usize) -> usize {
        let start = self.rows[first];
        let follows = |(index, row): (usize, &Row)| {
            row.table == start.table && row.position == start.position + index
        };
        let rows = self.rows[first..].iter().take(most).enumerate();
        rows.take_while(|&row| follows(row)).count()
    }

    /// The block of `position`, at most the row's own, in its sequence.
    pub(super) fn block(&self, row: Row, position: usize) -> usize {
        self.blocks[row.table + position / self.kv.block_size] as usize
    }
}
