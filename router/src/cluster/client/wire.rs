//! Between the wire's types and the router's own. Wire types stop here.

use std::time::Duration;

use kvcache_index::{KvEvent, Tier};
use proto::ErrorCode;
use proto::worker as wire;
use tonic::Status;

use super::{DecodeEvent, Description, Notice, PrefillEvent, Ticket, WorkerStatus};
use crate::constraint::{CallGrammar, Constraint, Grammar, Piece};
use crate::error::ApiError;
use crate::plan::Role;
use crate::sequence::{FinishReason, Pooling, Sequence, Token};

pub(super) fn description(described: wire::WorkerDescription) -> Description {
    Description {
        role: match described.role() {
            wire::Role::Prefill => Role::Prefill,
            wire::Role::Decode => Role::Decode,
            wire::Role::Both | wire::Role::Unspecified => Role::Both,
        },
        worker_id: described.worker_id,
        epoch: described.epoch,
        model: described.model,
        model_fingerprint: described.model_fingerprint,
        block_size: described.block_size as usize,
        max_model_len: described.max_model_len as usize,
        vocab_size: described.vocab_size as usize,
    }
}

pub(super) fn failure(status: Status) -> ApiError {
    ApiError::new(proto::code_of(&status), status.message())
}

fn malformed(what: &str) -> ApiError {
    ApiError::new(
        ErrorCode::WorkerLost,
        format!("the worker sent {what} without content; is it of another version?"),
    )
}

pub(super) fn prompt(sequence: &Sequence, generated: &[u32]) -> wire::Prompt {
    let sampling = &sequence.sampling;
    wire::Prompt {
        request_id: format!("{}-{}", sequence.request_id, sequence.choice),
        token_ids: [&sequence.prompt, generated].concat(),
        resumed_tokens: generated.len() as u32,
        sampling: Some(wire::Sampling {
            temperature: sampling.temperature,
            top_p: sampling.top_p,
            top_k: sampling.top_k,
            min_p: sampling.min_p,
            seed: sampling.seed,
            repetition_penalty: sampling.repetition_penalty,
            presence_penalty: sampling.presence_penalty,
            frequency_penalty: sampling.frequency_penalty,
            ignore_eos: sampling.ignore_eos,
            stop_token_ids: sampling.stop_token_ids.clone(),
            logprobs: sampling.logprobs,
            prompt_logprobs: sampling.prompt_logprobs,
            max_tokens: sampling.max_tokens as u32,
            min_tokens: sampling.min_tokens as u32,
            logit_bias: sampling.logit_bias.iter().copied().collect(),
            allowed_token_ids: sampling.allowed_token_ids.clone(),
            banned: sampling.banned.iter().map(token_sequence).collect(),
        }),
        cache_salt: sequence.cache_salt.to_string(),
        constraint: sequence.constraint.as_deref().map(constraint),
        pooling: pooling(sequence.pooling).into(),
        priority: sequence.objectives.priority,
    }
}

fn pooling(pooling: Option<Pooling>) -> wire::Pooling {
    match pooling {
        None => wire::Pooling::None,
        Some(Pooling::Last) => wire::Pooling::Last,
        Some(Pooling::Mean) => wire::Pooling::Mean,
    }
}

fn token_sequence(ids: &Vec<u32>) -> wire::TokenSequence {
    wire::TokenSequence { ids: ids.clone() }
}

fn constraint(constraint: &Constraint) -> wire::Constraint {
    use wire::constraint::Grammar as Wire;
    let grammar = match &constraint.grammar {
        Grammar::JsonSchema(schema) => Wire::JsonSchema(schema.clone()),
        Grammar::Regex(regex) => Wire::Regex(regex.clone()),
        Grammar::Choice(texts) => Wire::Choice(wire::Choice {
            texts: texts.clone(),
        }),
        Grammar::Lark(lark) => Wire::Lark(lark.clone()),
        Grammar::Calls(calls) => Wire::ToolCalls(tool_calls(calls)),
    };
    wire::Constraint {
        grammar: Some(grammar),
    }
}

fn tool_calls(calls: &CallGrammar) -> wire::ToolCalls {
    let pieces = |pieces: &[Piece]| pieces.iter().map(piece).collect();
    let tool = |(name, parameters): &(String, String)| wire::Tool {
        name: name.clone(),
        parameters: parameters.clone(),
    };
    wire::ToolCalls {
        tools: calls.functions.iter().map(tool).collect(),
        begin: pieces(&calls.begin),
        open: pieces(&calls.open),
        middle: pieces(&calls.middle),
        close: pieces(&calls.close),
        separator: pieces(&calls.separator),
        end: pieces(&calls.end),
        max_calls: calls.max_calls,
        plain_names: calls.plain_names,
    }
}

fn piece(piece: &Piece) -> wire::Piece {
    use wire::piece::Piece as Wire;
    wire::Piece {
        piece: Some(match piece {
            Piece::Text(text) => Wire::Text(text.clone()),
            Piece::Token(id) => Wire::TokenId(*id),
        }),
    }
}

