//! Recorded traces: when requests came, how long they and their answers were,
//! and which blocks of their prompts were equal. No text.
//!
//! Rows are kept in a compact form, so that a trace of millions of rows fits in
//! memory; prompts are made from them one at a time.

mod options;
mod replay;
mod rows;
mod slice;

use std::time::Duration;

use super::error::WorkloadError;
use super::lines::Lines;
pub use options::{Extent, OverContext, TraceConfig};
pub use replay::Replay;
pub use rows::TraceKind;
use rows::{Recorded, RowParser};
use slice::Slice;

/// A trace as it is to be replayed, in order of time.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    rows: Vec<Row>,
    /// Of all rows, one after the other.
    hash_ids: Vec<u64>,
    /// Tokens of a block with a hash id, after scaling.
    block_tokens: u32,
    counts: Counts,
}

/// One request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// From the first row, after time scaling.
    at_nanos: u64,
    /// Tokens.
    pub input: u32,
    pub output: u32,
    blocks: u32,
    first_block: usize,
}

/// What became of the rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Within the slice that was asked for.
    pub taken: u64,
    /// Left out: without a prompt or without an answer.
    pub empty: u64,
    /// Left out: longer than the context.
    pub over_context: u64,
    /// Shortened to the context.
    pub cut: u64,
}

impl Row {
    pub fn at(&self) -> Duration {
        Duration::from_nanos(self.at_nanos)
    }
}

impl Trace {
    /// Reads a trace file.
    pub fn read(path: &str, config: &TraceConfig) -> Result<Trace, WorkloadError> {
        let mut lines = Lines::open(path)?;
        let mut parser = RowParser::new(&mut lines, config)?;
        let mut trace = Trace {
            block_tokens: config.scaled_block(),
            ..Trace::default()
        };
        let mut times: Vec<i64> = Vec::new();
        let mut slice = Slice::new(config);
        while !slice.is_full()
            && let Some(row) = parser.next(&mut lines)?
        {
            if !row.hash_ids.is_empty() {
                config.check_blocks()?;
            }
            if slice.takes(row.at_nanos) && trace.add(&row, config) {
                times.push(row.at_nanos);
            }
        }
        if trace.rows.is_empty() {
            return Err(WorkloadError::Empty {
                path: path.to_owned(),
                hint: slice.hint(),
            });
        }
        trace.set_times(times, config);
        Ok(trace)
    }

    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// Ids of the row's blocks of [`Trace::block_tokens`], the last of which may
    /// be partial. Equal ids at the same place are equal tokens.
    pub fn hash_ids(&self, row: &Row) -> &[u64] {
        &self.hash_ids[row.first_block..row.first_block + row.blocks as usize]
    }

    pub fn block_tokens(&self) -> u32 {
        self.block_tokens
    }

    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Whether the row was kept.
    fn add(&mut self, recorded: &Recorded, config: &TraceConfig) -> bool {
        self.counts.taken += 1;
        if recorded.input == 0 || recorded.output == 0 {
            self.counts.empty += 1;
            return false;
        }
        let scaled = config.scale(recorded);
        let (input, output) = match config.fit(scaled) {
            Some(fitting) => fitting,
            None => {
                self.counts.over_context += 1;
                return false;
            }
        };
        self.counts.cut += u64::from((input, output) != scaled);
        let blocks = match recorded.hash_ids.len() {
            0 => 0,
            _ => input.div_ceil(self.block_tokens),
        };
        self.rows.push(Row {
            at_nanos: 0,
            input,
            output,
            blocks,
            first_block: self.hash_ids.len(),
        });
        self.hash_ids
            .extend_from_slice(&recorded.hash_ids[..blocks as usize]);
        true
    }

    /// Sorts the rows by their times, and counts time from the first.
    fn set_times(&mut self, times: Vec<i64>, config: &TraceConfig) {
        let start = times.iter().copied().min().unwrap_or(0);
        for (row, at) in self.rows.iter_mut().zip(times) {
            // `start` is the least of them.
            row.at_nanos = at.saturating_sub(start) as u64;
        }
        self.rows.sort_by_key(|row| row.at_nanos);
        if let Some(window) = config.trace_spread {
            spread(&mut self.rows, window.0);
        }
        if config.trace_speed != 1.0 {
            for row in &mut self.rows {
                row.at_nanos = (row.at_nanos as f64 / config.trace_speed).round() as u64;
            }
        }
    }
}

/// Spreads rows of one time evenly over `window`, or up to the next time if
/// that is sooner.
fn spread(rows: &mut [Row], window: Duration) {
    let window = u64::try_from(window.as_nanos()).unwrap_or(u64::MAX);
    let mut start = 0;
    while start < rows.len() {
        let at = rows[start].at_nanos;
        let batch = rows[start..].partition_point(|row| row.at_nanos == at);
        let next = rows.get(start + batch).map(|row| row.at_nanos - at);
        let window = window.min(next.unwrap_or(u64::MAX));
        for (place, row) in rows[start..start + batch].iter_mut().enumerate() {
            row.at_nanos = at.saturating_add(window / batch as u64 * place as u64);
        }
        start += batch;
    }
}

#[cfg(test)]
mod tests;
