//! What a run's figures look like: a table for the terminal, JSON to keep and
//! compare, CSV with a row a request, and a page of plots.

mod csv;
mod grid;
mod html;
mod json;
mod numbers;
mod plot;
mod policies;
mod rows;
mod sweep;
mod table;
#[cfg(test)]
mod tests;

pub use csv::csv;
pub use grid::{Grid, printable};
pub use html::html;
pub use json::{Document, DocumentError, PolicyPoint, SCHEMA};
pub use numbers::{count, decimal, percent, utc};
pub use policies::{cluster_table, policies_table};
pub use sweep::{SweepPoint, Verdict, sweep_csv, sweep_table};
pub use table::table;

use crate::figures::{Figures, RunInfo};
use crate::record::Record;

/// What a report shows.
#[derive(Clone, Copy, Debug)]
pub struct Report<'a> {
    pub info: &'a RunInfo,
    pub figures: &'a Figures,
    /// For the timeline of tokens; may be empty.
    pub records: &'a [Record],
    /// Empty unless the run was a sweep.
    pub sweep: &'a [SweepPoint],
    /// Empty unless it was simulated.
    pub policies: &'a [PolicyPoint],
}