fn token(token: wire::Token) -> Token {
    Token {
        id: token.id,
        logprob: token.logprob,
        top: token.top.iter().map(|top| (top.id, top.logprob)).collect(),
    }
}

fn tokens(tokens: Vec<wire::Token>) -> Vec<Token> {
    tokens.into_iter().map(token).collect()
}

/// 0 if the worker does not say.
pub(super) fn sequence_number(metadata: &tonic::metadata::MetadataMap) -> u64 {
    let number = metadata.get(proto::SEQUENCE_NUMBER);
    let number = number.and_then(|it| it.to_str().ok()?.parse().ok());
    number.unwrap_or_default()
}

pub(super) fn decode_event(event: wire::GenerateEvent) -> Result<DecodeEvent, ApiError> {
    use wire::generate_event::Event;
    Ok(match event.event.ok_or_else(|| malformed("an event"))? {
        Event::Started(started) => DecodeEvent::Started {
            cached_tokens: started.cached_tokens as usize,
        },
        Event::Tokens(part) => DecodeEvent::Tokens {
            index: part.index as usize,
            tokens: tokens(part.tokens),
        },
        Event::Embedding(embedding) => DecodeEvent::Embedding {
            values: embedding.values,
        },
        Event::PromptLogprobs(part) => DecodeEvent::PromptLogprobs {
            index: part.index as usize,
            tokens: tokens(part.tokens),
        },
        Event::Finished(finished) => DecodeEvent::Finished {
            reason: match finished.reason() {
                wire::FinishReason::Length => FinishReason::Length,
                wire::FinishReason::Stop => FinishReason::Stop,
                wire::FinishReason::Unspecified => return Err(malformed("a finish reason")),
            },
        },
    })
}

pub(super) fn prefill_event(event: wire::PrefillEvent) -> Result<PrefillEvent, ApiError> {
    use wire::prefill_event::Event;
    Ok(match event.event.ok_or_else(|| malformed("an event"))? {
        Event::Ticket(ticket) => PrefillEvent::Ticket(Ticket(ticket)),
        Event::Started(started) => PrefillEvent::Started {
            cached_tokens: started.cached_tokens as usize,
        },
        Event::FirstToken(first) => PrefillEvent::FirstToken(token(first)),
        Event::Transferred(_) => PrefillEvent::Transferred,
    })
}

/// `None`: an event of a newer worker, not known here.
pub(super) fn notice(event: wire::WorkerEvent) -> Option<Notice> {
    use wire::worker_event::Event;
    let (epoch, seq) = (event.epoch, event.seq);
    let kv = |event| Some(Notice::Kv { epoch, seq, event });
    match event.event? {
        Event::Snapshot(snapshot) => Some(Notice::Snapshot {
            epoch,
            seq,
            first: snapshot.first,
            last: snapshot.last,
            events: snapshot.stored.into_iter().map(stored).collect(),
        }),
        Event::Stored(blocks) => kv(stored(blocks)),
        Event::Removed(blocks) => kv(KvEvent::Removed {
            tier: tier(blocks.tier),
            hashes: blocks.hashes,
        }),
        Event::Cleared(_) => kv(KvEvent::Cleared),
        Event::Status(status) => Some(Notice::Status {
            epoch,
            seq,
            status: worker_status(&status),
        }),
    }
}

fn worker_status(status: &wire::Status) -> WorkerStatus {
    let milliseconds = |ms: u32| Duration::from_millis(ms.into());
    WorkerStatus {
        sequences: status.waiting_sequences + status.running_sequences,
        queued_prefill_tokens: status.queued_prefill_tokens,
        free_blocks: status.free_blocks,
        total_blocks: status.total_blocks,
        prefill_tokens_per_second: status.prefill_tokens_per_second,
        decode_step_ms: status.decode_step_ms,
        inter_token_ms: status.inter_token_ms,
        drain_tokens_per_second: status.drain_tokens_per_second,
        waiting: status.waiting_sequences,
        accepted: status.accepted_sequences,
        draining: status.draining,
        not_ready: status.not_ready,
        step_age: milliseconds(status.step_age_ms),
        longest_step: milliseconds(status.longest_step_ms),
    }
}

fn stored(blocks: wire::BlocksStored) -> KvEvent {
    KvEvent::Stored {
        parent: blocks.parent,
        tier: tier(blocks.tier),
        hashes: blocks.hashes,
    }
}

fn tier(number: i32) -> Tier {
    match wire::Tier::try_from(number) {
        Ok(wire::Tier::Device) => Tier::Device,
        Ok(wire::Tier::Host) => Tier::Host,
        Ok(wire::Tier::Disk) => Tier::Disk,
        Ok(wire::Tier::Shared) | Err(_) => Tier::Shared,
    }
}
