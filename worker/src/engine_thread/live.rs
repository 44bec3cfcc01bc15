//! A sequence in the engine, and who hears of it.

use std::time::Duration;

use engine::{Output, SequenceId};
use proto::ErrorCode;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use super::sequence_stream::Event;
use super::stages::{Stage, StageClock, StageTimes};
use crate::failure::Failure;
use crate::metrics::Metrics;

/// What the thread knows of a sequence beside the engine.
pub(super) struct Live {
    events_tx: mpsc::Sender<Result<Event, Failure>>,
    clock: StageClock,
    prompt_tokens: usize,
}

impl Live {
    /// The sequence came in `now`.
    pub(super) fn new(
        events_tx: mpsc::Sender<Result<Event, Failure>>,
        prompt_tokens: usize,
        now: Duration,
    ) -> Live {
        Live {
            events_tx,
            clock: StageClock::start(now),
            prompt_tokens,
        }
    }

    pub(super) fn awaits_first_token(&self) -> bool {
        self.clock.stage() != Stage::Decode
    }

    pub(super) fn times(&self, now: Duration) -> StageTimes {
        self.clock.times(now)
    }

    /// Its KV won't come; it is computed from `now` on.
    pub(super) fn compute(&mut self, now: Duration) {
        self.clock.enter(Stage::Prefill, now);
    }

    /// Passes on what the engine says; false if nobody listens.
    pub(super) fn tell(&mut self, output: Output, now: Duration, metrics: &Metrics) -> bool {
        let event = self.event(output, now, metrics);
        match self.events_tx.try_send(event) {
            Ok(()) => true,
            Err(TrySendError::Closed(_)) => false,
            Err(TrySendError::Full(_)) => {
                tracing::error!("a sequence has more events than tokens; it is aborted");
                false
            }
        }
    }

    /// The sequence is lost.
    pub(super) fn fail(self, message: String) {
        let failure = Failure::new(ErrorCode::EngineFailed, message);
        // Without room or reader the closed channel says the same.
        let _ = self.events_tx.try_send(Err(failure));
    }

    fn event(
        &mut self,
        output: Output,
        now: Duration,
        metrics: &Metrics,
    ) -> Result<Event, Failure> {
        Ok(match output {
            Output::Started { cached_tokens, .. } => {
                let queued = self.clock.times(now).queued;
                if self.clock.stage() == Stage::Queue {
                    self.clock.enter(Stage::Prefill, now);
                }
                metrics.count_prompt(self.prompt_tokens, cached_tokens);
                Event::Started {
                    cached_tokens,
                    queued,
                }
            }
            Output::Receiving { first_block, .. } => {
                self.clock.enter(Stage::Transfer, now);
                Event::Receiving { first_block }
            }
            Output::Tokens { index, tokens, .. } => {
                self.count_tokens(tokens.len(), now, metrics);
                Event::Tokens { index, tokens }
            }
            Output::PromptLogprobs { index, tokens, .. } => Event::PromptLogprobs { index, tokens },
            Output::Embedding { values, .. } => Event::Embedding { values },
            Output::HandOver { .. } => {
                self.clock.enter(Stage::Transfer, now);
                let times = self.clock.times(now);
                Event::HandOver { times }
            }
            Output::Finished { reason, .. } => {
                let times = self.clock.times(now);
                metrics.record_times(&times);
                metrics.record_finished(&times, reason);
                Event::Finished { reason, times }
            }
            Output::Failed { violation, .. } => {
                metrics.record_times(&self.clock.times(now));
                metrics.grammars().count_violation();
                let message = violation.to_string();
                return Err(Failure::new(ErrorCode::InvalidConstraint, message));
            }
        })
    }

    fn count_tokens(&mut self, tokens: usize, now: Duration, metrics: &Metrics) {
        if self.clock.stage() != Stage::Decode {
            self.clock.enter(Stage::Decode, now);
            metrics.record_first_token(&self.clock.times(now));
        }
        metrics.count_generated(tokens);
    }
}

/// A step's outputs in the order in which they are told: those of sequences that
/// await their first token come first, as whatever is told before keeps their
/// readers waiting. Each sequence's own stay in order.
pub(super) fn first_tokens_first(
    outputs: Vec<Output>,
    awaits_first: impl Fn(SequenceId) -> bool,
) -> Vec<Output> {
    let is_first = |output: &Output| awaits_first(output.id());
    let (mut told, rest): (Vec<_>, Vec<_>) = outputs.into_iter().partition(is_first);
    told.extend(rest);
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_tokens_are_told_before_the_batch_and_in_order() {
        let started = |id| Output::Started {
            id: SequenceId(id),
            cached_tokens: 0,
        };
        let tokens = |id, index| Output::Tokens {
            id: SequenceId(id),
            index,
            tokens: Vec::new(),
        };
        let outputs = vec![tokens(1, 7), started(3), tokens(2, 9), tokens(3, 0)];
        let told = first_tokens_first(outputs, |id| id == SequenceId(3));
        let expected = [started(3), tokens(3, 0), tokens(1, 7), tokens(2, 9)];
        assert_eq!(told, expected);
    }
}
