//! A ragged batch: tokens of many sequences, and where their KV lies.

use std::ops::Range;

use crate::error::DeviceError;
use crate::kv_shape::KvShape;

/// Tokens to compute in one pass. A row is one token: prefill chunks and single
/// decode tokens lie side by side.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// `[rows]`, sequence after sequence.
    pub tokens: &'a [u32],
    /// The sequences' block tables, one after the other.
    pub blocks: &'a [u32],
    /// In the order of `tokens`, covering them all.
    pub sequences: &'a [BatchSequence],
    /// Rows whose logits are wanted, in the order they are wanted in.
    pub outputs: &'a [u32],
}

/// One sequence's part of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchSequence {
    /// Its rows; they are the last of its context.
    pub rows: Range<usize>,
    /// Tokens of the sequence once these rows are computed.
    pub context_len: usize,
    /// Its block table's place in `blocks`; position p lies in the table's
    /// block `p / block_size`.
    pub blocks: Range<usize>,
}

impl BatchSequence {
    /// The position of the first row.
    pub fn first_position(&self) -> usize {
        self.context_len - self.rows.len()
    }
}

impl Batch<'_> {
    /// `Ok` if rows, tables and outputs fit each other and the pool.
    pub fn validate(&self, kv: &KvShape) -> Result<(), DeviceError> {
        let mut next_row = 0;
        for sequence in self.sequences {
            DeviceError::at_least("a batch", self.tokens.len(), sequence.rows.end)?;
            if sequence.rows.start != next_row || sequence.rows.is_empty() {
                return Err(DeviceError::Shape {
                    what: "a sequence's rows, which must follow the last one's,",
                    found: sequence.rows.start,
                    expected: next_row,
                });
            }
            next_row = sequence.rows.end;
            self.validate_table(sequence, kv)?;
        }
        if next_row != self.tokens.len() {
            return Err(DeviceError::Shape {
                what: "the sequences of a batch",
                found: next_row,
                expected: self.tokens.len(),
            });
        }
        for &row in self.outputs {
            DeviceError::in_range("row", row as usize, self.tokens.len())?;
        }
        Ok(())
    }

    fn validate_table(&self, sequence: &BatchSequence, kv: &KvShape) -> Result<(), DeviceError> {
        DeviceError::at_least("a context", sequence.context_len, sequence.rows.len())?;
        let table = self
            .blocks
            .get(sequence.blocks.clone())
            .ok_or(DeviceError::OutOfRange {
                what: "block table end",
                index: sequence.blocks.end,
                limit: self.blocks.len(),
            })?;
        let needed = sequence.context_len.div_ceil(kv.block_size);
        DeviceError::at_least("a block table", table.len(), needed)?;
        for &block in &table[..needed] {
            DeviceError::in_range("block", block as usize, kv.total_blocks)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv_shape::{KvDtype, KvValues};

    const KV: KvShape = KvShape {
        layers: 1,
        kv_heads: 1,
        head_dim: 2,
        values: KvValues::Stored,
        dtype: KvDtype::F32,
        block_size: 4,
        total_blocks: 8,
    };

    fn sequence(rows: Range<usize>, context_len: usize, blocks: Range<usize>) -> BatchSequence {
        BatchSequence {
            rows,
            context_len,
            blocks,
        }
    }

    #[test]
    fn accepts_prefill_and_decode_side_by_side() {
        let batch = Batch {
            tokens: &[1, 2, 3],
            blocks: &[0, 7, 3],
            sequences: &[sequence(0..2, 6, 0..2), sequence(2..3, 4, 2..3)],
            outputs: &[1, 2],
        };
        assert_eq!(batch.validate(&KV), Ok(()));
        assert_eq!(batch.sequences[0].first_position(), 4);
    }

    #[test]
    fn refuses_what_does_not_fit() {
        let one = |rows, context_len, blocks| vec![sequence(rows, context_len, blocks)];
        let empty = vec![sequence(0..0, 0, 0..0), sequence(0..3, 3, 0..1)];
        let cases = [
            ("rows missing", one(0..2, 2, 0..1), vec![0], vec![]),
            ("rows beyond", one(0..4, 4, 0..1), vec![0], vec![]),
            ("empty", empty, vec![0], vec![]),
            ("context too short", one(0..3, 2, 0..1), vec![0], vec![]),
            ("table too short", one(0..3, 5, 0..1), vec![0], vec![]),
            ("table missing", one(0..3, 3, 0..2), vec![0], vec![]),
            ("no such block", one(0..3, 3, 0..1), vec![8], vec![]),
            ("no such output", one(0..3, 3, 0..1), vec![0], vec![3]),
        ];
        for (name, sequences, blocks, outputs) in cases {
            let batch = Batch {
                tokens: &[1, 2, 3],
                blocks: &blocks,
                sequences: &sequences,
                outputs: &outputs,
            };
            assert!(batch.validate(&KV).is_err(), "{name}");
        }
    }
}
