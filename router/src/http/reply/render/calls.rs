//! A choice's tool calls, in the shapes of chunks and of a whole message.

use std::sync::Arc;

use crate::openai::{CallDelta, ChatRequest, FunctionDelta};
use crate::sequence::Sequence;
use crate::tokenize::Piece;
use crate::tools::{Part, Scanner};

/// Reads calls out of one choice's text.
pub(super) struct Calls {
    scanner: Scanner,
    /// Calls so far.
    count: usize,
}

/// A piece's text, and what it says of calls.
#[derive(Default)]
pub(super) struct Read {
    pub(super) text: String,
    pub(super) calls: Vec<CallDelta>,
}

impl Calls {
    /// Of each choice, if tools may be called.
    pub(super) fn of(chat: &ChatRequest, sequences: &[Sequence]) -> Vec<Calls> {
        let Some(tools) = &chat.generate.options.tools else {
            return Vec::new();
        };
        let calls = |sequence: &Sequence| Calls {
            scanner: Scanner::new(Arc::clone(tools), sequence.tool_format),
            count: 0,
        };
        sequences.iter().map(calls).collect()
    }

    pub(super) fn any(&self) -> bool {
        self.scanner.has_calls()
    }

    /// The next piece, as deltas.
    pub(super) fn read(&mut self, piece: &Piece) -> Read {
        let mut parts = Vec::new();
        self.scanner.push(&piece.text, &mut parts);
        if piece.end.is_some() {
            self.scanner.finish(&mut parts);
        }
        let mut read = Read::default();
        for part in parts {
            match part {
                Part::Text(text) => read.text.push_str(&text),
                Part::Call(name) => {
                    self.count += 1;
                    read.calls.push(self.begun(name));
                }
                Part::Arguments(text) => self.arguments(&text, &mut read.calls),
            }
        }
        read
    }

    /// A choice in one piece, whose calls need no numbers.
    pub(super) fn whole(&mut self, piece: &Piece) -> Read {
        let mut read = self.read(piece);
        for call in &mut read.calls {
            call.index = None;
        }
        read
    }

    fn begun(&self, name: String) -> CallDelta {
        CallDelta {
            index: Some(self.count - 1),
            id: Some(format!("call_{}", uuid::Uuid::new_v4().simple())),
            r#type: Some("function"),
            function: FunctionDelta {
                name: Some(name),
                arguments: String::new(),
            },
        }
    }

    fn arguments(&self, text: &str, calls: &mut Vec<CallDelta>) {
        if let Some(last) = calls.last_mut() {
            last.function.arguments.push_str(text);
            return;
        }
        calls.push(CallDelta {
            index: Some(self.count.saturating_sub(1)),
            id: None,
            r#type: None,
            function: FunctionDelta {
                name: None,
                arguments: text.to_owned(),
            },
        });
    }
}
