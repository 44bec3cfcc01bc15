//! Turns one sequence's tokens into text as they come: the pieces together are
//! the text of all tokens. A character that is not complete yet is held back.

use std::sync::Arc;

use super::model::Model;
use super::vocabulary::{Decoding, Vocabulary};

/// Tokens that [`Decoding::Other`] looks at again with the next one, at most.
const MAX_WINDOW: usize = 16;

/// The state of one sequence's text; cost of a token does not grow with the
/// sequence.
pub(crate) struct Detokenizer {
    model: Arc<Model>,
    skip_special_tokens: bool,
    /// Bytes of a character that is not complete yet.
    incomplete: Vec<u8>,
    /// The text's leading space is still to be dropped.
    strip_space: bool,
    window: Window,
}

/// Tokens whose text may change with the next one.
#[derive(Default)]
struct Window {
    tokens: Vec<u32>,
    /// How many of `tokens` are shown already and only give context.
    shown: usize,
}

impl Detokenizer {
    /// For text that goes on after `prompt`.
    pub(crate) fn new(
        model: &Arc<Model>,
        prompt: &[u32],
        skip_special_tokens: bool,
    ) -> Detokenizer {
        let vocabulary = model.vocabulary();
        let strips = Decoding::SentencePiece { strip_space: true };
        let starts_text = || prompt.iter().all(|&id| vocabulary.is_special(id));
        Detokenizer {
            strip_space: vocabulary.decoding == strips && starts_text(),
            model: Arc::clone(model),
            skip_special_tokens,
            incomplete: Vec::new(),
            window: Window::default(),
        }
    }

    /// Appends to `out` what `token` completes.
    pub(crate) fn push(&mut self, token: u32, out: &mut String) {
        let vocabulary = self.model.vocabulary();
        if self.skip_special_tokens && vocabulary.is_special(token) {
            return;
        }
        if vocabulary.decoding == Decoding::Other {
            self.window.push(token, vocabulary, out);
            return;
        }
        let mut bytes = vocabulary.bytes(token);
        if self.strip_space && !bytes.is_empty() {
            self.strip_space = false;
            bytes = bytes.strip_prefix(b" ").unwrap_or(bytes);
        }
        match std::str::from_utf8(bytes) {
            Ok(text) if self.incomplete.is_empty() => out.push_str(text),
            _ => {
                self.incomplete.extend_from_slice(bytes);
                self.drain(out);
            }
        }
    }

    /// Appends what was held back: the sequence ended within a character.
    pub(crate) fn finish(&mut self, out: &mut String) {
        if !self.incomplete.is_empty() {
            let malformed = self.incomplete.len();
            self.replace(malformed, out);
            self.incomplete.clear();
        }
        self.window.finish(self.model.vocabulary(), out);
    }

    /// Moves all but an incomplete last character to `out`.
    fn drain(&mut self, out: &mut String) {
        let bytes = std::mem::take(&mut self.incomplete);
        let mut rest = bytes.as_slice();
        loop {
            match std::str::from_utf8(rest) {
                Ok(text) => {
                    out.push_str(text);
                    return;
                }
                Err(error) => {
                    let (valid, after) = rest.split_at(error.valid_up_to());
                    out.push_str(&String::from_utf8_lossy(valid));
                    let Some(malformed) = error.error_len() else {
                        self.incomplete.extend_from_slice(after);
                        return;
                    };
                    self.replace(malformed, out);
                    rest = &after[malformed..];
                }
            }
        }
    }

    fn replace(&self, malformed: usize, out: &mut String) {
        let marks = match self.model.vocabulary().decoding {
            Decoding::SentencePiece { .. } => malformed,
            Decoding::Bytes | Decoding::Other => 1,
        };
        out.extend(std::iter::repeat_n(char::REPLACEMENT_CHARACTER, marks));
    }
}

impl Window {
    fn push(&mut self, token: u32, vocabulary: &Vocabulary, out: &mut String) {
        self.tokens.push(token);
        let new = self.new_text(vocabulary);
        let may_change = new.is_empty() || new.ends_with(char::REPLACEMENT_CHARACTER);
        if may_change && self.tokens.len() - self.shown < MAX_WINDOW {
            return;
        }
        out.push_str(&new);
        self.tokens.drain(..self.shown);
        self.shown = self.tokens.len();
    }

    fn finish(&mut self, vocabulary: &Vocabulary, out: &mut String) {
        if self.shown < self.tokens.len() {
            out.push_str(&self.new_text(vocabulary));
            self.shown = self.tokens.len();
        }
    }

    /// What the tokens not shown yet add to the text of those before.
    fn new_text(&self, vocabulary: &Vocabulary) -> String {
        // Special tokens were left out before, if they are to be.
        let decode = |tokens: &[u32]| {
            vocabulary
                .tokenizer
                .decode(tokens, false)
                .unwrap_or_default()
        };
        let text = decode(&self.tokens);
        let context = decode(&self.tokens[..self.shown]);
        text.strip_prefix(context.as_str())
            .unwrap_or_default()
            .to_owned()
    }
}
