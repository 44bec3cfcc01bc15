//! What happens to one sequence, for the call that owns it.

use std::sync::Arc;
use std::time::Duration;

use engine::{Finish, Sampled, SequenceId};
use tokio::sync::mpsc;

use super::handle::{Abandoned, Command};
use super::stages::StageTimes;
use crate::failure::Failure;

/// What happens to a sequence, in order.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// It was scheduled for the first time.
    Started {
        cached_tokens: usize,
        queued: Duration,
    },
    /// Its prompt's KV is to be imported, from `first_block` on.
    Receiving { first_block: usize },
    /// `index` counts the generated tokens of the sequence.
    Tokens { index: usize, tokens: Vec<Sampled> },
    /// Of prompt tokens from `index` on.
    PromptLogprobs { index: usize, tokens: Vec<Sampled> },
    /// Of its prompt.
    Embedding { values: Vec<f32> },
    /// Its prompt is computed and its blocks are kept for export.
    HandOver { times: StageTimes },
    /// The last event.
    Finished { reason: Finish, times: StageTimes },
}

/// A sequence's events. It owns the sequence: dropped before the end, it
/// aborts it and frees its blocks before the engine's next step.
pub struct SequenceStream {
    id: SequenceId,
    number: u64,
    events_rx: mpsc::Receiver<Result<Event, Failure>>,
    /// Came with the tokens before it.
    held: Option<Result<Event, Failure>>,
    ended: bool,
    commands_tx: mpsc::Sender<Command>,
    abandoned: Arc<Abandoned>,
}

impl SequenceStream {
    pub(super) fn new(
        id: SequenceId,
        events_rx: mpsc::Receiver<Result<Event, Failure>>,
        commands_tx: mpsc::Sender<Command>,
        abandoned: Arc<Abandoned>,
    ) -> SequenceStream {
        SequenceStream {
            id,
            number: 0,
            events_rx,
            held: None,
            ended: false,
            commands_tx,
            abandoned,
        }
    }

    /// Among the sequences that the engine has taken in, from 1.
    pub fn number(&self) -> u64 {
        self.number
    }

    pub(super) fn set_number(&mut self, number: u64) {
        self.number = number;
    }

    pub fn id(&self) -> SequenceId {
        self.id
    }

    /// The next event; tokens that are there already come together. After
    /// [`Event::Finished`] there is none; asking for it is answered as a failed
    /// engine.
    pub async fn next(&mut self) -> Result<Event, Failure> {
        let event = match self.held.take() {
            Some(event) => event,
            None => self
                .events_rx
                .recv()
                .await
                .unwrap_or_else(|| Err(Failure::engine_failed())),
        };
        let event = self.with_followers(event);
        self.ended |= matches!(event, Err(_) | Ok(Event::Finished { .. }));
        event
    }

    fn with_followers(&mut self, event: Result<Event, Failure>) -> Result<Event, Failure> {
        let Ok(Event::Tokens { index, mut tokens }) = event else {
            return event;
        };
        while let Ok(follower) = self.events_rx.try_recv() {
            match follower {
                Ok(Event::Tokens { tokens: more, .. }) => tokens.extend(more),
                other => {
                    self.held = Some(other);
                    break;
                }
            }
        }
        Ok(Event::Tokens { index, tokens })
    }
}

impl Drop for SequenceStream {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        self.abandoned.add(self.id);
        // A full channel wakes the thread as well.
        let _ = self.commands_tx.try_send(Command::Wake);
    }
}
