//! JSON lines: a prompt each.

use std::sync::Arc;

use serde::Deserialize;

use super::super::error::WorkloadError;
use super::super::lines::Lines;
use super::Entry;
use crate::planned::{ChatMessage, Prompt};

const EXPECTED: &str = "an object with prompt or input (a text or token ids) or messages (role \
                        and content), and perhaps max_tokens, tenant and priority";

#[derive(Deserialize)]
struct Line {
    prompt: Option<TextOrIds>,
    input: Option<TextOrIds>,
    messages: Option<Vec<Message>>,
    max_tokens: Option<u32>,
    tenant: Option<Arc<str>>,
    priority: Option<i32>,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "a text or a list of token ids")]
enum TextOrIds {
    Text(String),
    Ids(Vec<u32>),
}

#[derive(Deserialize)]
struct Message {
    role: String,
    content: String,
}

/// Entries of a file; texts become messages of a user if `is_chat`.
pub(super) fn read(path: &str, is_chat: bool) -> Result<Vec<Entry>, WorkloadError> {
    let mut lines = Lines::open(path)?;
    let mut entries = Vec::new();
    while let Some(line) = lines.next()? {
        let entry = parse(line, is_chat).map_err(|reason| lines.bad(reason, EXPECTED))?;
        entries.push(entry);
    }
    Ok(entries)
}

fn parse(line: &str, is_chat: bool) -> Result<Entry, String> {
    let line: Line = serde_json::from_str(line).map_err(|error| {
        let text = error.to_string();
        // The line within the line is always 1.
        text.replace(" at line 1 column ", " at column ")
    })?;
    let prompt = match (line.prompt, line.input, line.messages) {
        (Some(prompt), None, None) | (None, Some(prompt), None) => plain(prompt, is_chat),
        (None, None, Some(messages)) => conversation(messages)?,
        (None, None, None) => return Err("there is no prompt".to_owned()),
        _ => return Err("there is more than one of prompt, input and messages".to_owned()),
    };
    if line.max_tokens == Some(0) {
        return Err("max_tokens is 0".to_owned());
    }
    Ok(Entry {
        prompt,
        max_tokens: line.max_tokens,
        tenant: line.tenant,
        priority: line.priority,
        later: Vec::new(),
        answer: None,
    })
}

fn plain(prompt: TextOrIds, is_chat: bool) -> Prompt {
    match prompt {
        TextOrIds::Ids(ids) => Prompt::Tokens(ids),
        TextOrIds::Text(content) if is_chat => Prompt::Chat(vec![ChatMessage {
            role: "user",
            content,
        }]),
        TextOrIds::Text(text) => Prompt::Text(text),
    }
}

fn conversation(messages: Vec<Message>) -> Result<Prompt, String> {
    if messages.is_empty() {
        return Err("messages is empty".to_owned());
    }
    let known = |message: Message| match role(&message.role) {
        Some(role) => Ok(ChatMessage {
            role,
            content: message.content,
        }),
        None => Err(format!("there is no role {:?}", message.role)),
    };
    let messages: Result<_, _> = messages.into_iter().map(known).collect();
    Ok(Prompt::Chat(messages?))
}

fn role(name: &str) -> Option<&'static str> {
    const ROLES: [&str; 5] = ["system", "developer", "user", "assistant", "tool"];
    ROLES.into_iter().find(|role| *role == name)
}
