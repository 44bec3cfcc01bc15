//! The async side of the engine thread.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use engine::{ImportError, Rejected, Request, Sampled, SequenceId};
use proto::ErrorCode;
use tokio::sync::{mpsc, oneshot};

use super::sequence_stream::{Event, SequenceStream};
use crate::failure::Failure;

/// Events of a sequence that are neither tokens nor prompt logprobs.
const OTHER_EVENTS: usize = 8;

/// What the thread is told between two steps.
pub(super) enum Command {
    /// Look for abandoned sequences.
    Wake,
    Add {
        request: Box<Request>,
        events_tx: mpsc::Sender<Result<Event, Failure>>,
        /// Told the sequence's number.
        done: oneshot::Sender<Result<u64, Failure>>,
    },
    Export(ExportCommand),
    Import {
        id: SequenceId,
        first_block: usize,
        blocks: Vec<Bytes>,
        done: oneshot::Sender<Result<(), Failure>>,
    },
    ImportDone {
        id: SequenceId,
        first_token: Option<Sampled>,
        done: oneshot::Sender<Result<(), Failure>>,
    },
    ImportFailed {
        id: SequenceId,
    },
}

pub(super) struct ExportCommand {
    pub(super) id: SequenceId,
    pub(super) from_block: usize,
    pub(super) max_bytes: usize,
    /// Answered once a block is computed; `None`: the sequence is gone.
    pub(super) done: oneshot::Sender<Result<Option<Exported>, Failure>>,
}

/// Blocks of a sequence that is handed over, in their wire form.
#[derive(Clone, Debug)]
pub struct Exported {
    pub blocks: Vec<Bytes>,
    /// These were the last ones of the prompt.
    pub done: bool,
}

/// Sequences whose owner left. No more of them than there are sequences.
#[derive(Default)]
pub(super) struct Abandoned {
    ids: Mutex<Vec<SequenceId>>,
}

impl Abandoned {
    pub(super) fn add(&self, id: SequenceId) {
        self.lock().push(id);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    pub(super) fn take(&self) -> Vec<SequenceId> {
        std::mem::take(&mut self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, Vec<SequenceId>> {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Talks to the engine thread. Clones are the same engine.
#[derive(Clone)]
pub struct EngineHandle {
    commands_tx: mpsc::Sender<Command>,
    abandoned: Arc<Abandoned>,
    next_id: Arc<AtomicU64>,
}

impl EngineHandle {
    pub(super) fn new(
        commands_tx: mpsc::Sender<Command>,
        abandoned: Arc<Abandoned>,
    ) -> EngineHandle {
        EngineHandle {
            commands_tx,
            abandoned,
            next_id: Arc::default(),
        }
    }

    /// A number no other sequence has.
    pub fn next_id(&self) -> SequenceId {
        SequenceId(self.next_id.fetch_add(1, Ordering::Relaxed))
    }

    /// Puts a sequence into the engine's queue. The stream owns it.
    pub async fn submit(&self, request: Request) -> Result<SequenceStream, Failure> {
        let id = request.id;
        let (events_tx, events_rx) = mpsc::channel(most_events(&request));
        // Made first, so that a caller that leaves while waiting aborts too.
        let mut stream = SequenceStream::new(
            id,
            events_rx,
            self.commands_tx.clone(),
            self.abandoned.clone(),
        );
        let request = Box::new(request);
        let number = self
            .ask(|done| Command::Add {
                request,
                events_tx,
                done,
            })
            .await??;
        stream.set_number(number);
        Ok(stream)
    }

    /// Blocks of the sequence from `from_block` on, about `max_bytes` of them
    /// but at least one; waits until there is one. `None`: it is gone.
    pub async fn export(
        &self,
        id: SequenceId,
        from_block: usize,
        max_bytes: usize,
    ) -> Result<Option<Exported>, Failure> {
        self.ask(|done| {
            Command::Export(ExportCommand {
                id,
                from_block,
                max_bytes,
                done,
            })
        })
        .await?
    }

    /// Fills blocks of a sequence that receives its KV; the receiver tells
    /// whether it worked.
    pub async fn import(
        &self,
        id: SequenceId,
        first_block: usize,
        blocks: Vec<Bytes>,
    ) -> Result<oneshot::Receiver<Result<(), Failure>>, Failure> {
        let (done, done_rx) = oneshot::channel();
        self.send(Command::Import {
            id,
            first_block,
            blocks,
            done,
        })
        .await?;
        Ok(done_rx)
    }

    /// All of the prompt's KV is there, and its first token: decode goes on.
    pub async fn import_done(
        &self,
        id: SequenceId,
        first_token: Option<Sampled>,
    ) -> Result<(), Failure> {
        self.ask(|done| Command::ImportDone {
            id,
            first_token,
            done,
        })
        .await?
    }

    /// The rest of the prompt's KV does not come: it is computed here.
    pub async fn import_failed(&self, id: SequenceId) -> Result<(), Failure> {
        self.send(Command::ImportFailed { id }).await
    }

    /// Resolves when the thread has ended.
    pub async fn ended(&self) {
        self.commands_tx.closed().await;
    }

    pub fn has_ended(&self) -> bool {
        self.commands_tx.is_closed()
    }

    async fn send(&self, command: Command) -> Result<(), Failure> {
        let sent = self.commands_tx.send(command).await;
        sent.map_err(|_| Failure::engine_failed())
    }

    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Result<T, Failure> {
        let (done, done_rx) = oneshot::channel();
        self.send(command(done)).await?;
        done_rx.await.map_err(|_| Failure::engine_failed())
    }
}

/// Upper limit of a sequence's events: each tells of at least one token. The
/// channel has room for all, so that the thread never waits for a slow reader;
/// memory is taken only for those that wait.
fn most_events(request: &Request) -> usize {
    let generated = request
        .sampling
        .max_tokens
        .saturating_sub(request.resumed_tokens);
    let scored = match request.sampling.prompt_logprobs {
        Some(_) => request.tokens.len(),
        None => 0,
    };
    let events = generated
        .saturating_add(scored)
        .saturating_add(OTHER_EVENTS);
    events.min(tokio::sync::Semaphore::MAX_PERMITS)
}

pub(super) fn rejection_failure(rejected: Rejected) -> Failure {
    let code = match rejected {
        Rejected::Busy { .. } => ErrorCode::WorkerBusy,
        Rejected::PromptTooLong { .. } => ErrorCode::ContextLengthExceeded,
        Rejected::Invalid(_) => ErrorCode::InvalidRequest,
    };
    Failure::new(code, rejected.to_string())
}

pub(super) fn import_failure(error: ImportError) -> Failure {
    Failure::new(ErrorCode::Internal, error.to_string())
}
