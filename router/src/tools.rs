//! Tool calls: which functions a model may or must call, in which format it
//! writes calls, and how they are read from its text as it comes.

mod call;
mod format;
mod head;
mod scanner;

use serde_json::Value;

pub use format::ToolFormat;
pub use scanner::{Part, Scanner};

use crate::constraint::{CallGrammar, Constraint, Grammar, Piece};

/// Most calls in one forced answer: a model that finds no end must come to one.
const MAX_CALLS: u32 = 16;

/// What a request says of tools.
#[derive(Clone, Debug, PartialEq)]
pub struct ToolUse {
    /// Those that may be called; with a named choice one.
    pub functions: Vec<Function>,
    /// The answer is to be a call.
    pub is_forced: bool,
    /// More than one call in an answer.
    pub is_parallel: bool,
}

/// A function that may be called.
#[derive(Clone, Debug, PartialEq)]
pub struct Function {
    pub name: String,
    /// A JSON Schema of its arguments.
    pub parameters: Value,
}

impl ToolUse {
    pub fn has(&self, name: &str) -> bool {
        self.functions.iter().any(|function| function.name == name)
    }

    /// What a forced answer obeys. `token` gives a special token's id.
    pub fn constraint(
        &self,
        format: ToolFormat,
        token: impl Fn(&str) -> Option<u32>,
    ) -> Option<Constraint> {
        let layout = format.layout();
        let pieces = |text: &str| pieces(text, layout.markers, &token);
        let functions = self.functions.iter();
        self.is_forced.then(|| Constraint {
            param: "tools".to_owned(),
            grammar: Grammar::Calls(CallGrammar {
                functions: functions
                    .map(|it| (it.name.clone(), it.parameters.to_string()))
                    .collect(),
                begin: pieces(layout.begin),
                open: pieces(layout.open),
                middle: pieces(layout.middle),
                close: pieces(layout.close),
                separator: pieces(layout.separator),
                end: pieces(layout.end),
                max_calls: if self.is_parallel { MAX_CALLS } else { 1 },
                plain_names: layout.plain_names,
            }),
        })
    }
}

/// `text` with those of `markers` that are special tokens as tokens.
fn pieces(text: &str, markers: &[&str], token: impl Fn(&str) -> Option<u32>) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let places = markers.iter().filter_map(|&marker| {
            let at = rest.find(marker)?;
            Some((at, marker, token(marker)?))
        });
        let Some((at, marker, id)) = places.min_by_key(|(at, ..)| *at) else {
            pieces.push(Piece::Text(rest.to_owned()));
            break;
        };
        if at > 0 {
            pieces.push(Piece::Text(rest[..at].to_owned()));
        }
        pieces.push(Piece::Token(id));
        rest = &rest[at + marker.len()..];
    }
    pieces
}

#[cfg(test)]
mod tests;
