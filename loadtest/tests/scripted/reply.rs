//! How a scripted worker answers a call.

use std::collections::VecDeque;
use std::sync::Mutex;

use futures::StreamExt;
use futures::stream::{self, BoxStream};
use proto::ErrorCode;
use proto::worker as pb;
use tonic::Status;

/// What a call gets.
pub enum Reply<T> {
    Refusal(Status),
    Stream(Vec<T>, Then),
}

/// How a stream goes on after its events.
pub enum Then {
    End,
    Failure(Status),
    /// It stays open and silent.
    Silence,
}

pub type GenerateReply = Reply<pb::GenerateEvent>;
pub type PrefillReply = Reply<pb::PrefillEvent>;

impl<T: Send + 'static> Reply<T> {
    pub fn refusal(code: ErrorCode) -> Reply<T> {
        Reply::Refusal(proto::status(code, "as the script says"))
    }

    pub fn into_stream(self) -> Result<BoxStream<'static, Result<T, Status>>, Status> {
        let (events, then) = match self {
            Reply::Refusal(status) => return Err(status),
            Reply::Stream(events, then) => (events, then),
        };
        let events = stream::iter(events).map(Ok);
        Ok(match then {
            Then::End => events.boxed(),
            Then::Failure(status) => events.chain(stream::iter([Err(status)])).boxed(),
            Then::Silence => events.chain(stream::pending()).boxed(),
        })
    }
}

/// The replies to one call after another; the last one is given again and again.
pub fn in_turn(
    replies: impl IntoIterator<Item = fn(&pb::GenerateRequest) -> GenerateReply>,
) -> impl Fn(&pb::GenerateRequest) -> GenerateReply + Send + Sync + 'static {
    let replies: Mutex<VecDeque<_>> = Mutex::new(replies.into_iter().collect());
    move |request| {
        let mut replies = replies.lock().expect("no panic while locked");
        let reply = match replies.len() {
            1 => replies[0],
            _ => replies.pop_front().expect("a reply is given"),
        };
        reply(request)
    }
}

/// Token `index` of every sequence.
pub fn token_at(index: u32) -> u32 {
    100 + index
}

/// Tokens `0..n` of every sequence.
pub fn first_tokens(n: u32) -> Vec<u32> {
    (0..n).map(token_at).collect()
}

/// How many tokens of a sequence exist before the call.
pub fn resumed(request: &pb::GenerateRequest) -> u32 {
    request
        .prompt
        .as_ref()
        .map_or(0, |prompt| prompt.resumed_tokens)
}

/// All that is missing, to the end.
pub fn whole(request: &pb::GenerateRequest) -> GenerateReply {
    let sampling = request
        .prompt
        .as_ref()
        .and_then(|prompt| prompt.sampling.as_ref());
    let end = sampling.map_or(0, |sampling| sampling.max_tokens);
    let ids: Vec<u32> = (resumed(request)..end).map(token_at).collect();
    let events = vec![
        started(0),
        tokens(resumed(request), &ids),
        finished(pb::FinishReason::Length),
    ];
    Reply::Stream(events, Then::End)
}

pub fn busy(_: &pb::GenerateRequest) -> GenerateReply {
    Reply::refusal(ErrorCode::WorkerBusy)
}

pub fn engine_failed(_: &pb::GenerateRequest) -> GenerateReply {
    Reply::refusal(ErrorCode::EngineFailed)
}

pub fn started(cached_tokens: u32) -> pb::GenerateEvent {
    event(pb::generate_event::Event::Started(pb::Started {
        cached_tokens,
        queued_ms: 0.0,
    }))
}

pub fn tokens(index: u32, ids: &[u32]) -> pb::GenerateEvent {
    event(pb::generate_event::Event::Tokens(pb::Tokens {
        index,
        tokens: ids.iter().copied().map(token).collect(),
    }))
}

pub fn finished(reason: pb::FinishReason) -> pb::GenerateEvent {
    event(pb::generate_event::Event::Finished(pb::Finished {
        reason: reason.into(),
        ..pb::Finished::default()
    }))
}

pub fn token(id: u32) -> pb::Token {
    pb::Token {
        id,
        ..pb::Token::default()
    }
}

fn event(event: pb::generate_event::Event) -> pb::GenerateEvent {
    pb::GenerateEvent { event: Some(event) }
}
