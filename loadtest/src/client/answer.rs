//! What an answer says, picked out of its JSON without building it.

use std::borrow::Cow;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

use http::HeaderMap;
use proto::worker;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::Event;
use crate::planned::Output;
use crate::record::{Outcome, Usage};

const DECODE_WORKER: &str = "x-kvasir-decode-worker";
const PREFILL_WORKER: &str = "x-kvasir-prefill-worker";

/// An answer as far as it has come.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    /// There was a connection to send the request on.
    pub(crate) connected: Option<Instant>,
    /// The first byte of the request went to the kernel.
    pub(crate) sent: Option<Instant>,
    /// Chunks with output: arrival and tokens.
    pub(crate) chunks: Vec<(Instant, u32)>,
    pub(crate) ended: Option<Instant>,
    pub(crate) usage: Option<Usage>,
    /// What was said, if a next turn needs it.
    pub(crate) text: Option<String>,
    pub(crate) prefill_worker: Option<Arc<str>>,
    pub(crate) decode_worker: Option<Arc<str>>,
    finish: Option<Finish>,
    /// Tokens of all chunks.
    counted: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Finish {
    Length,
    Abort,
    Error,
    /// The model ended: an end token, a stop string, a tool call.
    Other,
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow, default)]
    choices: Vec<Choice<'a>>,
    usage: Option<WireUsage>,
    error: Option<IgnoredAny>,
    #[serde(borrow)]
    object: Option<Text<'a>>,
}

#[derive(Deserialize)]
struct Choice<'a> {
    #[serde(borrow)]
    text: Option<Text<'a>>,
    /// `message` in an answer that is not a stream.
    #[serde(borrow, alias = "message")]
    delta: Option<Delta<'a>>,
    #[serde(borrow)]
    finish_reason: Option<Text<'a>>,
    /// Of no size: only their number is kept.
    token_ids: Option<Vec<IgnoredAny>>,
}

#[derive(Deserialize)]
struct Delta<'a> {
    #[serde(borrow)]
    content: Option<Text<'a>>,
    #[serde(borrow, alias = "reasoning")]
    reasoning_content: Option<Text<'a>>,
    tool_calls: Option<Vec<IgnoredAny>>,
}

/// Borrowed unless it has escapes; a bare `Option<Cow>` would always be owned.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

#[derive(Deserialize)]
struct WireUsage {
    #[serde(default)]
    prompt_tokens: u32,
    #[serde(default)]
    completion_tokens: u32,
    prompt_tokens_details: Option<PromptDetails>,
}

#[derive(Deserialize)]
struct PromptDetails {
    cached_tokens: Option<u32>,
}

impl Answer {
    /// Keeps what is said if `keep_text`.
    pub(crate) fn new(keep_text: bool) -> Answer {
        Answer {
            text: keep_text.then(String::new),
            ..Answer::default()
        }
    }

    pub(super) fn read_workers(&mut self, headers: &HeaderMap) {
        let read = |name| headers.get(name)?.to_str().ok().map(Arc::from);
        self.decode_worker = read(DECODE_WORKER);
        self.prefill_worker = read(PREFILL_WORKER);
    }

    /// Reads an event that arrived at `at`; breaks with the end of the answer.
    pub(super) fn read_event(
        &mut self,
        at: Instant,
        event: Event<'_>,
    ) -> ControlFlow<Result<(), Outcome>> {
        if event.data == b"[DONE]" {
            return ControlFlow::Break(Ok(()));
        }
        if event.name == b"error" {
            return ControlFlow::Break(Err(Outcome::ErrorEvent));
        }
        match read(event.data) {
            Ok(message) => {
                self.take(at, &message, false);
                ControlFlow::Continue(())
            }
            Err(outcome) => ControlFlow::Break(Err(outcome)),
        }
    }

    /// Reads an answer that came in one body.
    pub(super) fn read_body(&mut self, at: Instant, body: &[u8]) -> Result<(), Outcome> {
        let message = read(body)?;
        if message.choices.is_empty() {
            return Err(Outcome::Malformed);
        }
        self.take(at, &message, true);
        Ok(())
    }

