//! One attempt at a sequence, on the workers of one booking.
//!
//! Undivided: one call that generates. Split: the prefill call gives a ticket,
//! with which the decode call starts at once, so that KV moves while the prompt
//! still runs; the first token comes from whichever of them has it first. A
//! worker that falls silent in mid-sequence for longer than its own steps
//! explain is left.

use std::pin::Pin;
use std::sync::Arc;

use futures::StreamExt;
use futures::future::BoxFuture;
use proto::ErrorCode;
use tokio::time::{Instant, Sleep, sleep_until, timeout};
use tracing::{Instrument, Span, info_span};

use super::progress::Progress;
use super::verdict::Verdict;
use crate::cluster::{
    Answers, Booking, Cluster, DecodeEvent, PrefillEvent, Ticket, Work, WorkerRef,
};
use crate::error::ApiError;
use crate::sequence::{Event, Sequence};

/// A worker that could not do its part.
#[derive(Debug)]
pub(super) struct Failure {
    pub worker: Box<WorkerRef>,
    pub error: ApiError,
}

/// A call in flight, the span that lasts as long, and what it says of the
/// worker.
struct Call<T> {
    events: Answers<T>,
    verdict: Verdict,
    _span: Span,
}

/// What is attempted: the sequence as far as it was at the beginning, and where.
struct Task {
    cluster: Arc<Cluster>,
    booking: Booking,
    sequence: Sequence,
    generated: Vec<u32>,
    deadline: Option<Instant>,
}

/// Calls that were accepted.
struct Started {
    prefill: Option<Call<PrefillEvent>>,
    decode: Call<DecodeEvent>,
}

/// Calls in flight; dropping them cancels the sequence on the workers.
pub(super) struct Attempt {
    task: Arc<Task>,
    starting: Option<BoxFuture<'static, Result<Started, Failure>>>,
    prefill: Option<Call<PrefillEvent>>,
    decode: Option<Call<DecodeEvent>>,
    /// Of the decode call; set anew when it fires before its time.
    watchdog: Option<Pin<Box<Sleep>>>,
}

/// Something that a worker said.
pub(super) enum Happened {
    Prefill(PrefillEvent),
    Decode(DecodeEvent),
}

impl Attempt {
    pub fn new(
        cluster: &Arc<Cluster>,
        booking: Booking,
        progress: &Progress,
        deadline: Option<Instant>,
    ) -> Attempt {
        let task = Arc::new(Task {
            cluster: cluster.clone(),
            booking,
            sequence: progress.sequence().clone(),
            generated: progress.generated().to_vec(),
            deadline,
        });
        Attempt {
            starting: Some(Box::pin(start(task.clone()))),
            task,
            prefill: None,
            decode: None,
            watchdog: None,
        }
    }

    /// Ends the calls. The booking stays until the attempt is dropped.
    pub fn cancel(&mut self) {
        self.starting = None;
        self.prefill = None;
        self.decode = None;
    }

    /// Whom it uses.
    pub fn workers(&self) -> impl Iterator<Item = &WorkerRef> {
        let booking = &self.task.booking;
        std::iter::once(&booking.decode).chain(&booking.prefill)
    }

    /// The next thing that a worker says. Cancel-safe.
    pub async fn happened(&mut self) -> Result<Happened, Failure> {
        if let Some(starting) = &mut self.starting {
            let started = starting.await;
            self.starting = None;
            let started = started?;
            self.prefill = started.prefill;
            self.decode = Some(started.decode);
        }
        let happened = self.next().await;
        match &happened {
            Ok(happened) => self.judge(happened),
            Err(failure) => self.blame(failure),
        }
        happened
    }

    /// What it means for the client; `None` if nothing.
    pub fn take(
        &mut self,
        happened: Happened,
        progress: &mut Progress,
    ) -> Result<Option<Event>, Failure> {
        match happened {
            Happened::Prefill(event) => Ok(self.prefill_event(event, progress)),
            // Of a split prompt, what its prefill worker had cached counts.
            Happened::Decode(DecodeEvent::Started { .. })
                if self.task.booking.prefill.is_some() =>
            {
                Ok(None)
            }
            Happened::Decode(event) => progress.decode_event(event).map_err(|error| {
                let failure = failed(&self.task.booking.decode, error);
                self.blame(&failure);
                failure
            }),
        }
    }

    async fn next(&mut self) -> Result<Happened, Failure> {
        loop {
            let booking = &self.task.booking;
            let due = self.decode.as_ref().and_then(|call| call.stuck_at(booking));
            let watchdog = armed(&mut self.watchdog, due);
            tokio::select! {
                biased;
                Some(event) = next_of(self.prefill.as_mut()) => return match (event, &booking.prefill) {
                    (Some(Ok(event)), _) => Ok(Happened::Prefill(event)),
                    (Some(Err(error)), Some(worker)) => Err(failed(worker, error)),
                    (None, Some(worker)) => Err(failed(worker, lost("it ended early"))),
                    (_, None) => Err(failed(&booking.decode, lost("it was not asked to prefill"))),
                },
                Some(event) = next_of(self.decode.as_mut()) => return match event {
                    Some(Ok(event)) => Ok(Happened::Decode(event)),
                    Some(Err(error)) => Err(failed(&booking.decode, error)),
                    None => Err(failed(&booking.decode, lost("it ended early"))),
                },
                Some(()) = watchdog => {
                    self.watchdog = None;
                    if due.is_some_and(|due| Instant::now() >= due) {
                        let error = lost("it fell silent in mid-sequence");
                        return Err(failed(&booking.decode, error));
                    }
                },
                else => return Err(failed(&booking.decode, lost("it was not asked to decode"))),
            }
        }
    }

