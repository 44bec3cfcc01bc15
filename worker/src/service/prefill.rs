//! One Prefill call: computes a prompt for another worker, and keeps its blocks
//! until they are pulled.

use std::sync::Arc;
use std::time::Duration;

use async_stream::try_stream;
use engine::{KvSource, Purpose};
use futures::Stream;
use proto::ErrorCode;
use proto::worker as pb;
use proto::worker::prefill_event::Event as Answer;
use tokio::time::Instant;
use tracing::Span;

use super::Shared;
use crate::engine_thread::{Event, SequenceStream, Stage, StageTimes};
use crate::failure::Failure;
use crate::spans::StageSpans;
use crate::tickets::{Pulled, Ticket};
use crate::wire;

/// Queues the prompt, whose sequence and ticket the stream owns; its number in
/// the engine.
pub(super) async fn start(
    shared: Arc<Shared>,
    request: pb::PrefillRequest,
    span: Span,
) -> Result<(u64, impl Stream<Item = Result<pb::PrefillEvent, Failure>>), Failure> {
    let part = (KvSource::Compute, Purpose::HandOver);
    let engine_request = shared.request(request.prompt, part).await?;
    let spans = StageSpans::start(span);
    let sequence = shared.engine.submit(engine_request).await?;
    let mut call = Prefill {
        ticket: shared.tickets.issue(sequence.id()),
        sequence,
        lease: shared.ticket_lease,
        ready: None,
        spans,
    };
    let ticket = pb::KvTicket {
        address: shared.address.clone(),
        id: call.ticket.id().to_owned(),
    };
    let number = call.sequence.number();
    let events = try_stream! {
        yield pb::PrefillEvent { event: Some(Answer::Ticket(ticket)) };
        loop {
            let Some(answer) = call.next().await? else {
                continue;
            };
            let last = matches!(answer, Answer::Transferred(_));
            yield pb::PrefillEvent { event: Some(answer) };
            if last {
                break;
            }
        }
    };
    Ok((number, events))
}

struct Prefill {
    // Before `sequence`: nobody may claim a ticket whose blocks are gone.
    ticket: Ticket,
    sequence: SequenceStream,
    /// Blocks are kept so long after they are ready.
    lease: Duration,
    /// When all blocks were there to be pulled, and the times until then.
    ready: Option<(Instant, StageTimes)>,
    spans: StageSpans,
}

impl Prefill {
    /// Takes one event; `None` if the caller is not told of it.
    async fn next(&mut self) -> Result<Option<Answer>, Failure> {
        if let Some((ready, mut times)) = self.ready {
            let left = self.lease.saturating_sub(ready.elapsed());
            let pulled = self.ticket.pulled_within(left).await?;
            times.transfer += ready.elapsed();
            return Ok(Some(transferred(pulled, &times)));
        }
        let event = tokio::select! {
            // A pull ends well only after the events that let it.
            biased;
            event = self.sequence.next() => event?,
            pulled = self.ticket.pulled() => {
                return Ok(Some(transferred(pulled?, &StageTimes::default())));
            }
        };
        self.take(event)
    }

    fn take(&mut self, event: Event) -> Result<Option<Answer>, Failure> {
        Ok(match event {
            Event::Started {
                cached_tokens,
                queued,
            } => {
                self.spans.enter(Stage::Prefill);
                Some(Answer::Started(pb::Started {
                    cached_tokens: cached_tokens as u32,
                    queued_ms: wire::milliseconds(queued),
                }))
            }
            Event::Tokens { tokens, .. } => {
                let first = tokens.into_iter().next();
                let answer = first.as_ref().map(wire::token).map(Answer::FirstToken);
                self.ticket.computed(first);
                answer
            }
            Event::HandOver { times } => {
                self.spans.enter(Stage::Transfer);
                self.ready = Some((Instant::now(), times));
                None
            }
            Event::PromptLogprobs { .. } => None,
            Event::Receiving { .. } | Event::Embedding { .. } | Event::Finished { .. } => {
                let message = "the engine did not hand over a sequence that was to be handed over";
                return Err(Failure::new(ErrorCode::Internal, message));
            }
        })
    }
}

fn transferred(pulled: Pulled, times: &StageTimes) -> Answer {
    Answer::Transferred(pb::Transferred {
        blocks: pulled.blocks as u32,
        bytes: pulled.bytes as u64,
        times: Some(wire::stage_times(times)),
    })
}
