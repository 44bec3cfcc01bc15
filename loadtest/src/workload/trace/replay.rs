//! A trace as a workload.

use super::super::prompt::{PromptMaker, Segment};
use super::super::seed::{Use, derive};
use super::{Row, Trace, TraceConfig};
use crate::planned::{Output, PlannedRequest, Turn, Workload};

/// Makes the prompts of a trace, so that equal hash ids are equal tokens.
pub struct Replay {
    trace: Trace,
    maker: PromptMaker,
    exact: bool,
    seed: u64,
    next: usize,
    scales: Vec<String>,
}

impl Replay {
    pub fn new(trace: Trace, maker: PromptMaker, config: &TraceConfig) -> Replay {
        let has_blocks = trace.rows().iter().any(|row| row.blocks > 0);
        Replay {
            trace,
            maker,
            exact: true,
            seed: 0,
            next: 0,
            scales: scales(config, has_blocks),
        }
    }

    pub fn with_seed(self, seed: u64) -> Replay {
        Replay { seed, ..self }
    }

    /// Whether answers are to have exactly the recorded lengths; true unless
    /// told otherwise.
    pub fn with_exact_output(self, exact: bool) -> Replay {
        Replay { exact, ..self }
    }

    fn segments(&self, row: &Row) -> Vec<Segment> {
        let ids = self.trace.hash_ids(row);
        if ids.is_empty() {
            return vec![Segment {
                seed: derive(self.seed, Use::Rest, self.next as u64),
                tokens: row.input,
            }];
        }
        let block = self.trace.block_tokens();
        let starts = (0..row.input).step_by(block as usize);
        let segment = |(id, start): (&u64, u32)| Segment {
            seed: derive(self.seed, Use::Block, *id),
            tokens: block.min(row.input - start),
        };
        ids.iter().zip(starts).map(segment).collect()
    }
}

impl Workload for Replay {
    fn next(&mut self) -> Option<PlannedRequest> {
        let row = *self.trace.rows().get(self.next)?;
        let segments = self.segments(&row);
        let (prompt, prompt_tokens) = self.maker.make(None, &segments);
        let number = self.next as u64;
        self.next += 1;
        Some(PlannedRequest {
            number,
            recorded_at: Some(row.at()),
            turn: None,
            prompt,
            prompt_tokens,
            output: Output {
                max_tokens: row.output,
                exact: self.exact,
            },
            tenant: None,
            priority: None,
        })
    }

    fn next_turn(&mut self, _after: Turn, _answer: &str) -> Option<PlannedRequest> {
        None
    }

    fn len_hint(&self) -> Option<u64> {
        Some(self.trace.rows().len() as u64)
    }

    fn caveats(&self) -> Vec<String> {
        let counts = self.trace.counts();
        let left_out = |count: u64, why: &str| {
            (count > 0).then(|| format!("{count} of {} rows of the trace {why}", counts.taken))
        };
        let told = [
            left_out(
                counts.empty,
                "left out: without a prompt or without an answer",
            ),
            left_out(counts.over_context, "left out: longer than --max-context"),
            left_out(counts.cut, "shortened to --max-context"),
        ];
        let told = told.into_iter().flatten();
        told.chain(self.scales.iter().cloned())
            .chain(self.maker.caveats())
            .collect()
    }
}

/// What was changed of the trace as a whole.
fn scales(config: &TraceConfig, has_blocks: bool) -> Vec<String> {
    let mut scales = Vec::new();
    if config.trace_speed != 1.0 {
        scales.push(format!(
            "replayed {} times as fast as recorded",
            config.trace_speed
        ));
    }
    if config.trace_scale != 1 {
        scales.push(format!("lengths divided by {}", config.trace_scale));
    }
    if config.trace_scale != 1 && has_blocks {
        scales.push(format!("blocks of {} tokens", config.scaled_block()));
    }
    if config.trace_output_scale != 1.0 {
        scales.push(format!(
            "lengths of answers multiplied by {}",
            config.trace_output_scale
        ));
    }
    if let Some(window) = config.trace_spread {
        scales.push(format!("rows of one time spread over {window}"));
    }
    scales
}
