//! Conversations as ShareGPT has them: a JSON list of objects with
//! `conversations`, in which `human` and `gpt` take turns.

use std::fs::File;
use std::io::{BufRead, BufReader};

use serde::Deserialize;

use super::super::error::WorkloadError;
use super::super::lines::unreadable;
use super::{Entry, Exchange};
use crate::planned::{ChatMessage, Prompt};

const EXPECTED: &str =
    r#"a list of {"conversations": [{"from": "human", "value": TEXT}, {"from": "gpt", ...}]}"#;

#[derive(Deserialize)]
struct Shared {
    #[serde(alias = "conversation")]
    conversations: Vec<Said>,
}

#[derive(Deserialize)]
struct Said {
    from: String,
    value: String,
}

/// Whether the file begins as a JSON list.
pub(super) fn is_list(path: &str) -> Result<bool, WorkloadError> {
    let read = |error| unreadable(path, error);
    let mut file = BufReader::new(File::open(path).map_err(read)?);
    loop {
        let buffer = file.fill_buf().map_err(read)?;
        let Some(first) = buffer.iter().find(|it| !it.is_ascii_whitespace()) else {
            let length = buffer.len();
            if length == 0 {
                return Ok(false);
            }
            file.consume(length);
            continue;
        };
        return Ok(*first == b'[');
    }
}

/// Conversations, and how many were left out for want of a user's message.
pub(super) fn read(path: &str) -> Result<(Vec<Entry>, u64), WorkloadError> {
    let file = BufReader::new(File::open(path).map_err(|error| unreadable(path, error))?);
    let shared: Vec<Shared> = serde_json::from_reader(file).map_err(|error| {
        if error.is_io() {
            return unreadable(path, error.into());
        }
        WorkloadError::Line {
            path: path.to_owned(),
            line: error.line() as u64,
            reason: without_place(&error),
            expected: EXPECTED,
        }
    })?;
    let all = shared.len();
    let entries: Vec<Entry> = shared.into_iter().filter_map(entry).collect();
    let left_out = all - entries.len();
    Ok((entries, left_out as u64))
}

/// What is wrong, without the line and column that serde_json adds.
fn without_place(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rfind(" at line ") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}

fn entry(shared: Shared) -> Option<Entry> {
    let mut system = None;
    let mut exchanges: Vec<Exchange> = Vec::new();
    for said in shared.conversations {
        match (said.from.as_str(), exchanges.last_mut()) {
            ("system", None) => system = Some(said.value),
            ("human" | "user", _) => exchanges.push(Exchange {
                message: said.value,
                answer: None,
            }),
            (_, Some(exchange)) if exchange.answer.is_none() => exchange.answer = Some(said.value),
            // An answer to nothing, or a second one.
            _ => {}
        }
    }
    if exchanges.is_empty() {
        return None;
    }
    let later = exchanges.split_off(1);
    let first = exchanges.pop()?;
    let message = |role, content| ChatMessage { role, content };
    let system = system.map(|it| message("system", it));
    let user = message("user", first.message);
    Some(Entry {
        prompt: Prompt::Chat(system.into_iter().chain([user]).collect()),
        max_tokens: None,
        tenant: None,
        priority: None,
        later,
        answer: first.answer,
    })
}
