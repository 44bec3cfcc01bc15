//! Replies: the pieces of all choices as one JSON body or as server-sent events.
//!
//! Nothing is answered before the first piece (or a long wait for it), so that
//! a request that fails early gets a proper status. The response body owns the
//! sequences' events: when it ends or is dropped, they are.

mod choices;
mod collect;
mod embeddings;
mod render;
mod stream;
mod usage;

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::body::Body;
use axum::response::Response;
use futures::stream::{Peekable, StreamExt};
use http::HeaderValue;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName};
use serde::Serialize;

use crate::error::ApiError;
use crate::openai::{ChatRequest, CompletionRequest, EmbeddingRequest, UsageObject};
use crate::sequence::{Events, Sequence};
use crate::tokenize::{Choice, TextOptions};
use choices::Choices;
use render::Render;
use usage::Tally;

/// The longest a streaming client waits for its status; less than the idle
/// limit of common proxies.
const MAX_SILENCE: Duration = Duration::from_secs(10);

type Pieces = Peekable<Choices>;

/// A reply in the making.
struct Reply {
    head: Head,
    render: Render,
    tally: Tally,
    pieces: Pieces,
}

/// What all chunks of a reply have in common.
struct Head {
    /// `{"id": ..., "choices":[`
    json: Vec<u8>,
    /// A stream's chunks say that they have no usage, but for the last.
    include_usage: bool,
    /// Shown once.
    prompt_token_ids: Option<Arc<[u32]>>,
}

#[derive(Serialize)]
struct HeadFields<'a> {
    id: String,
    object: &'static str,
    created: u64,
    model: &'a str,
    system_fingerprint: String,
    choices: [(); 0],
}

/// The reply to a chat; `runs` are the events of `sequences`, in their order.
pub async fn chat(
    chat: &ChatRequest,
    sequences: &[Sequence],
    runs: Vec<Events>,
) -> Result<Response, ApiError> {
    let options = &chat.generate.options;
    let object = if chat.stream {
        "chat.completion.chunk"
    } else {
        "chat.completion"
    };
    let prompt = sequences.first().filter(|_| chat.return_token_ids);
    let reply = Reply {
        head: Head {
            include_usage: chat.include_usage,
            prompt_token_ids: prompt.map(|sequence| Arc::clone(&sequence.prompt)),
            ..Head::new("chatcmpl", object, sequences)
        },
        render: Render::chat(chat, sequences),
        tally: Tally::new(sequences, options.n),
        pieces: pieces(sequences, runs, &text_options(chat, sequences)),
    };
    reply.respond(chat.stream).await
}

/// The reply to a completion; `runs` are the events of `sequences`, in their
/// order.
pub async fn completion(
    completion: &CompletionRequest,
    sequences: &[Sequence],
    runs: Vec<Events>,
) -> Result<Response, ApiError> {
    let options = &completion.generate.options;
    let reply = Reply {
        head: Head {
            include_usage: completion.include_usage,
            ..Head::new("cmpl", "text_completion", sequences)
        },
        render: Render::completion(completion, sequences),
        tally: Tally::new(sequences, options.n),
        pieces: pieces(sequences, runs, &options.text),
    };
    reply.respond(completion.stream).await
}

/// The reply to a request for embeddings; `runs` are the events of `sequences`,
/// in their order.
pub async fn embeddings(
    asked: &EmbeddingRequest,
    sequences: &[Sequence],
    runs: Vec<Events>,
) -> Result<Response, ApiError> {
    let body = embeddings::collect(asked, sequences, runs).await?;
    Ok(response("application/json", Body::from(body)))
}

impl Reply {
    async fn respond(mut self, stream: bool) -> Result<Response, ApiError> {
        if !stream {
            let body = collect::collect(self).await?;
            return Ok(response("application/json", Body::from(body)));
        }
        let first = Pin::new(&mut self.pieces).peek();
        if let Ok(Some(Err(error))) = tokio::time::timeout(MAX_SILENCE, first).await {
            return Err(error.clone());
        }
        let body = Body::from_stream(stream::SseStream::new(self));
        let mut response = response("text/event-stream", body);
        let headers = response.headers_mut();
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        // nginx would collect the stream otherwise.
        let buffering = HeaderName::from_static("x-accel-buffering");
        headers.insert(buffering, HeaderValue::from_static("no"));
        Ok(response)
    }
}

impl Head {
    fn new(kind: &str, object: &'static str, sequences: &[Sequence]) -> Head {
        let first = sequences.first();
        let model = first.map(|sequence| &sequence.model);
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let fields = HeadFields {
            id: format!("{kind}-{}", first.map_or("", |first| &first.request_id)),
            object,
            created: now.map_or(0, |now| now.as_secs()),
            model: model.map_or("", |model| model.name()),
            system_fingerprint: format!("fp_{:.12}", model.map_or("", |model| model.fingerprint())),
            choices: [],
        };
        let mut json = Vec::new();
        write_json(&mut json, &fields);
        // Choices and what follows them differ from chunk to chunk.
        json.truncate(json.len() - "]}".len());
        Head {
            json,
            include_usage: false,
            prompt_token_ids: None,
        }
    }

    fn open(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.json);
    }

    /// Ends what [`Head::open`] began. `usage`: not to be shown, null or known.
    fn close(&mut self, usage: Option<Option<UsageObject>>, out: &mut Vec<u8>) {
        out.push(b']');
        if let Some(ids) = self.prompt_token_ids.take() {
            out.extend_from_slice(b",\"prompt_token_ids\":");
            write_json(out, &ids[..]);
        }
        if let Some(usage) = usage {
            out.extend_from_slice(b",\"usage\":");
            write_json(out, &usage);
        }
        out.push(b'}');
    }
}

/// Markers of tool calls that are special tokens have to be seen.
fn text_options(chat: &ChatRequest, sequences: &[Sequence]) -> TextOptions {
    let options = &chat.generate.options;
    let hides = |sequence: &Sequence| {
        let mut markers = sequence.tool_format.markers().iter();
        markers.any(|marker| sequence.model.special_token(marker).is_some())
    };
    let shown = options.tools.is_some() && sequences.first().is_some_and(hides);
    TextOptions {
        skip_special_tokens: options.text.skip_special_tokens && !shown,
        ..options.text.clone()
    }
}

fn pieces(sequences: &[Sequence], runs: Vec<Events>, options: &TextOptions) -> Pieces {
    let choices = sequences.iter().zip(runs);
    let choices = choices.map(|(sequence, events)| Choice::new(sequence, options, events));
    Choices::new(choices).peekable()
}

fn response(content_type: &'static str, body: Body) -> Response {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// Appends `value`.
pub(super) fn write_json(out: &mut Vec<u8>, value: &(impl Serialize + ?Sized)) {
    serde_json::to_writer(out, value)
        .expect("our own types have string keys and finite numbers, and memory takes all");
}

#[cfg(test)]
mod tests;
