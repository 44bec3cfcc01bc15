//! One sequence's events turned into text: detokenised, ended at stop strings,
//! end-of-text tokens hidden. HTTP and gRPC show the same pieces in their own
//! shapes.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures::{Stream, StreamExt};
use proto::ErrorCode;

use super::detokenizer::Detokenizer;
use super::request::TextOptions;
use super::stop::StopStrings;
use crate::error::ApiError;
use crate::sequence::{Event, Events, FinishReason, Sequence, Token};

/// The next part of one completion. Joined over a completion, `text` is its
/// text, and `tokens` are all tokens generated.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Piece {
    /// [`Sequence::choice`].
    pub choice: usize,
    /// Logprobs of the prompt, if asked for, in the first piece.
    pub prompt: Vec<Token>,
    pub text: String,
    pub tokens: Vec<PieceToken>,
    /// Of the last piece.
    pub end: Option<End>,
}

/// A generated token and its place in the text.
#[derive(Clone, Debug, PartialEq)]
pub struct PieceToken {
    pub token: Token,
    /// Characters of the completion before this token's own.
    pub offset: usize,
    /// Not for tokens that only ended the text: end of text, stop.
    pub shown: bool,
}

/// How a completion ended.
#[derive(Clone, Debug, PartialEq)]
pub struct End {
    pub reason: FinishReason,
    /// All tokens generated, up to the one that ended the text.
    pub generated: usize,
    /// Prompt tokens whose KV was reused.
    pub cached_tokens: usize,
}

/// The pieces of one completion. Ends after the first error or the last piece,
/// and drops the sequence's events then, which frees its place on the worker.
pub struct Choice {
    number: usize,
    events: Option<Events>,
    detokenizer: Detokenizer,
    stop: StopStrings,
    /// Tokens that end the sequence; hidden unless stop is to be included.
    last_tokens: Vec<u32>,
    show_last: bool,
    min_tokens: usize,
    /// 0: whatever is generated is not shown, the prompt was only scored.
    max_tokens: usize,
    generated: usize,
    cached_tokens: usize,
    /// Characters detokenised, and characters given out.
    decoded: usize,
    released: usize,
    buffer: String,
    next: Piece,
    /// Tokens whose text is not given out yet.
    pending: VecDeque<PieceToken>,
}

impl Choice {
    pub fn new(sequence: &Sequence, options: &TextOptions, events: Events) -> Choice {
        let mut last_tokens = sequence.sampling.stop_token_ids.clone();
        if !sequence.sampling.ignore_eos {
            last_tokens.extend_from_slice(sequence.model.eos());
        }
        Choice {
            number: sequence.choice,
            events: Some(events),
            detokenizer: Detokenizer::new(
                &sequence.model,
                &sequence.prompt,
                options.skip_special_tokens,
            ),
            stop: StopStrings::new(Arc::clone(&options.stop), options.include_stop),
            last_tokens,
            show_last: options.include_stop,
            min_tokens: sequence.sampling.min_tokens,
            max_tokens: sequence.sampling.max_tokens,
            generated: 0,
            cached_tokens: 0,
            decoded: 0,
            released: 0,
            buffer: String::new(),
            next: Piece::default(),
            pending: VecDeque::new(),
        }
    }

    fn react(&mut self, event: Event) -> Option<Piece> {
        match event {
            Event::Started { cached_tokens } => {
                self.cached_tokens = cached_tokens;
                None
            }
            Event::PromptLogprobs(tokens) => {
                self.next.prompt.extend(tokens);
                None
            }
            Event::Embedding(_) => None,
            Event::Tokens(_) if self.max_tokens == 0 => None,
            Event::Tokens(tokens) => {
                for token in tokens {
                    if self.push(token) {
                        return Some(self.end(FinishReason::Stop, true));
                    }
                }
                self.release(false)
            }
            Event::Finished(reason) => {
                self.buffer.clear();
                self.detokenizer.finish(&mut self.buffer);
                let mut stopped = false;
                if !self.buffer.is_empty() {
                    self.decoded += self.buffer.chars().count();
                    stopped = self.match_stop();
                }
                if !stopped {
                    self.stop.flush(&mut self.next.text);
                }
                let reason = if stopped { FinishReason::Stop } else { reason };
                Some(self.end(reason, stopped))
            }
        }
    }

    /// True if the token completed a stop string.
    fn push(&mut self, token: Token) -> bool {
        self.generated += 1;
        let id = token.id;
        let shown = self.show_last || !self.last_tokens.contains(&id);
        self.pending.push_back(PieceToken {
            token,
            offset: self.decoded,
            shown,
        });
        if !shown {
            return false;
        }
        self.buffer.clear();
        self.detokenizer.push(id, &mut self.buffer);
        self.decoded += self.buffer.chars().count();
        !self.buffer.is_empty() && self.match_stop()
    }

    fn match_stop(&mut self) -> bool {
        if self.generated < self.min_tokens {
            self.stop.bypass(&self.buffer, &mut self.next.text);
            return false;
        }
        self.stop.push(&self.buffer, &mut self.next.text)
    }

    /// What may be given out now: text, with the tokens that begin before its
    /// end. `all`: no matter whether there is text.
    fn release(&mut self, all: bool) -> Option<Piece> {
        if !all && self.next.text.is_empty() {
            return None;
        }
        let mut piece = std::mem::take(&mut self.next);
        self.released += piece.text.chars().count();
        let ready = match all {
            true => self.pending.len(),
            false => self
                .pending
                .iter()
                .take_while(|token| token.offset < self.released)
                .count(),
        };
        piece.choice = self.number;
        piece.tokens = self.pending.drain(..ready).collect();
        Some(piece)
    }

    fn end(&mut self, reason: FinishReason, cut: bool) -> Piece {
        let mut piece = self.release(true).unwrap_or_default();
        for token in piece.tokens.iter_mut().filter(|_| cut) {
            token.shown &= token.offset < self.released;
        }
        piece.end = Some(End {
            reason,
            generated: self.generated,
            cached_tokens: self.cached_tokens,
        });
        piece
    }
}

impl Stream for Choice {
    type Item = Result<Piece, ApiError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            let Some(events) = &mut self.events else {
                return Poll::Ready(None);
            };
            match ready!(events.poll_next_unpin(cx)) {
                Some(Ok(event)) => {
                    let Some(piece) = self.react(event) else {
                        continue;
                    };
                    if piece.end.is_some() {
                        self.events = None;
                    }
                    return Poll::Ready(Some(Ok(piece)));
                }
                Some(Err(error)) => {
                    self.events = None;
                    return Poll::Ready(Some(Err(error)));
                }
                None => {
                    self.events = None;
                    return Poll::Ready(Some(Err(ended_early())));
                }
            }
        }
    }
}

fn ended_early() -> ApiError {
    ApiError::new(
        ErrorCode::Internal,
        "the generation ended without saying why, which is a defect of this router",
    )
}

#[cfg(test)]
mod tests;
