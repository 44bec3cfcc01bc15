//! Tells tool calls from text, while both come in pieces.
//!
//! What may still become a call is held back; what turns out not to be one is
//! text after all. Nothing is lost: text and calls together are all that came,
//! but for markers and what stands between calls.

use std::sync::Arc;

use super::ToolUse;
use super::call::{Call, Step};
use super::format::{Layout, ToolFormat};
use super::head;

/// The next part of an answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Part {
    Text(String),
    /// A call of this function begins.
    Call(String),
    /// More of the last call's arguments.
    Arguments(String),
}

/// Reads one answer.
#[derive(Debug)]
pub struct Scanner {
    tools: Arc<ToolUse>,
    layout: &'static Layout,
    state: State,
    /// What came since the last certainty.
    held: String,
    /// Calls that have begun.
    calls: usize,
}

#[derive(Debug)]
enum State {
    /// Nothing but space came yet, of an answer that may be a call from its
    /// first character on.
    Start,
    Text,
    /// After a marker, where a name may stand plainly.
    Head,
    /// In a marker's place, or between two calls.
    Between,
    Call(Reading),
    /// After the one call there may be; the rest is left out.
    Done,
}

#[derive(Debug)]
struct Reading {
    call: Box<Call>,
    /// The client was told of it.
    is_told: bool,
}

impl Scanner {
    pub fn new(tools: Arc<ToolUse>, format: ToolFormat) -> Scanner {
        let layout = format.layout();
        Scanner {
            tools,
            state: match layout.marker {
                Some(_) => State::Text,
                None => State::Start,
            },
            layout,
            held: String::new(),
            calls: 0,
        }
    }

    /// Whether a call has begun.
    pub fn has_calls(&self) -> bool {
        self.calls > 0
    }

    /// The next characters of the answer.
    pub fn push(&mut self, text: &str, parts: &mut Vec<Part>) {
        for char in text.chars() {
            self.char(char, parts);
        }
    }

    /// The answer has ended.
    pub fn finish(&mut self, parts: &mut Vec<Part>) {
        let held = std::mem::take(&mut self.held);
        match &self.state {
            State::Done => {}
            State::Between if self.calls > 0 => {}
            State::Text if self.calls > 0 => text(parts, held.trim_end()),
            State::Call(reading) if reading.is_told => {}
            _ => text(parts, &held),
        }
        self.state = State::Done;
    }

    fn char(&mut self, char: char, parts: &mut Vec<Part>) {
        self.held.push(char);
        match &mut self.state {
            State::Start => match char {
                _ if char.is_whitespace() => {}
                '{' => self.begin(parts),
                '[' => self.state = State::Between,
                _ => self.give_up(parts),
            },
            State::Text => self.text_char(parts),
            State::Head => self.head_char(char, parts),
            State::Between => self.between(char, parts),
            State::Call(_) => self.call_char(char, parts),
            State::Done => self.held.clear(),
        }
    }

    /// Holds back what may be the beginning of the marker.
    fn text_char(&mut self, parts: &mut Vec<Part>) {
        let is_space = self.held.trim().is_empty();
        let Some(marker) = self.layout.marker.filter(|_| !is_space || self.calls == 0) else {
            // Between two calls it says nothing.
            if self.calls > 0 && is_space {
                return;
            }
            text(parts, &std::mem::take(&mut self.held));
            return;
        };
        if self.held.ends_with(marker) {
            self.held.truncate(self.held.len() - marker.len());
            if self.calls == 0 || !self.held.trim().is_empty() {
                text(parts, &self.held);
            }
            self.held.clear();
            self.held.push_str(marker);
            self.state = match self.layout.plain_names {
                true => State::Head,
                false => State::Between,
            };
            return;
        }
        let kept = longest_beginning(&self.held, marker);
        let certain = self.held.len() - kept;
        if self.calls > 0 && self.held[..certain].trim().is_empty() {
            return;
        }
        text(parts, &self.held[..certain]);
        self.held.drain(..certain);
    }

