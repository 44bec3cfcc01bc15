//! Chat messages: on the wire content is text or a list of parts; a template
//! gets text.

use std::fmt;

use proto::ErrorCode;
use serde::Deserialize;
use serde::de::{Deserializer, SeqAccess, Visitor};
use serde_json::Value;

use super::field::Object;
use crate::error::ApiError;
use crate::tokenize::Message;

const ROLES: [&str; 5] = ["system", "developer", "user", "assistant", "tool"];

#[derive(Deserialize)]
pub(super) struct WireMessage {
    role: Option<String>,
    content: Option<Content>,
    name: Option<String>,
    /// An assistant's thoughts in earlier turns (vLLM, DeepSeek).
    reasoning_content: Option<String>,
    tool_calls: Option<Value>,
    tool_call_id: Option<String>,
    refusal: Option<String>,
}

enum Content {
    Text(String),
    Parts(Vec<Object<Part>>),
}

#[derive(Deserialize)]
struct Part {
    r#type: Option<String>,
    text: Option<String>,
    refusal: Option<String>,
}

impl WireMessage {
    /// Checks message number `index` and joins its parts.
    pub(super) fn check(self, index: usize) -> Result<Message, ApiError> {
        let field = |name: &str| format!("messages[{index}].{name}");
        let role = self.role.ok_or_else(|| {
            ApiError::invalid(&field("role"), format!("'messages[{index}]' has no role"))
        })?;
        if !ROLES.contains(&role.as_str()) {
            let message = format!(
                "unknown role '{role}'; it must be one of {}",
                ROLES.join(", ")
            );
            return Err(ApiError::invalid(&field("role"), message));
        }
        let tool_calls = self
            .tool_calls
            .filter(|calls| calls.as_array().is_none_or(|calls| !calls.is_empty()));
        let tool_calls = tool_calls.filter(|calls| !calls.is_null());
        if tool_calls.as_ref().is_some_and(|calls| !calls.is_array()) {
            let message = format!("'{}' must be a list", field("tool_calls"));
            return Err(ApiError::invalid(&field("tool_calls"), message));
        }
        let content = match (self.content, self.refusal) {
            (Some(Content::Text(text)), _) => text,
            (Some(Content::Parts(parts)), _) => join(parts, index)?,
            (None, Some(refusal)) => refusal,
            (None, None) if role == "assistant" && tool_calls.is_some() => String::new(),
            (None, None) => {
                let message = format!("'messages[{index}]' has no content");
                return Err(ApiError::invalid(&field("content"), message));
            }
        };
        Ok(Message {
            role,
            content,
            name: self.name,
            reasoning_content: self.reasoning_content,
            tool_calls: tool_calls.map(with_parsed_arguments),
            tool_call_id: self.tool_call_id,
        })
    }
}

/// Text parts, one a line, as vLLM joins them.
fn join(parts: Vec<Object<Part>>, message: usize) -> Result<String, ApiError> {
    let mut texts = Vec::with_capacity(parts.len());
    for (index, Object(part)) in parts.into_iter().enumerate() {
        let place = format!("messages[{message}].content[{index}]");
        let text = match part.r#type.as_deref() {
            Some("text") => part.text,
            Some("refusal") => part.refusal,
            Some(kind @ ("image_url" | "input_audio" | "file" | "video_url" | "audio_url")) => {
                return Err(ApiError {
                    param: Some(place),
                    ..ApiError::new(
                        ErrorCode::Unsupported,
                        format!("content of type '{kind}' is not supported here; send text"),
                    )
                });
            }
            kind => {
                let kind = kind.unwrap_or_default();
                let message = format!("unknown content type '{kind}'; it must be 'text'");
                return Err(ApiError::invalid(&format!("{place}.type"), message));
            }
        };
        texts.push(text.ok_or_else(|| {
            ApiError::invalid(&format!("{place}.text"), format!("'{place}' has no text"))
        })?);
    }
    Ok(texts.join("\n"))
}

/// OpenAI sends a call's arguments as a string of JSON; templates expect the
/// object.
fn with_parsed_arguments(mut calls: Value) -> Value {
    for call in calls.as_array_mut().into_iter().flatten() {
        let Some(arguments) = call.pointer_mut("/function/arguments") else {
            continue;
        };
        let parsed = arguments
            .as_str()
            .and_then(|text| serde_json::from_str(text).ok());
        if let Some(parsed @ Value::Object(_)) = parsed {
            *arguments = parsed;
        }
    }
    calls
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Content, D::Error> {
        struct Forms;

        impl<'de> Visitor<'de> for Forms {
            type Value = Content;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or a list of content parts")
            }

            fn visit_str<E>(self, text: &str) -> Result<Content, E> {
                Ok(Content::Text(text.to_owned()))
            }

            fn visit_string<E>(self, text: String) -> Result<Content, E> {
                Ok(Content::Text(text))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Content, A::Error> {
                let mut parts = Vec::new();
                while let Some(part) = seq.next_element()? {
                    parts.push(part);
                }
                Ok(Content::Parts(parts))
            }
        }

        deserializer.deserialize_any(Forms)
    }
}