    fn judge(&mut self, happened: &Happened) {
        match happened {
            Happened::Prefill(PrefillEvent::FirstToken(_)) => {
                if let Some(call) = &mut self.prefill {
                    call.verdict.tokens(1);
                    call.verdict.served();
                }
            }
            Happened::Decode(DecodeEvent::Tokens { tokens, .. }) => {
                if let Some(call) = &mut self.decode {
                    call.verdict.tokens(tokens.len());
                }
            }
            Happened::Decode(DecodeEvent::Finished { .. }) => {
                if let Some(call) = &mut self.decode {
                    call.verdict.served();
                }
            }
            _ => {}
        }
    }

    fn blame(&mut self, failure: &Failure) {
        let is_prefill = self
            .task
            .booking
            .prefill
            .as_ref()
            .is_some_and(|worker| worker.slot == failure.worker.slot);
        let verdict = match is_prefill {
            true => self.prefill.as_mut().map(|call| &mut call.verdict),
            false => self.decode.as_mut().map(|call| &mut call.verdict),
        };
        if let Some(verdict) = verdict {
            verdict.failed(&failure.error);
        }
    }

    fn prefill_event(&mut self, event: PrefillEvent, progress: &mut Progress) -> Option<Event> {
        match event {
            PrefillEvent::Ticket(_) => None,
            PrefillEvent::Started { cached_tokens } => progress.started(cached_tokens),
            PrefillEvent::FirstToken(token) => {
                let index = self.task.generated.len();
                progress.tokens(index, vec![token]).ok()?
            }
            PrefillEvent::Transferred => {
                self.prefill = None;
                None
            }
        }
    }
}

/// Makes the calls, one after the other: the second needs the first one's
/// ticket.
async fn start(task: Arc<Task>) -> Result<Started, Failure> {
    let mut prefill = None;
    let mut ticket = None;
    if let Some(worker) = &task.booking.prefill {
        let (call, granted) = start_prefill(&task, worker).await?;
        prefill = Some(call);
        ticket = Some(granted);
    }
    let worker = &task.booking.decode;
    let span = info_span!("decode", worker = %worker.id);
    let mut verdict = Verdict::new(&task.cluster, worker);
    let work = task.work();
    let call = worker.client.generate(&work, ticket.as_ref());
    let call = accepted(worker, call, &span)
        .await
        .inspect_err(|failure| verdict.failed(&failure.error))?;
    task.booking.accepted(worker, call.number);
    let decode = Call {
        events: call.answers,
        verdict,
        _span: span,
    };
    Ok(Started { prefill, decode })
}

async fn start_prefill(
    task: &Task,
    worker: &WorkerRef,
) -> Result<(Call<PrefillEvent>, Ticket), Failure> {
    let span = info_span!("prefill", worker = %worker.id);
    let mut verdict = Verdict::new(&task.cluster, worker);
    let work = task.work();
    let call = async {
        let mut call = worker.client.prefill(&work).await?;
        match call.answers.next().await {
            Some(Ok(PrefillEvent::Ticket(ticket))) => Ok((call, ticket)),
            Some(Ok(_)) | None => Err(lost("it gave no ticket")),
            Some(Err(error)) => Err(error),
        }
    };
    let (call, ticket) = accepted(worker, call, &span)
        .await
        .inspect_err(|failure| verdict.failed(&failure.error))?;
    task.booking.accepted(worker, call.number);
    let call = Call {
        events: call.answers,
        verdict,
        _span: span,
    };
    Ok((call, ticket))
}

impl Task {
    fn work(&self) -> Work<'_> {
        Work {
            sequence: &self.sequence,
            generated: &self.generated,
            deadline: self.deadline,
        }
    }
}

impl Call<DecodeEvent> {
    /// When silence means that the worker is stuck; never before its first
    /// token, since queues may be long.
    fn stuck_at(&self, booking: &Booking) -> Option<Instant> {
        let last = self.verdict.last_tokens()?;
        last.checked_add(booking.decode.client.patience())
    }
}

/// The sleep until `due`. One that is there is kept although `due` may have
/// moved on: tokens come far more often than it fires.
async fn armed(watchdog: &mut Option<Pin<Box<Sleep>>>, due: Option<Instant>) -> Option<()> {
    let due = due?;
    let sleep = watchdog.get_or_insert_with(|| Box::pin(sleep_until(due)));
    sleep.as_mut().await;
    Some(())
}

/// Waits until `worker` accepts a call, which it does between two steps.
async fn accepted<T>(
    worker: &WorkerRef,
    call: impl Future<Output = Result<T, ApiError>>,
    span: &Span,
) -> Result<T, Failure> {
    let patience = worker.client.patience();
    let answer = timeout(patience, call.instrument(span.clone())).await;
    answer
        .unwrap_or_else(|_| Err(lost("it accepts no call")))
        .map_err(|error| failed(worker, error))
}

/// The next item of a call that is there.
async fn next_of<T>(call: Option<&mut Call<T>>) -> Option<Option<Result<T, ApiError>>> {
    match call {
        Some(call) => Some(call.events.next().await),
        None => None,
    }
}

fn failed(worker: &WorkerRef, error: ApiError) -> Failure {
    Failure {
        worker: Box::new(worker.clone()),
        error,
    }
}

fn lost(why: &str) -> ApiError {
    ApiError::new(ErrorCode::WorkerLost, why)
}
