//! Measures one sequence; recorded once, at its end.

use std::sync::Arc;
use std::time::Instant;

use crate::metrics::Metrics;
use crate::sequence::Event;

#[derive(Debug)]
pub(super) struct Times {
    metrics: Arc<Metrics>,
    started: Instant,
    last_tokens: Option<Instant>,
    cached_tokens: usize,
    outcome: Outcome,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// Until something else happens, a drop means that the client left.
    Cancelled,
    Failed,
    Finished,
}

impl Times {
    pub fn start(metrics: Arc<Metrics>, prompt_tokens: usize) -> Times {
        metrics.prompt_tokens.increment(prompt_tokens as u64);
        Times {
            metrics,
            started: Instant::now(),
            last_tokens: None,
            cached_tokens: 0,
            outcome: Outcome::Cancelled,
        }
    }

    pub fn saw(&mut self, event: &Event) {
        match event {
            Event::PromptLogprobs(_) | Event::Embedding(_) => {}
            Event::Started { cached_tokens } => self.cached_tokens = *cached_tokens,
            Event::Tokens(tokens) => {
                let now = Instant::now();
                let (histogram, since) = match self.last_tokens.replace(now) {
                    Some(last) => (&self.metrics.inter_token_latency, last),
                    None => (&self.metrics.time_to_first_token, self.started),
                };
                histogram.record(now - since);
                self.metrics.generated_tokens.increment(tokens.len() as u64);
            }
            Event::Finished(_) => self.outcome = Outcome::Finished,
        }
    }

    /// A worker failed and another is looked for.
    pub fn replanned(&mut self, has_begun: bool) {
        self.metrics.replans.increment(1);
        if has_begun {
            self.metrics.migrations.increment(1);
        }
    }

    /// It ends with an error.
    pub fn failed(&mut self) {
        self.outcome = Outcome::Failed;
    }
}

impl Drop for Times {
    fn drop(&mut self) {
        self.metrics
            .sequence_duration
            .record(self.started.elapsed());
        let ended = match self.outcome {
            Outcome::Cancelled => &self.metrics.sequences_cancelled,
            Outcome::Failed => &self.metrics.sequences_failed,
            Outcome::Finished => &self.metrics.sequences_finished,
        };
        ended.increment(1);
        let cached = self.cached_tokens as u64;
        self.metrics.cached_tokens.increment(cached);
    }
}