    /// Reads what a worker says, which arrived at `at`.
    pub(super) fn read_worker(
        &mut self,
        at: Instant,
        event: worker::generate_event::Event,
    ) -> ControlFlow<Result<(), Outcome>> {
        use worker::generate_event::Event;
        let usage = self.usage.get_or_insert_default();
        match event {
            Event::Started(started) => usage.cached_tokens = Some(started.cached_tokens),
            Event::PromptLogprobs(_) | Event::Embedding(_) => {}
            Event::Tokens(part) => {
                let tokens = part.tokens.len() as u32;
                usage.completion_tokens += tokens;
                self.counted += tokens;
                self.chunks.push((at, tokens));
            }
            Event::Finished(finished) => {
                self.finish = Some(match finished.reason() {
                    worker::FinishReason::Length => Finish::Length,
                    worker::FinishReason::Stop => Finish::Other,
                    worker::FinishReason::Unspecified => Finish::Error,
                });
                return ControlFlow::Break(Ok(()));
            }
        }
        ControlFlow::Continue(())
    }

    /// What a body in place of a stream means.
    pub(super) fn refusal(body: &[u8]) -> Outcome {
        read(body).err().unwrap_or(Outcome::Malformed)
    }

    fn take(&mut self, at: Instant, message: &Message<'_>, whole: bool) {
        let told = message.usage.as_ref().map(|it| it.completion_tokens);
        if let Some(usage) = &message.usage {
            let details = usage.prompt_tokens_details.as_ref();
            self.usage = Some(Usage {
                prompt_tokens: usage.prompt_tokens,
                completion_tokens: usage.completion_tokens,
                cached_tokens: details.and_then(|it| it.cached_tokens),
            });
        }
        for choice in &message.choices {
            if let Some(reason) = &choice.finish_reason {
                self.finish = Some(Finish::of(&reason.0));
            }
            if !choice.has_output() {
                continue;
            }
            // A server may tell of tokens by their ids, or count them in every chunk.
            let ids = choice.token_ids.as_ref().map(|it| it.len() as u32);
            let since = told.map(|it| it.saturating_sub(self.counted));
            let tokens = if whole { told.or(ids) } else { ids.or(since) };
            let tokens = tokens.unwrap_or(1).max(1);
            self.counted += tokens;
            self.chunks.push((at, tokens));
            if let Some(text) = &mut self.text {
                text.push_str(choice.said());
            }
        }
    }

    /// How an answer ended that came whole. Without a count by the server none
    /// is claimed to be wrong: chunks aren't tokens.
    pub(super) fn judge(&self, asked: Output) -> Outcome {
        let tokens = self.usage.map(|it| it.completion_tokens);
        match (self.finish, tokens) {
            (Some(Finish::Error), _) => Outcome::ErrorEvent,
            (None | Some(Finish::Abort), None) => Outcome::Truncated,
            (_, Some(tokens)) if asked.exact => match tokens == asked.max_tokens {
                true => Outcome::Complete,
                false => Outcome::WrongTokenCount,
            },
            (_, Some(tokens)) if tokens > asked.max_tokens => Outcome::WrongTokenCount,
            (None | Some(Finish::Abort), _) => Outcome::Truncated,
            (Some(Finish::Length), Some(tokens)) if tokens < asked.max_tokens => Outcome::Truncated,
            (Some(Finish::Other), None) if asked.exact => Outcome::Truncated,
            _ => Outcome::Complete,
        }
    }
}

fn read(json: &[u8]) -> Result<Message<'_>, Outcome> {
    let message: Message<'_> = serde_json::from_slice(json).map_err(|_| Outcome::Malformed)?;
    let is_error = message.object.as_ref().is_some_and(|it| it.0 == "error");
    if message.error.is_some() || is_error {
        return Err(Outcome::ErrorEvent);
    }
    Ok(message)
}

impl Choice<'_> {
    fn has_output(&self) -> bool {
        let calls = self.delta.as_ref().and_then(|it| it.tool_calls.as_ref());
        let thought = self
            .delta
            .as_ref()
            .and_then(|it| it.reasoning_content.as_ref());
        // Tokens may have no text yet: part of a character, or a special token.
        self.token_ids.as_ref().is_some_and(|it| !it.is_empty())
            || !self.said().is_empty()
            || thought.is_some_and(|it| !it.0.is_empty())
            || calls.is_some_and(|it| !it.is_empty())
    }

    fn said(&self) -> &str {
        let content = self.delta.as_ref().and_then(|it| it.content.as_ref());
        content.or(self.text.as_ref()).map_or("", |it| &it.0)
    }
}

impl Finish {
    fn of(reason: &str) -> Finish {
        match reason {
            "length" => Finish::Length,
            "abort" => Finish::Abort,
            "error" => Finish::Error,
            _ => Finish::Other,
        }
    }
}

#[cfg(test)]
mod tests;
