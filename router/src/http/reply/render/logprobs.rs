//! Logprobs in the shapes of the two endpoints.

use std::borrow::Cow;
use std::fmt::Write;
use std::sync::Arc;

use crate::openai::{ChatLogprobs, TextLogprobs, TokenLogprob, TopLogprob, TopLogprobMap};
use crate::sequence::Token;
use crate::tokenize::{Detokenizer, Model, Piece};

/// What stands for minus infinity, which JSON can't say.
const LEAST: f32 = -9999.0;

/// A prompt that begins the text of its completion.
#[derive(Clone)]
pub(super) struct Echoed {
    pub(super) text: Arc<str>,
    tokens: Arc<[u32]>,
    /// Of `text`.
    chars: usize,
}

impl Echoed {
    pub(super) fn new(text: Arc<str>, tokens: Arc<[u32]>) -> Echoed {
        Echoed {
            chars: text.chars().count(),
            text,
            tokens,
        }
    }
}

pub(super) fn chat_logprobs<'a>(model: &'a Model, piece: &'a Piece) -> ChatLogprobs<'a> {
    let top = |id, logprob| TopLogprob {
        token: String::from_utf8_lossy(model.token_bytes(id)),
        logprob: finite(logprob),
        bytes: model.token_bytes(id),
    };
    let shown = piece
        .tokens
        .iter()
        .filter(|token| token.shown)
        .map(|token| &token.token);
    let content = shown.map(|token| TokenLogprob {
        token: top(token.id, token.logprob.unwrap_or(LEAST)),
        top_logprobs: token
            .top
            .iter()
            .map(|&(id, logprob)| top(id, logprob))
            .collect(),
    });
    ChatLogprobs {
        content: content.collect(),
        refusal: None,
    }
}

pub(super) fn text_logprobs<'a>(
    model: &'a Arc<Model>,
    piece: &'a Piece,
    echo: Option<&Echoed>,
) -> TextLogprobs<'a> {
    let mut logprobs = TextLogprobs::default();
    if let Some(echo) = echo {
        let mut detokenizer = Detokenizer::new(model, &[], true);
        let (mut text, mut offset) = (String::new(), 0);
        for (token, &id) in piece.prompt.iter().zip(echo.tokens.iter()) {
            push(&mut logprobs, model, token, offset);
            text.clear();
            detokenizer.push(id, &mut text);
            offset += text.chars().count();
        }
    }
    let start = echo.map_or(0, |echo| echo.chars);
    for token in piece.tokens.iter().filter(|token| token.shown) {
        push(&mut logprobs, model, &token.token, start + token.offset);
    }
    logprobs
}

fn push<'a>(logprobs: &mut TextLogprobs<'a>, model: &'a Model, token: &Token, offset: usize) {
    let logprob = token.logprob.map(finite);
    logprobs.tokens.push(name(model, token.id));
    logprobs.token_logprobs.push(logprob);
    logprobs.text_offset.push(offset);
    // OpenAI shows the token itself, too, if it is none of the likeliest.
    logprobs.top_logprobs.push(logprob.map(|logprob| {
        let likeliest = token.top.iter().map(|&(id, logprob)| (id, finite(logprob)));
        let itself =
            (!token.top.iter().any(|&(id, _)| id == token.id)).then_some((token.id, logprob));
        TopLogprobMap(
            likeliest
                .chain(itself)
                .map(|(id, logprob)| (name(model, id), logprob))
                .collect(),
        )
    }));
}

/// A token's text; of a part of a character, its bytes in OpenAI's notation.
fn name(model: &Model, id: u32) -> Cow<'_, str> {
    let bytes = model.token_bytes(id);
    match std::str::from_utf8(bytes) {
        Ok(text) => Cow::Borrowed(text),
        Err(_) => {
            let mut name = "bytes:".to_owned();
            for byte in bytes {
                // Writing to memory does not fail.
                let _ = write!(name, "\\x{byte:02x}");
            }
            Cow::Owned(name)
        }
    }
}

fn finite(logprob: f32) -> f32 {
    if logprob.is_finite() {
        logprob.max(LEAST)
    } else {
        LEAST
    }
}
