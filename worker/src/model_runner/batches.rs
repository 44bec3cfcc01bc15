//! A step's rows, as the model takes them.

use std::ops::Range;

use engine::{Chunk, Step};
use models::{Batch, BatchSequence};

/// A step's batches, one after the other; their vectors keep their room from
/// step to step.
#[derive(Default)]
pub(super) struct StepBatches {
    batches: Vec<StepBatch>,
    used: usize,
}

/// Some rows of a step.
#[derive(Default)]
pub(super) struct StepBatch {
    tokens: Vec<u32>,
    blocks: Vec<u32>,
    sequences: Vec<BatchSequence>,
    outputs: Vec<u32>,
    /// The last of `outputs`.
    pooled: Vec<u32>,
}

impl StepBatches {
    /// Cuts a step into batches of at most so many rows. Their outputs together
    /// are, for each chunk: its scored rows, then its last row if a token is drawn
    /// from it; and each batch's pooled rows are its last.
    pub(super) fn fill(&mut self, step: &Step<'_>, most: usize) {
        self.used = 0;
        for chunk in &step.chunks {
            let mut start = chunk.start;
            while start < chunk.end {
                let batch = self.with_room(most);
                let room = most - batch.tokens.len();
                let end = chunk.end.min(start.saturating_add(room));
                batch.add(chunk, start..end);
                start = end;
            }
        }
        for batch in &mut self.batches[..self.used] {
            batch.outputs.extend_from_slice(&batch.pooled);
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &StepBatch> {
        self.batches[..self.used].iter()
    }

    fn with_room(&mut self, most: usize) -> &mut StepBatch {
        let last = self.used.checked_sub(1);
        let full = last.is_none_or(|last| self.batches[last].tokens.len() >= most);
        if full {
            if self.used == self.batches.len() {
                self.batches.push(StepBatch::default());
            }
            self.batches[self.used].clear();
            self.used += 1;
        }
        &mut self.batches[self.used - 1]
    }
}

impl StepBatch {
    fn clear(&mut self) {
        self.tokens.clear();
        self.blocks.clear();
        self.sequences.clear();
        self.outputs.clear();
        self.pooled.clear();
    }

    /// Positions of a chunk.
    fn add(&mut self, chunk: &Chunk<'_>, positions: Range<usize>) {
        let (first_row, first_block) = (self.tokens.len(), self.blocks.len());
        let Range { start, end } = positions;
        self.tokens.extend_from_slice(&chunk.tokens[start..end]);
        self.blocks.extend(chunk.blocks.iter().map(|block| block.0));
        self.sequences.push(BatchSequence {
            rows: first_row..self.tokens.len(),
            context_len: end,
            blocks: first_block..self.blocks.len(),
        });
        let within = |range: Range<usize>| range.start.max(start)..range.end.min(end);
        let row = |position| (first_row + position - start) as u32;
        let drawn = (chunk.sample && end == chunk.end).then(|| end - 1);
        let outputs = within(scored_rows(chunk)).chain(drawn);
        self.outputs.extend(outputs.map(row));
        self.pooled.extend(within(chunk.pooled.clone()).map(row));
    }

    pub(super) fn view(&self) -> Batch<'_> {
        Batch {
            tokens: &self.tokens,
            blocks: &self.blocks,
            sequences: &self.sequences,
            outputs: &self.outputs,
        }
    }

    /// How many of the outputs, the last ones, are wanted as hidden states.
    pub(super) fn pooled(&self) -> usize {
        self.pooled.len()
    }
}

/// Positions of the chunk after which a prompt token is to be scored.
pub(super) fn scored_rows(chunk: &Chunk<'_>) -> Range<usize> {
    let end = match chunk.prompt_logprobs {
        true => chunk.end.min(chunk.prompt_len.saturating_sub(1)),
        false => chunk.start,
    };
    chunk.start..end.max(chunk.start)
}
