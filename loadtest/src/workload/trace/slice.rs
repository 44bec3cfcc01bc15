//! Which rows of a trace are replayed.

use std::time::Duration;

use super::{Extent, TraceConfig};

/// Sees the rows in the order of the file, which need not be that of time.
pub(super) struct Slice {
    skip: Extent,
    take: Option<Extent>,
    seen: u64,
    taken: u64,
    /// Times of the first row, and of the first within the slice.
    first: i64,
    first_taken: i64,
}

impl Slice {
    pub fn new(config: &TraceConfig) -> Slice {
        Slice {
            skip: config.trace_skip,
            take: config.trace_take,
            seen: 0,
            taken: 0,
            first: 0,
            first_taken: 0,
        }
    }

    /// Whether no later row is within.
    pub fn is_full(&self) -> bool {
        matches!(self.take, Some(Extent::Rows(rows)) if self.taken >= rows)
    }

    /// Whether the next row, of this time, is within.
    pub fn takes(&mut self, at_nanos: i64) -> bool {
        if self.seen == 0 {
            self.first = at_nanos;
        }
        self.seen += 1;
        let is_skipped = match self.skip {
            Extent::Rows(rows) => self.seen <= rows,
            Extent::Time(time) => at_nanos - self.first < nanos(time),
        };
        if is_skipped {
            return false;
        }
        if self.taken == 0 {
            self.first_taken = match self.skip {
                Extent::Rows(_) => at_nanos,
                Extent::Time(time) => self.first.saturating_add(nanos(time)),
            };
        }
        let is_within = match self.take {
            Some(Extent::Time(time)) => at_nanos - self.first_taken < nanos(time),
            _ => !self.is_full(),
        };
        self.taken += u64::from(is_within);
        is_within
    }

    /// Why nothing is left of a trace.
    pub fn hint(&self) -> &'static str {
        match (self.seen, self.taken) {
            (0, _) => "",
            (_, 0) => " after --trace-skip and --trace-take",
            _ => " with a prompt and an answer that fits --max-context",
        }
    }
}

fn nanos(time: Duration) -> i64 {
    i64::try_from(time.as_nanos()).unwrap_or(i64::MAX)
}
