//! Choices in the shapes of the two endpoints.

mod calls;
mod logprobs;

use std::sync::Arc;

use super::write_json;
use crate::openai::{
    ChatChoice, ChatChunkChoice, ChatRequest, CompletionRequest, Delta, ResponseMessage, TextChoice,
};
use crate::sequence::{FinishReason, Sequence};
use crate::tokenize::{Model, Piece, Prompt};
use calls::Calls;
use logprobs::{Echoed, chat_logprobs, text_logprobs};

/// Writes choices for one request.
pub(super) struct Render {
    model: Option<Arc<Model>>,
    logprobs: bool,
    return_token_ids: bool,
    shape: Shape,
    /// Of each choice: whether its first chunk is out.
    begun: Vec<bool>,
    /// Of each choice, if tools may be called.
    calls: Vec<Calls>,
}

enum Shape {
    Chat,
    /// By choice: the prompt, where it is to be shown.
    Text(Vec<ShownPrompt>),
}

#[derive(Clone, Default)]
struct ShownPrompt {
    /// Begins the text.
    echo: Option<Echoed>,
    ids: Option<Arc<[u32]>>,
}

impl Render {
    pub(super) fn chat(chat: &ChatRequest, sequences: &[Sequence]) -> Render {
        Render {
            model: sequences.first().map(|first| Arc::clone(&first.model)),
            logprobs: chat.generate.options.logprobs.is_some(),
            return_token_ids: chat.return_token_ids,
            shape: Shape::Chat,
            begun: vec![false; sequences.len()],
            calls: Calls::of(chat, sequences),
        }
    }

    pub(super) fn completion(completion: &CompletionRequest, sequences: &[Sequence]) -> Render {
        let n = completion.generate.options.n;
        let shown = |(index, sequence): (usize, &Sequence)| ShownPrompt {
            echo: completion.echo.then(|| {
                let text: Arc<str> = match completion.generate.prompts.get(index / n) {
                    Some(Prompt::Text(text)) => Arc::clone(text),
                    _ => Arc::from(sequence.model.decode(&sequence.prompt)),
                };
                Echoed::new(text, Arc::clone(&sequence.prompt))
            }),
            ids: completion
                .return_token_ids
                .then(|| Arc::clone(&sequence.prompt)),
        };
        Render {
            model: sequences.first().map(|first| Arc::clone(&first.model)),
            logprobs: completion.generate.options.logprobs.is_some(),
            return_token_ids: completion.return_token_ids,
            shape: Shape::Text(sequences.iter().enumerate().map(shown).collect()),
            begun: vec![false; sequences.len()],
            calls: Vec::new(),
        }
    }

    /// Whether the choice still needs its [`Render::opening`].
    pub(super) fn opens(&self, choice: usize) -> bool {
        matches!(self.shape, Shape::Chat) && self.begun.get(choice) == Some(&false)
    }

    /// The first chunk of a chat's choice, which says who speaks.
    pub(super) fn opening(&mut self, choice: usize, out: &mut Vec<u8>) {
        self.begin(choice);
        let opening = ChatChunkChoice {
            index: choice,
            delta: Delta {
                role: Some("assistant"),
                content: Some(""),
                tool_calls: &[],
            },
            logprobs: None,
            finish_reason: None,
            token_ids: None,
        };
        write_json(out, &opening);
    }

    pub(super) fn chunk(&mut self, piece: &Piece, out: &mut Vec<u8>) {
        match &self.shape {
            Shape::Chat => {
                let read = self.calls.get_mut(piece.choice).map(|it| it.read(piece));
                let text = read.as_ref().map_or(&piece.text, |read| &read.text);
                let content = Some(text.as_str()).filter(|text| !text.is_empty());
                let tool_calls = read.as_ref().map_or(&[][..], |read| &read.calls);
                let choice = ChatChunkChoice {
                    index: piece.choice,
                    delta: Delta {
                        role: None,
                        content,
                        tool_calls,
                    },
                    logprobs: self.model().map(|model| chat_logprobs(model, piece)),
                    finish_reason: self.finish_reason(piece),
                    token_ids: self.token_ids(piece),
                };
                write_json(out, &choice);
            }
            Shape::Text(_) => {
                let first = self.begin(piece.choice);
                self.text(piece, first, out);
            }
        }
    }

    /// A choice of a reply in one body; all its pieces in one.
    pub(super) fn whole(&mut self, piece: &Piece, out: &mut Vec<u8>) {
        match &self.shape {
            Shape::Chat => {
                let read = self.calls.get_mut(piece.choice).map(|it| it.whole(piece));
                let text = read.as_ref().map_or(&piece.text, |read| &read.text);
                let tool_calls = read.as_ref().map_or(&[][..], |read| &read.calls);
                let choice = ChatChoice {
                    index: piece.choice,
                    message: ResponseMessage {
                        role: "assistant",
                        content: Some(text.as_str())
                            .filter(|text| tool_calls.is_empty() || !text.is_empty()),
                        refusal: None,
                        tool_calls,
                    },
                    logprobs: self.model().map(|model| chat_logprobs(model, piece)),
                    finish_reason: self.finish_reason(piece).unwrap_or("stop"),
                    token_ids: self.token_ids(piece),
                };
                write_json(out, &choice);
            }
            Shape::Text(_) => self.text(piece, true, out),
        }
    }

    /// `first`: nothing of this choice was shown before.
    fn text(&self, piece: &Piece, first: bool, out: &mut Vec<u8>) {
        let Shape::Text(prompts) = &self.shape else {
            return;
        };
        let prompt = prompts.get(piece.choice);
        let echo = prompt.and_then(|prompt| prompt.echo.as_ref());
        let ids = prompt.and_then(|prompt| prompt.ids.as_deref());
        let echoed_text = echo
            .filter(|_| first)
            .map(|echo| format!("{}{}", echo.text, piece.text));
        let logprobs = self.model().map(|model| text_logprobs(model, piece, echo));
        let choice = TextChoice {
            text: echoed_text.as_deref().unwrap_or(&piece.text),
            index: piece.choice,
            logprobs,
            finish_reason: finish_reason(piece),
            prompt_token_ids: ids.filter(|_| first),
            token_ids: self.token_ids(piece),
        };
        write_json(out, &choice);
    }

    fn finish_reason(&self, piece: &Piece) -> Option<&'static str> {
        let calls = self.calls.get(piece.choice);
        match finish_reason(piece) {
            Some("stop") if calls.is_some_and(Calls::any) => Some("tool_calls"),
            reason => reason,
        }
    }

    /// The model, if logprobs are to be shown.
    fn model(&self) -> Option<&Arc<Model>> {
        self.model.as_ref().filter(|_| self.logprobs)
    }

    fn token_ids(&self, piece: &Piece) -> Option<Vec<u32>> {
        self.return_token_ids
            .then(|| piece.tokens.iter().map(|token| token.token.id).collect())
    }

    /// Whether this is the first time for `choice`.
    fn begin(&mut self, choice: usize) -> bool {
        self.begun
            .get_mut(choice)
            .is_some_and(|begun| !std::mem::replace(begun, true))
    }
}

fn finish_reason(piece: &Piece) -> Option<&'static str> {
    piece.end.as_ref().map(|end| match end.reason {
        FinishReason::Stop => "stop",
        FinishReason::Length => "length",
    })
}
