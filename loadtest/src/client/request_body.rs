//! Requests as they go over the wire, made once and straight from what was
//! planned.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::HeaderValue;
use proto::worker;
use serde::ser::SerializeSeq;
use serde::{Serialize, Serializer};

use super::Target;
use crate::planned::{ChatMessage, Output, PlannedRequest, Prompt};

/// Where a request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    Chat,
    Completions,
    /// Of a worker.
    Generate,
}

/// A request as it goes over the wire, and what its answer is held against.
#[derive(Clone, Debug)]
pub(crate) struct Encoded {
    pub(crate) route: Route,
    pub(crate) body: Bytes,
    /// In place of a body, to a worker.
    pub(crate) prompt: Option<worker::Prompt>,
    pub(crate) stream: bool,
    pub(crate) output: Output,
    pub(crate) tenant: Option<HeaderValue>,
    /// Of its tenant, in place of the endpoint's.
    pub(crate) authorization: Option<HeaderValue>,
}

/// Writes requests for one target.
pub(crate) struct Encoder {
    model: String,
    stream: bool,
    to_worker: bool,
    /// Members of every body, written: `,"key":value`.
    extra: Vec<u8>,
    /// By tenant.
    authorizations: BTreeMap<String, HeaderValue>,
}

#[derive(Serialize)]
struct Body<'a> {
    model: &'a str,
    stream: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream_options: Option<StreamOptions>,
    max_tokens: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    min_tokens: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ignore_eos: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    priority: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    messages: Option<Messages<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt: Option<Text<'a>>,
}

#[derive(Serialize)]
struct StreamOptions {
    include_usage: bool,
}

struct Messages<'a>(&'a [ChatMessage]);

#[derive(Serialize)]
struct Message<'a> {
    role: &'a str,
    content: &'a str,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Text<'a> {
    Written(&'a str),
    Tokens(&'a [u32]),
}

impl Encoder {
    pub(crate) fn new(target: &Target) -> Encoder {
        let mut extra = serde_json::to_vec(&target.extra_body).unwrap_or_default();
        extra.pop();
        if let Some(brace) = extra.first_mut() {
            *brace = b',';
        }
        if extra.len() == 1 {
            extra.clear();
        }
        let authorization = |(tenant, key): (&String, &String)| {
            let value = HeaderValue::from_str(&format!("Bearer {key}"));
            Some((tenant.clone(), value.ok()?))
        };
        Encoder {
            model: target.model.clone(),
            stream: target.stream,
            to_worker: target.is_worker(),
            extra,
            authorizations: target
                .tenant_keys
                .iter()
                .filter_map(authorization)
                .collect(),
        }
    }

    pub(crate) fn encode(&self, request: &PlannedRequest) -> Encoded {
        if self.to_worker {
            return for_worker(request);
        }
        let output = request.output;
        let (messages, prompt) = match &request.prompt {
            Prompt::Chat(messages) => (Some(Messages(messages)), None),
            Prompt::Text(text) => (None, Some(Text::Written(text))),
            Prompt::Tokens(tokens) => (None, Some(Text::Tokens(tokens))),
        };
        let route = if messages.is_some() {
            Route::Chat
        } else {
            Route::Completions
        };
        let body = Body {
            model: &self.model,
            stream: self.stream,
            stream_options: self.stream.then_some(StreamOptions {
                include_usage: true,
            }),
            max_tokens: output.max_tokens,
            min_tokens: output.exact.then_some(output.max_tokens),
            ignore_eos: output.exact.then_some(true),
            priority: request.priority,
            messages,
            prompt,
        };
        let mut bytes = serde_json::to_vec(&body).expect("a body has only strings and numbers");
        bytes.pop();
        bytes.extend_from_slice(&self.extra);
        bytes.push(b'}');
        let tenant = request.tenant.as_deref();
        Encoded {
            route,
            body: bytes.into(),
            prompt: None,
            stream: self.stream,
            output,
            authorization: tenant.and_then(|it| self.authorizations.get(it).cloned()),
            tenant: tenant.and_then(|it| HeaderValue::from_str(it).ok()),
        }
    }
}

/// A worker knows no text: of a prompt that is no tokens it gets none, and
/// refuses it.
fn for_worker(request: &PlannedRequest) -> Encoded {
    let output = request.output;
    let token_ids = match &request.prompt {
        Prompt::Tokens(tokens) => tokens.clone(),
        Prompt::Chat(_) | Prompt::Text(_) => Vec::new(),
    };
    let prompt = worker::Prompt {
        request_id: format!("loadtest-{}", request.number),
        token_ids,
        resumed_tokens: 0,
        sampling: Some(worker::Sampling {
            temperature: 1.0,
            top_p: 1.0,
            repetition_penalty: 1.0,
            seed: request.number,
            ignore_eos: output.exact,
            max_tokens: output.max_tokens,
            min_tokens: if output.exact { output.max_tokens } else { 0 },
            ..worker::Sampling::default()
        }),
        cache_salt: String::new(),
        constraint: None,
        pooling: worker::Pooling::None.into(),
        priority: request.priority.unwrap_or_default(),
    };
    Encoded {
        route: Route::Generate,
        body: Bytes::new(),
        prompt: Some(prompt),
        stream: true,
        output,
        tenant: None,
        authorization: None,
    }
}

impl Serialize for Messages<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut sequence = serializer.serialize_seq(Some(self.0.len()))?;
        for message in self.0 {
            sequence.serialize_element(&Message {
                role: message.role,
                content: &message.content,
            })?;
        }
        sequence.end()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn request(prompt: Prompt, exact: bool) -> PlannedRequest {
        PlannedRequest {
            number: 0,
            recorded_at: None,
            turn: None,
            prompt,
            prompt_tokens: None,
            output: Output {
                max_tokens: 7,
                exact,
            },
            tenant: Some("blue".into()),
            priority: None,
        }
    }

    fn check(target: &Target, request: &PlannedRequest, route: Route, expected: Value) {
        let encoded = Encoder::new(target).encode(request);
        let body: Value = serde_json::from_slice(&encoded.body).unwrap();
        assert_eq!(body, expected);
        assert_eq!(encoded.route, route);
        assert_eq!(encoded.tenant.unwrap(), "blue");
    }

    #[test]
    fn writes_what_the_api_knows() {
        let mut target = Target::new("http://localhost", "m");
        let message = ChatMessage {
            role: "user",
            content: "a \"b\"\n".to_owned(),
        };
        let chat = request(Prompt::Chat(vec![message]), true);
        check(
            &target,
            &chat,
            Route::Chat,
            json!({
                "model": "m", "stream": true, "stream_options": {"include_usage": true},
                "max_tokens": 7, "min_tokens": 7, "ignore_eos": true,
                "messages": [{"role": "user", "content": "a \"b\"\n"}],
            }),
        );
        target.stream = false;
        target.extra_body = json!({"temperature": 0, "x": {"y": []}})
            .as_object()
            .unwrap()
            .clone();
        let mut text = request(Prompt::Text("hi".to_owned()), false);
        text.priority = Some(-3);
        check(
            &target,
            &text,
            Route::Completions,
            json!({
                "model": "m", "stream": false, "max_tokens": 7, "priority": -3, "prompt": "hi",
                "temperature": 0, "x": {"y": []},
            }),
        );
        let tokens = request(Prompt::Tokens(vec![1, 2]), false);
        check(
            &target,
            &tokens,
            Route::Completions,
            json!({
                "model": "m", "stream": false, "max_tokens": 7, "prompt": [1, 2],
                "temperature": 0, "x": {"y": []},
            }),
        );
    }
}
