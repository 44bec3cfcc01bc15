//! Prompts, as workers are asked to compute and continue them, checked.

use std::collections::HashMap;

use engine::{KvSource, Pooling, Purpose, Request, SamplingParams, SequenceId, TokenRules};
use kvcache_index::HashScope;
use proto::worker as pb;

use crate::failure::Failure;

/// What every block of this worker's prompts shares.
#[derive(Clone, Debug)]
pub struct BlockIdentity {
    pub model_fingerprint: String,
    pub block_size: usize,
}

impl BlockIdentity {
    /// A request for the engine, which checks its tokens and limits.
    pub fn request(
        &self,
        prompt: Option<pb::Prompt>,
        id: SequenceId,
        kv: KvSource,
        purpose: Purpose,
    ) -> Result<Request, Failure> {
        let prompt = prompt.ok_or_else(|| Failure::invalid("prompt is missing"))?;
        let wire = prompt
            .sampling
            .ok_or_else(|| Failure::invalid("prompt.sampling is missing"))?;
        check_constrained(prompt.constraint.is_some(), &wire)?;
        let scope = HashScope::new(&self.model_fingerprint, &prompt.cache_salt, self.block_size);
        Ok(Request {
            id,
            // Here, so that a long prompt does not hold up the engine's thread.
            hashes: scope.full_blocks(&prompt.token_ids, self.block_size),
            scope,
            tokens: prompt.token_ids,
            resumed_tokens: prompt.resumed_tokens as usize,
            priority: prompt.priority,
            sampling: sampling(wire)?,
            constraint: None,
            kv,
            purpose,
        })
    }
}

/// A constraint alone says where the text may end.
fn check_constrained(constrained: bool, sampling: &pb::Sampling) -> Result<(), Failure> {
    let other = match sampling {
        _ if !constrained => return Ok(()),
        it if it.ignore_eos => "ignore_eos",
        it if it.min_tokens > 0 => "min_tokens",
        it if !it.allowed_token_ids.is_empty() => "allowed_token_ids",
        it if !it.banned.is_empty() => "banned",
        _ => return Ok(()),
    };
    Err(Failure::invalid(format!(
        "sampling.{other} can't be combined with a constraint; leave one of them out"
    )))
}

fn sampling(wire: pb::Sampling) -> Result<SamplingParams, Failure> {
    let within = |name: &str, value: f32, valid: bool, range: &str| {
        if valid {
            return Ok(value);
        }
        Err(Failure::invalid(format!(
            "sampling.{name} is {value}; it must be {range}"
        )))
    };
    let finite = |value: f32| value.is_finite();
    Ok(SamplingParams {
        temperature: within(
            "temperature",
            wire.temperature,
            finite(wire.temperature) && wire.temperature >= 0.0,
            "0 or more",
        )?,
        top_p: within(
            "top_p",
            wire.top_p,
            wire.top_p > 0.0 && wire.top_p <= 1.0,
            "above 0 and at most 1",
        )?,
        top_k: wire.top_k,
        min_p: within(
            "min_p",
            wire.min_p,
            (0.0..=1.0).contains(&wire.min_p),
            "from 0 to 1",
        )?,
        seed: wire.seed,
        repetition_penalty: within(
            "repetition_penalty",
            wire.repetition_penalty,
            finite(wire.repetition_penalty) && wire.repetition_penalty > 0.0,
            "above 0",
        )?,
        presence_penalty: within(
            "presence_penalty",
            wire.presence_penalty,
            finite(wire.presence_penalty),
            "a finite number",
        )?,
        frequency_penalty: within(
            "frequency_penalty",
            wire.frequency_penalty,
            finite(wire.frequency_penalty),
            "a finite number",
        )?,
        ignore_eos: wire.ignore_eos,
        tokens: token_rules(wire.logit_bias, wire.allowed_token_ids, wire.banned)?,
        stop_token_ids: wire.stop_token_ids,
        logprobs: wire.logprobs,
        prompt_logprobs: wire.prompt_logprobs,
        max_tokens: wire.max_tokens as usize,
        min_tokens: wire.min_tokens as usize,
    })
}

fn token_rules(
    bias: HashMap<u32, f32>,
    allowed: Vec<u32>,
    banned: Vec<pb::TokenSequence>,
) -> Result<TokenRules, Failure> {
    if let Some((token, bias)) = bias.iter().find(|(_, bias)| !bias.is_finite()) {
        let message = format!("sampling.logit_bias of token {token} is {bias}; it must be finite");
        return Err(Failure::invalid(message));
    }
    Ok(TokenRules {
        bias: bias.into_iter().collect(),
        allowed,
        banned: banned.into_iter().map(|banned| banned.ids).collect(),
    })
}

/// What a Generate call is for.
pub fn purpose(prompt: Option<&pb::Prompt>) -> Purpose {
    match prompt.map(pb::Prompt::pooling) {
        Some(pb::Pooling::Last) => Purpose::Embed(Pooling::Last),
        Some(pb::Pooling::Mean) => Purpose::Embed(Pooling::Mean),
        None | Some(pb::Pooling::None) => Purpose::Generate,
    }
}

#[cfg(test)]
mod tests;
