//! One Generate call: a sequence from its prompt to its end.

use std::sync::Arc;

use async_stream::try_stream;
use engine::KvSource;
use futures::Stream;
use proto::ErrorCode;
use proto::worker as pb;
use proto::worker::generate_event::Event as Answer;
use tracing::{Instrument, Span};

use super::Shared;
use crate::deadline::Deadline;
use crate::engine_thread::{Event, SequenceStream, Stage};
use crate::failure::Failure;
use crate::spans::StageSpans;
use crate::wire;

/// What is asked, and the conditions.
pub(super) struct Call {
    pub request: pb::GenerateRequest,
    pub deadline: Deadline,
    pub span: Span,
}

/// Queues the sequence, which the stream owns; its number in the engine.
pub(super) async fn start(
    shared: Arc<Shared>,
    call: Call,
) -> Result<(u64, impl Stream<Item = Result<pb::GenerateEvent, Failure>>), Failure> {
    let Call {
        request,
        deadline,
        span,
    } = call;
    let kv = match request.kv {
        Some(_) => KvSource::Receive,
        None => KvSource::Compute,
    };
    let purpose = wire::purpose(request.prompt.as_ref());
    let engine_request = shared.request(request.prompt, (kv, purpose)).await?;
    let prompt_tokens = engine_request.tokens.len();
    let spans = StageSpans::start(span);
    let mut call = Generate {
        sequence: shared.engine.submit(engine_request).await?,
        shared,
        ticket: request.kv,
        deadline,
        prompt_tokens,
        cached_tokens: 0,
        transferred_tokens: 0,
        spans,
    };
    let number = call.sequence.number();
    let events = try_stream! {
        loop {
            let Some(answer) = call.next().await? else {
                continue;
            };
            let last = matches!(answer, Answer::Finished(_));
            yield pb::GenerateEvent { event: Some(answer) };
            if last {
                break;
            }
        }
    };
    Ok((number, events))
}

struct Generate {
    shared: Arc<Shared>,
    sequence: SequenceStream,
    ticket: Option<pb::KvTicket>,
    /// For what is pulled on behalf of this call.
    deadline: Deadline,
    prompt_tokens: usize,
    cached_tokens: usize,
    transferred_tokens: usize,
    spans: StageSpans,
}

impl Generate {
    /// Takes one event; `None` if the caller is not told of it.
    async fn next(&mut self) -> Result<Option<Answer>, Failure> {
        Ok(match self.sequence.next().await? {
            Event::Started {
                cached_tokens,
                queued,
            } => {
                self.spans.enter(Stage::Prefill);
                self.cached_tokens = cached_tokens;
                Some(Answer::Started(pb::Started {
                    cached_tokens: cached_tokens as u32,
                    queued_ms: wire::milliseconds(queued),
                }))
            }
            Event::Receiving { first_block } => {
                self.receive(first_block).await?;
                None
            }
            Event::Tokens { index, tokens } => {
                self.spans.enter(Stage::Decode);
                Some(Answer::Tokens(pb::Tokens {
                    index: index as u32,
                    tokens: wire::tokens(&tokens),
                }))
            }
            Event::PromptLogprobs { index, tokens } => {
                Some(Answer::PromptLogprobs(pb::PromptLogprobs {
                    index: index as u32,
                    tokens: wire::tokens(&tokens),
                }))
            }
            Event::Embedding { values } => Some(Answer::Embedding(pb::Embedding { values })),
            Event::HandOver { .. } => {
                let message = "the engine handed over a sequence that is to be generated";
                return Err(Failure::new(ErrorCode::Internal, message));
            }
            Event::Finished { reason, times } => Some(Answer::Finished(pb::Finished {
                reason: wire::finish_reason(reason).into(),
                cached_tokens: self.cached_tokens as u32,
                transferred_tokens: self.transferred_tokens as u32,
                times: Some(wire::stage_times(&times)),
            })),
        })
    }

    async fn receive(&mut self, first_block: usize) -> Result<(), Failure> {
        self.spans.enter(Stage::Transfer);
        let Some(ticket) = self.ticket.take() else {
            return self.shared.engine.import_failed(self.sequence.id()).await;
        };
        let receive =
            self.shared
                .receiver
                .receive(self.sequence.id(), first_block, &ticket, self.deadline);
        let pulled = receive.instrument(self.spans.stage().clone()).await?;
        let block_size = self.shared.identity.block_size;
        let end = ((first_block + pulled.blocks) * block_size).min(self.prompt_tokens);
        self.transferred_tokens = end.saturating_sub(first_block * block_size);
        self.spans.enter(Stage::Prefill);
        Ok(())
    }
}
