//! One attempt at a sequence, on the workers of one booking.
//!
//! Undivided: one call that generates. Split: the prefill call gives a ticket,
//! with which the decode call starts at once, so that KV moves while the prompt
//! still runs; the first token comes from whichever of them has it first.

use std::pin::Pin;

use futures::{Stream, StreamExt};
use proto::ErrorCode;
use tracing::{Instrument, Span, info_span};

use super::progress::Progress;
use crate::cluster::{Booking, DecodeEvent, PrefillEvent, WorkerRef};
use crate::error::ApiError;
use crate::sequence::Event;

/// A worker that could not do its part.
#[derive(Debug)]
pub(super) struct Failure {
    pub worker: WorkerRef,
    pub error: ApiError,
}

/// A call in flight, and the span that lasts as long.
struct Call<T> {
    events: Pin<Box<dyn Stream<Item = Result<T, ApiError>> + Send>>,
    _span: Span,
}

/// Calls in flight; dropping them cancels the sequence on the workers.
pub(super) struct Attempt<'a> {
    booking: &'a Booking,
    prefill: Option<Call<PrefillEvent>>,
    decode: Option<Call<DecodeEvent>>,
    /// Index of the first token that this attempt generates.
    first_index: usize,
}

impl<'a> Attempt<'a> {
    pub fn new(booking: &'a Booking) -> Attempt<'a> {
        Attempt {
            booking,
            prefill: None,
            decode: None,
            first_index: 0,
        }
    }

    /// The next thing that happens; `None` if it is nothing for the client.
    pub async fn next(&mut self, progress: &mut Progress) -> Result<Option<Event>, Failure> {
        if self.decode.is_none() {
            self.start(progress).await?;
        }
        match self.happened().await? {
            Happened::Prefill(event) => Ok(self.prefill_event(event, progress)),
            // Of a split prompt, what its prefill worker had cached counts.
            Happened::Decode(DecodeEvent::Started { .. }) if self.split() => Ok(None),
            Happened::Decode(event) => progress
                .decode_event(event)
                .map_err(|error| failed(&self.booking.decode, error)),
        }
    }

    fn split(&self) -> bool {
        self.booking.prefill.is_some()
    }

    async fn start(&mut self, progress: &Progress) -> Result<(), Failure> {
        let (sequence, generated) = (progress.sequence(), progress.generated());
        self.first_index = generated.len();
        let decode = &self.booking.decode;
        let mut ticket = None;
        if let Some(worker) = &self.booking.prefill {
            let span = info_span!("prefill", worker = %worker.id);
            let call = async {
                let mut events = worker.client.prefill(sequence, generated).await?;
                match events.next().await {
                    Some(Ok(PrefillEvent::Ticket(ticket))) => Ok((events, ticket)),
                    Some(Ok(_)) | None => Err(lost("it gave no ticket")),
                    Some(Err(error)) => Err(error),
                }
            };
            let (events, granted) = call
                .instrument(span.clone())
                .await
                .map_err(|error| failed(worker, error))?;
            self.booking.accepted(worker);
            self.prefill = Some(Call {
                events: Box::pin(events),
                _span: span,
            });
            ticket = Some(granted);
        }
        let span = info_span!("decode", worker = %decode.id);
        let events = decode
            .client
            .generate(sequence, generated, ticket.as_ref())
            .instrument(span.clone())
            .await
            .map_err(|error| failed(decode, error))?;
        self.booking.accepted(decode);
        self.decode = Some(Call {
            events: Box::pin(events),
            _span: span,
        });
        Ok(())
    }

    async fn happened(&mut self) -> Result<Happened, Failure> {
        let booking = self.booking;
        let prefill = self.prefill.as_mut();
        let decode = self.decode.as_mut();
        tokio::select! {
            biased;
            Some(event) = next_of(prefill) => match (event, &booking.prefill) {
                (Some(Ok(event)), _) => Ok(Happened::Prefill(event)),
                (Some(Err(error)), Some(worker)) => Err(failed(worker, error)),
                (None, Some(worker)) => Err(failed(worker, lost("it ended early"))),
                (_, None) => Err(failed(&booking.decode, lost("it was not asked to prefill"))),
            },
            Some(event) = next_of(decode) => match event {
                Some(Ok(event)) => Ok(Happened::Decode(event)),
                Some(Err(error)) => Err(failed(&booking.decode, error)),
                None => Err(failed(&booking.decode, lost("it ended early"))),
            },
            else => Err(failed(&booking.decode, lost("it was not asked to decode"))),
        }
    }

    fn prefill_event(&mut self, event: PrefillEvent, progress: &mut Progress) -> Option<Event> {
        match event {
            PrefillEvent::Ticket(_) => None,
            PrefillEvent::Started { cached_tokens } => progress.started(cached_tokens),
            PrefillEvent::FirstToken(token) => {
                progress.tokens(self.first_index, vec![token]).ok()?
            }
            PrefillEvent::Transferred => {
                self.prefill = None;
                None
            }
        }
    }
}

enum Happened {
    Prefill(PrefillEvent),
    Decode(DecodeEvent),
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
        worker: worker.clone(),
        error,
    }
}

fn lost(why: &str) -> ApiError {
    ApiError::new(ErrorCode::WorkerLost, why)
}
