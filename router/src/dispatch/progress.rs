//! How far a sequence is, whoever runs it: which of its events the client has.
//!
//! Workers may repeat events (two of them know the first token; one that takes
//! over starts where its prompt ends). Progress lets each through once, in
//! order, and knows by itself when the sequence is complete.

use proto::ErrorCode;

use crate::cluster::DecodeEvent;
use crate::error::ApiError;
use crate::sequence::{Event, FinishReason, Sequence, Token};

#[derive(Debug)]
pub(super) struct Progress {
    sequence: Sequence,
    generated: Vec<u32>,
    /// Prompt positions whose logprobs the client has; the first token has none.
    scored: usize,
}

impl Progress {
    pub fn new(sequence: Sequence) -> Progress {
        Progress {
            sequence,
            generated: Vec::new(),
            scored: 1,
        }
    }

    pub fn sequence(&self) -> &Sequence {
        &self.sequence
    }

    pub fn generated(&self) -> &[u32] {
        &self.generated
    }

    /// What is known before any worker is asked: the prompt's first token, which
    /// nothing predicts.
    pub fn opening(&self) -> Option<Event> {
        self.sequence.sampling.prompt_logprobs?;
        let first = *self.sequence.prompt.first()?;
        Some(Event::PromptLogprobs(vec![Token {
            id: first,
            logprob: None,
            top: Vec::new(),
        }]))
    }

    /// Whether the client has a token already.
    pub fn has_begun(&self) -> bool {
        !self.generated.is_empty()
    }

    /// The end, if the tokens so far imply it: a worker may die between its
    /// last token and saying so.
    pub fn ended(&self) -> Option<Event> {
        let sampling = &self.sequence.sampling;
        let last = *self.generated.last()?;
        let stops = sampling.stop_token_ids.contains(&last)
            || (!sampling.ignore_eos && self.sequence.model.eos().contains(&last));
        if stops && self.generated.len() > sampling.min_tokens {
            return Some(Event::Finished(FinishReason::Stop));
        }
        let full = self.generated.len() >= sampling.max_tokens;
        full.then_some(Event::Finished(FinishReason::Length))
    }

    /// The worker that computes the prompt found so many tokens in its cache.
    /// Nothing for the client once it has a token: its prompt was computed then.
    pub fn started(&self, cached_tokens: usize) -> Option<Event> {
        let cached_tokens = cached_tokens.min(self.sequence.prompt.len());
        (!self.has_begun()).then_some(Event::Started { cached_tokens })
    }

    /// What a decoding worker says.
    pub fn decode_event(&mut self, event: DecodeEvent) -> Result<Option<Event>, ApiError> {
        match event {
            DecodeEvent::Started { cached_tokens } => Ok(self.started(cached_tokens)),
            DecodeEvent::Tokens { index, tokens } => self.tokens(index, tokens),
            DecodeEvent::PromptLogprobs { index, tokens } => {
                let fresh = skip_known(index, tokens, self.scored)?;
                self.scored += fresh.len();
                Ok((!fresh.is_empty()).then_some(Event::PromptLogprobs(fresh)))
            }
            DecodeEvent::Embedding { values } => Ok(Some(Event::Embedding(values))),
            DecodeEvent::Finished { reason } => Ok(Some(Event::Finished(reason))),
        }
    }

    /// Generated tokens from `index` on.
    pub fn tokens(&mut self, index: usize, tokens: Vec<Token>) -> Result<Option<Event>, ApiError> {
        let fresh = skip_known(index, tokens, self.generated.len())?;
        self.generated.extend(fresh.iter().map(|token| token.id));
        Ok((!fresh.is_empty()).then_some(Event::Tokens(fresh)))
    }
}

/// `tokens`, which start at `index`, without those before `known`.
fn skip_known(index: usize, tokens: Vec<Token>, known: usize) -> Result<Vec<Token>, ApiError> {
    if index > known {
        return Err(ApiError::new(
            ErrorCode::WorkerLost,
            format!("it skipped tokens {known} to {index}"),
        ));
    }
    Ok(tokens.into_iter().skip(known - index).collect())
}

#[cfg(test)]
mod tests;
