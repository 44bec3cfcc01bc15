//! One `Generate` call: its request read and checked, its pieces as messages.

use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::{self, BoxStream};
use proto::v1;
use proto::v1::generate_request::Prompt as WirePrompt;
use tonic::Status;

use super::{Generation, status};
use crate::constraint::{Constraint, Grammar};
use crate::error::ApiError;
use crate::objectives::{self, Hints};
use crate::sequence::{FinishReason, Sequence, Token};
use crate::tokenize::{
    Choice, Conversation, MaxTokens, Message, Model, Options, Piece, Prompt, Request, TextOptions,
};

pub(super) fn read(
    request: v1::GenerateRequest,
    max_sequences: usize,
) -> Result<Request, ApiError> {
    let hints = hints(request.objectives.unwrap_or_default())?;
    let constraint = request.constraint.map(constraint).transpose()?;
    let sampling = request.sampling.unwrap_or_default();
    let max_tokens = request
        .max_tokens
        .map(|tokens| MaxTokens::Exactly(tokens as usize));
    let request = Request {
        model: request.model,
        prompts: request.prompt.map(prompt).into_iter().collect(),
        options: Options {
            temperature: sampling.temperature,
            top_p: sampling.top_p,
            top_k: sampling.top_k,
            min_p: sampling.min_p,
            seed: sampling.seed,
            repetition_penalty: sampling.repetition_penalty,
            presence_penalty: sampling.presence_penalty,
            frequency_penalty: sampling.frequency_penalty,
            ignore_eos: sampling.ignore_eos,
            stop_token_ids: sampling.stop_token_ids,
            logprobs: sampling.logprobs,
            prompt_logprobs: None,
            max_tokens: max_tokens.unwrap_or(MaxTokens::UpTo(usize::MAX)),
            min_tokens: sampling.min_tokens as usize,
            n: request.n.max(1) as usize,
            cache_salt: Arc::from(request.cache_salt),
            logit_bias: sampling.logit_bias.into_iter().collect(),
            allowed_token_ids: sampling.allowed_token_ids,
            bad_words: sampling.bad_words,
            constraint: constraint.map(Arc::new),
            tools: None,
            embeds: false,
            text: TextOptions {
                stop: Arc::from(request.stop),
                ..TextOptions::default()
            },
        },
        hints,
    };
    request.check(max_sequences)?;
    Ok(request)
}

fn constraint(constraint: v1::Constraint) -> Result<Constraint, ApiError> {
    use v1::constraint::Grammar as Wire;
    let (field, grammar) = match constraint.grammar {
        Some(Wire::JsonSchema(schema)) => ("json_schema", Grammar::JsonSchema(schema)),
        Some(Wire::Regex(regex)) => ("regex", Grammar::Regex(regex)),
        Some(Wire::Choice(choice)) => ("choice", Grammar::Choice(choice.texts)),
        Some(Wire::Lark(lark)) => ("lark", Grammar::Lark(lark)),
        None => {
            let message = "'constraint' says nothing; give one of its grammars or leave it out";
            return Err(ApiError::invalid("constraint", message));
        }
    };
    Ok(Constraint {
        param: format!("constraint.{field}"),
        grammar,
    })
}

fn hints(objectives: v1::Objectives) -> Result<Hints, ApiError> {
    let duration = |field: &str, value: Option<f64>| {
        let Some(milliseconds) = value else {
            return Ok(None);
        };
        let duration = Duration::try_from_secs_f64(milliseconds / 1000.0).ok();
        match duration.filter(|duration| !duration.is_zero()) {
            Some(duration) => Ok(Some(duration)),
            None => Err(ApiError::invalid(
                field,
                format!("'{field}' must be a number above 0, not {milliseconds}"),
            )),
        }
    };
    let tenant = Some(&objectives.tenant).filter(|tenant| !tenant.is_empty());
    let tenant = tenant.map(|tenant| objectives::named("tenant", tenant));
    let tenant = tenant.transpose()?;
    Ok(Hints {
        tenant,
        priority: objectives.priority,
        time_to_first_token: duration("time_to_first_token_ms", objectives.time_to_first_token_ms)?,
        inter_token_latency: duration("inter_token_latency_ms", objectives.inter_token_latency_ms)?,
        output_tokens: objectives.output_tokens.map(|tokens| tokens as usize),
        ..Hints::default()
    })
}

