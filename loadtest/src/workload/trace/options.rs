//! Which part of a trace is replayed, and on what scale.

use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use runtime::config::{Check, HumanDuration};

use super::super::error::WorkloadError;
use super::{Recorded, TraceKind};

#[derive(Clone, Debug, Args)]
#[group(skip)]
#[command(next_help_heading = "Trace")]
pub struct TraceConfig {
    /// Replay a recorded trace: Mooncake (JSON lines), Azure 2023 or 2024 (CSV)
    /// or BurstGPT (CSV)
    #[arg(long, value_name = "FILE")]
    pub trace: Option<String>,

    /// Format of the trace
    #[arg(long, value_name = "KIND", value_enum, default_value = "auto")]
    pub trace_kind: TraceKind,

    /// So many times as fast as recorded
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0)]
    pub trace_speed: f64,

    /// Leave out the beginning: a number of rows, or a time such as 10m
    #[arg(long, value_name = "ROWS|TIME", default_value = "0")]
    pub trace_skip: Extent,

    /// Replay only so much after that: a number of rows, or a time
    #[arg(long, value_name = "ROWS|TIME")]
    pub trace_take: Option<Extent>,

    /// Divide all lengths by so much, for small workers; sharing stays exact
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub trace_scale: u32,

    /// Multiply the answers' lengths, after --trace-scale
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0)]
    pub trace_output_scale: f64,

    /// Tokens that one hash id of the file stands for
    #[arg(long, value_name = "TOKENS", default_value_t = 512)]
    pub trace_block: u32,

    /// Spread rows of the same time evenly over this time; Mooncake's come in
    /// batches every 3s
    #[arg(long, value_name = "TIME")]
    pub trace_spread: Option<HumanDuration>,

    /// Longest prompt and answer together, after scaling
    #[arg(long, value_name = "TOKENS")]
    pub max_context: Option<u32>,

    /// What becomes of rows over --max-context; they are counted
    #[arg(long, value_name = "ACTION", value_enum, default_value = "drop")]
    pub over_context: OverContext,
}

/// A part of a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    Rows(u64),
    Time(Duration),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum OverContext {
    /// Leave the row out
    Drop,
    /// Shorten the prompt at its end, and the answer only if it alone is longer
    Cut,
}

impl TraceConfig {
    /// Tokens of a block after scaling.
    pub(super) fn scaled_block(&self) -> u32 {
        self.trace_block / self.trace_scale
    }

    /// Of a trace with hash ids, whose blocks must stay whole.
    pub(super) fn check_blocks(&self) -> Result<(), WorkloadError> {
        if self.trace_block.is_multiple_of(self.trace_scale) {
            return Ok(());
        }
        Err(WorkloadError::Invalid(format!(
            "--trace-scale {} does not divide --trace-block {}: the trace's blocks must stay whole",
            self.trace_scale, self.trace_block
        )))
    }

    /// Prompt and answer after scaling. The prompt keeps its number of blocks.
    pub(super) fn scale(&self, row: &Recorded) -> (u32, u32) {
        let scaled = |tokens: u32| {
            let tokens = f64::from(tokens) / f64::from(self.trace_scale);
            (tokens.round() as u32).max(1)
        };
        let before_last = (row.hash_ids.len() as u32).saturating_sub(1);
        let last = row.input - before_last * self.trace_block;
        let input = before_last * self.scaled_block() + scaled(last);
        let output = f64::from(row.output) * self.trace_output_scale / f64::from(self.trace_scale);
        (input, (output.round() as u32).max(1))
    }

    /// Prompt and answer within the context; `None`: the row is left out.
    pub(super) fn fit(&self, (input, output): (u32, u32)) -> Option<(u32, u32)> {
        let Some(max) = self.max_context else {
            return Some((input, output));
        };
        if u64::from(input) + u64::from(output) <= u64::from(max) {
            return Some((input, output));
        }
        match self.over_context {
            OverContext::Drop => None,
            OverContext::Cut => {
                let output = output.min(max - 1);
                Some((input.min(max - output), output))
            }
        }
    }
}

impl Extent {
    fn is_empty(self) -> bool {
        matches!(self, Extent::Rows(0) | Extent::Time(Duration::ZERO))
    }
}

impl Check for TraceConfig {
    fn check(&self, mistakes: &mut Vec<String>) {
        let positive = |value: f64| value.is_finite() && value > 0.0;
        if !positive(self.trace_speed) {
            mistakes.push("--trace-speed must be above 0".to_owned());
        }
        if !positive(self.trace_output_scale) {
            mistakes.push("--trace-output-scale must be above 0".to_owned());
        }
        if self.trace_block == 0 {
            mistakes.push("--trace-block must be at least 1".to_owned());
        }
        if self.trace_scale == 0 {
            mistakes.push("--trace-scale must be at least 1".to_owned());
        }
        if self.trace_take.is_some_and(Extent::is_empty) {
            mistakes.push("--trace-take must be above 0".to_owned());
        }
        if self.max_context.is_some_and(|it| it < 2) {
            mistakes.push("--max-context must be at least 2".to_owned());
        }
    }
}

impl FromStr for Extent {
    type Err = String;

    fn from_str(text: &str) -> Result<Extent, String> {
        if let Ok(rows) = text.parse() {
            return Ok(Extent::Rows(rows));
        }
        let time = text.parse::<HumanDuration>();
        time.map(|it| Extent::Time(it.0))
            .map_err(|_| "allowed is a number of rows, or a time such as 90s or 10m".to_owned())
    }
}