    /// Until the arguments begin, or calls as JSON.
    fn head_char(&mut self, char: char, parts: &mut Vec<Part>) {
        let marker = self.layout.marker.unwrap_or_default();
        let head = self.held.strip_prefix(marker).unwrap_or(&self.held);
        let before = &head[..head.len() - char.len_utf8()];
        match (char, head::name(before)) {
            ('{', Some(name)) => {
                let name = name.to_owned();
                self.begin_named(name, parts);
            }
            ('{' | '[', None) if before.trim().is_empty() => {
                self.state = State::Between;
                self.between(char, parts);
            }
            _ if head::may_become(head) => {}
            _ => self.give_up(parts),
        }
    }

    fn between(&mut self, char: char, parts: &mut Vec<Part>) {
        match char {
            '{' => self.begin(parts),
            '[' | ']' | ',' | ';' => {}
            _ if char.is_whitespace() => {}
            _ => self.after_calls(parts),
        }
    }

    /// Something else than a call: the end marker, or text.
    fn after_calls(&mut self, parts: &mut Vec<Part>) {
        let markers = [self.layout.end_marker, self.layout.marker];
        let rest = self
            .held
            .trim_start_matches(|char: char| "[],; \n\r\t".contains(char));
        for marker in markers.into_iter().flatten() {
            if rest == marker && self.calls > 0 {
                self.held.clear();
                if Some(marker) == self.layout.end_marker {
                    self.state = State::Text;
                }
                return;
            }
            if marker.starts_with(rest) && self.calls > 0 {
                return;
            }
        }
        self.give_up(parts);
    }

    fn begin(&mut self, parts: &mut Vec<Part>) {
        self.state = State::Call(Reading {
            call: Box::new(Call::new()),
            is_told: false,
        });
        self.call_char('{', parts);
    }

    /// A call of this name; its arguments follow.
    fn begin_named(&mut self, name: String, parts: &mut Vec<Part>) {
        self.calls += 1;
        self.held.clear();
        parts.push(Part::Call(name));
        self.state = State::Call(Reading {
            call: Box::new(Call::named()),
            is_told: true,
        });
        self.call_char('{', parts);
    }

    fn call_char(&mut self, char: char, parts: &mut Vec<Part>) {
        let State::Call(reading) = &mut self.state else {
            return;
        };
        match reading.call.push(char) {
            Step::None => {}
            Step::Name(name) if self.layout.marker.is_some() || self.tools.has(&name) => {
                reading.is_told = true;
                self.calls += 1;
                self.held.clear();
                parts.push(Part::Call(name));
                arguments(parts, &mut reading.call.arguments);
            }
            Step::Arguments if reading.is_told => {
                self.held.clear();
                arguments(parts, &mut reading.call.arguments);
            }
            Step::Arguments => {}
            Step::End if reading.is_told => {
                arguments(parts, &mut reading.call.arguments);
                if !reading.call.has_arguments() {
                    arguments(parts, &mut "{}".to_owned());
                }
                self.held.clear();
                self.state = match self.tools.is_parallel {
                    true if reading.call.is_named() => State::Text,
                    true => State::Between,
                    false => State::Done,
                };
            }
            Step::Name(_) | Step::End | Step::NoCall => self.give_up(parts),
        }
    }

    /// What is held back is text, and so is the rest, up to the next marker.
    fn give_up(&mut self, parts: &mut Vec<Part>) {
        text(parts, &std::mem::take(&mut self.held));
        self.state = State::Text;
    }
}

/// Bytes at the end of `text` with which `marker` begins.
fn longest_beginning(text: &str, marker: &str) -> usize {
    let most = marker.len().min(text.len());
    let begins = |len: &usize| text.as_bytes().ends_with(&marker.as_bytes()[..*len]);
    (1..=most).rev().find(begins).unwrap_or(0)
}

fn text(parts: &mut Vec<Part>, text: &str) {
    match parts.last_mut() {
        _ if text.is_empty() => {}
        Some(Part::Text(last)) => last.push_str(text),
        _ => parts.push(Part::Text(text.to_owned())),
    }
}

fn arguments(parts: &mut Vec<Part>, fresh: &mut String) {
    match parts.last_mut() {
        _ if fresh.is_empty() => {}
        Some(Part::Arguments(last)) => last.push_str(fresh),
        _ => parts.push(Part::Arguments(std::mem::take(fresh))),
    }
    fresh.clear();
}