fn prompt(prompt: WirePrompt) -> Prompt {
    match prompt {
        WirePrompt::Text(text) => Prompt::Text(Arc::from(text)),
        WirePrompt::TokenIds(tokens) => Prompt::Tokens(Arc::from(tokens.ids)),
        WirePrompt::Chat(chat) => {
            let messages = chat.messages.into_iter().map(|message| Message {
                role: message.role,
                content: message.content,
                ..Message::default()
            });
            Prompt::Chat(Arc::new(Conversation {
                messages: messages.collect(),
                tools: None,
                add_generation_prompt: true,
                variables: serde_json::Map::new(),
            }))
        }
    }
}

/// The messages of a call. Dropping the stream cancels the sequences.
pub(super) fn responses(
    generation: Generation,
    options: &TextOptions,
) -> BoxStream<'static, Result<v1::GenerateResponse, Status>> {
    let Generation { sequences, runs } = generation;
    let choices = sequences.iter().zip(runs);
    let choices =
        choices.map(|(sequence, events)| Box::new(Choice::new(sequence, options, events)));
    let mut choices = stream::select_all(choices);
    let mut writer = Writer::new(&sequences);
    let responses = stream::poll_fn(move |cx| {
        let piece = ready!(choices.poll_next_unpin(cx));
        if matches!(piece, Some(Err(_))) {
            // One failure ends the call, and with it the other choices.
            choices.clear();
        }
        Poll::Ready(piece.map(|piece| piece.map(|piece| writer.response(piece)).map_err(status)))
    });
    responses.boxed()
}

/// Makes messages of pieces, and the sum on the last one.
struct Writer {
    model: Option<Arc<Model>>,
    logprobs: bool,
    running: usize,
    usage: v1::Usage,
    /// Of the completion that found the least; all share one prompt.
    cached_tokens: Option<usize>,
}

impl Writer {
    fn new(sequences: &[Sequence]) -> Writer {
        let first = sequences.first();
        Writer {
            model: first.map(|first| Arc::clone(&first.model)),
            logprobs: first.is_some_and(|first| first.sampling.logprobs.is_some()),
            running: sequences.len(),
            usage: v1::Usage {
                prompt_tokens: first.map_or(0, |first| count(first.prompt.len())),
                ..v1::Usage::default()
            },
            cached_tokens: None,
        }
    }

    fn response(&mut self, piece: Piece) -> v1::GenerateResponse {
        let shown = piece
            .tokens
            .iter()
            .filter(|token| token.shown && self.logprobs);
        let logprobs = shown.map(|token| self.logprobs(&token.token)).collect();
        let mut finish_reason = "";
        let mut usage = None;
        if let Some(end) = &piece.end {
            finish_reason = match end.reason {
                FinishReason::Stop => "stop",
                FinishReason::Length => "length",
            };
            self.running -= 1;
            self.usage.completion_tokens += count(end.generated);
            let known = self.cached_tokens.into_iter().chain([end.cached_tokens]);
            self.cached_tokens = known.min();
            self.usage.cached_tokens = count(self.cached_tokens.unwrap_or(0));
            usage = (self.running == 0).then_some(self.usage);
        }
        v1::GenerateResponse {
            choice: count(piece.choice),
            text: piece.text,
            token_ids: piece.tokens.iter().map(|token| token.token.id).collect(),
            logprobs,
            finish_reason: finish_reason.to_owned(),
            usage,
        }
    }

    fn logprobs(&self, token: &Token) -> v1::TokenLogprobs {
        v1::TokenLogprobs {
            token: Some(self.logprob(token.id, token.logprob.unwrap_or(f32::NEG_INFINITY))),
            top: token
                .top
                .iter()
                .map(|&(id, logprob)| self.logprob(id, logprob))
                .collect(),
        }
    }

    fn logprob(&self, id: u32, logprob: f32) -> v1::TokenLogprob {
        let bytes = self
            .model
            .as_ref()
            .map_or(&[][..], |model| model.token_bytes(id));
        v1::TokenLogprob {
            id,
            text: String::from_utf8_lossy(bytes).into_owned(),
            logprob,
        }
    }
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
