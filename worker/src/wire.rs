//! Between the wire's types and the worker's own. Wire types stop here.

use std::time::Duration;

use engine::{
    Finish, KvShape, KvSource, Purpose, Request, Sampled, SamplingParams, SequenceId, TopLogprob,
};
use kvcache_index::{HashScope, KvEvent, Tier};
use proto::worker as pb;

use crate::config::Role;
use crate::engine_thread::StageTimes;
use crate::event_feed::{Pulse, Update, WorkerStatus};
use crate::event_log::Run;
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
            kv,
            purpose,
        })
    }
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
        stop_token_ids: wire.stop_token_ids,
        logprobs: wire.logprobs,
        prompt_logprobs: wire.prompt_logprobs,
        max_tokens: wire.max_tokens as usize,
        min_tokens: wire.min_tokens as usize,
    })
}

pub fn role(role: Role) -> pb::Role {
    match role {
        Role::Prefill => pb::Role::Prefill,
        Role::Decode => pb::Role::Decode,
        Role::Both => pb::Role::Both,
    }
}

pub fn token(sampled: &Sampled) -> pb::Token {
    let top = sampled.top.iter().map(|top| pb::TokenLogprob {
        id: top.token,
        logprob: top.logprob,
    });
    pb::Token {
        id: sampled.token,
        logprob: sampled.logprob,
        top: top.collect(),
    }
}

pub fn sampled(token: pb::Token) -> Sampled {
    let top = token.top.into_iter().map(|top| TopLogprob {
        token: top.id,
        logprob: top.logprob,
    });
    Sampled {
        token: token.id,
        logprob: token.logprob,
        top: top.collect(),
    }
}

pub fn tokens(sampled: &[Sampled]) -> Vec<pb::Token> {
    sampled.iter().map(token).collect()
}

pub fn finish_reason(reason: Finish) -> pb::FinishReason {
    match reason {
        Finish::Stop => pb::FinishReason::Stop,
        Finish::Length => pb::FinishReason::Length,
    }
}

pub fn stage_times(times: &StageTimes) -> pb::StageTimes {
    pb::StageTimes {
        queued: milliseconds(times.queued),
        prefill: milliseconds(times.prefill),
        transfer: milliseconds(times.transfer),
        decode: milliseconds(times.decode),
    }
}

pub fn milliseconds(time: Duration) -> f32 {
    time.as_secs_f32() * 1e3
}

/// How this worker's blocks look on the wire.
pub fn kv_layout(kv: &KvShape, identity: &BlockIdentity) -> pb::KvLayout {
    pb::KvLayout {
        version: 1,
        block_size: identity.block_size as u32,
        layers: kv.layers as u32,
        kv_heads: kv.kv_heads as u32,
        head_dim: kv.head_dim as u32,
        dtype: kv.dtype.to_owned(),
        model_fingerprint: identity.model_fingerprint.clone(),
    }
}

pub fn worker_event(epoch: u64, update: Update) -> pb::WorkerEvent {
    use pb::worker_event::Event;
    let (seq, event) = match update {
        Update::Snapshot {
            seq,
            first,
            last,
            runs,
        } => {
            let stored = runs.into_iter().map(blocks_stored).collect();
            let snapshot = pb::Snapshot {
                first,
                last,
                stored,
            };
            (seq, Event::Snapshot(snapshot))
        }
        Update::Event(numbered) => (numbered.seq, kv_event(numbered.event)),
        Update::Status { seq, status, pulse } => (seq, Event::Status(worker_status(status, pulse))),
    };
    pb::WorkerEvent {
        epoch,
        seq,
        event: Some(event),
    }
}

fn kv_event(event: KvEvent) -> pb::worker_event::Event {
    use pb::worker_event::Event;
    match event {
        KvEvent::Stored {
            parent,
            hashes,
            tier,
        } => Event::Stored(blocks_stored(Run {
            tier,
            parent,
            hashes,
        })),
        KvEvent::Removed { hashes, tier } => Event::Removed(pb::BlocksRemoved {
            hashes,
            tier: wire_tier(tier).into(),
        }),
        KvEvent::Cleared => Event::Cleared(pb::BlocksCleared {}),
    }
}

fn blocks_stored(run: Run) -> pb::BlocksStored {
    pb::BlocksStored {
        parent: run.parent,
        hashes: run.hashes,
        tier: wire_tier(run.tier).into(),
    }
}

fn wire_tier(tier: Tier) -> pb::Tier {
    match tier {
        Tier::Device => pb::Tier::Device,
        Tier::Host => pb::Tier::Host,
        Tier::Disk => pb::Tier::Disk,
        Tier::Shared => pb::Tier::Shared,
    }
}

fn worker_status(status: WorkerStatus, pulse: Pulse) -> pb::Status {
    let milliseconds = |time: Duration| u32::try_from(time.as_millis()).unwrap_or(u32::MAX);
    pb::Status {
        waiting_sequences: status.waiting_sequences as u32,
        running_sequences: status.running_sequences as u32,
        queued_prefill_tokens: status.queued_prefill_tokens as u64,
        total_blocks: status.total_blocks as u32,
        free_blocks: status.free_blocks as u32,
        cached_blocks: status.cached_blocks as u32,
        prefill_tokens_per_second: status.prefill_tokens_per_second,
        decode_step_ms: status.decode_step_ms,
        inter_token_ms: status.inter_token_ms,
        drain_tokens_per_second: status.drain_tokens_per_second,
        draining: status.draining,
        not_ready: status.not_ready,
        step_age_ms: milliseconds(pulse.step_age),
        longest_step_ms: milliseconds(pulse.longest_step),
        accepted_sequences: Some(status.accepted_sequences),
    }
}

#[cfg(test)]
mod tests {
    use proto::ErrorCode;

    use super::*;

    fn identity() -> BlockIdentity {
        BlockIdentity {
            model_fingerprint: "m".into(),
            block_size: 16,
        }
    }

    fn prompt(tokens: &[u32]) -> pb::Prompt {
        pb::Prompt {
            request_id: "r".into(),
            token_ids: tokens.to_vec(),
            resumed_tokens: 0,
            sampling: Some(pb::Sampling {
                top_p: 1.0,
                repetition_penalty: 1.0,
                max_tokens: 4,
                ..pb::Sampling::default()
            }),
            cache_salt: String::new(),
            priority: 0,
        }
    }

    fn code(prompt: pb::Prompt) -> Option<ErrorCode> {
        identity()
            .request(
                Some(prompt),
                SequenceId(1),
                KvSource::Compute,
                Purpose::Generate,
            )
            .err()
            .map(|failure| failure.code)
    }

    fn with_sampling(change: impl FnOnce(&mut pb::Sampling)) -> pb::Prompt {
        let mut prompt = prompt(&[1]);
        change(prompt.sampling.as_mut().unwrap());
        prompt
    }

    #[test]
    fn refuses_a_prompt_without_sampling() {
        assert_eq!(code(prompt(&[1])), None);
        let bad = pb::Prompt {
            sampling: None,
            ..prompt(&[1])
        };
        assert_eq!(code(bad), Some(ErrorCode::InvalidRequest));
    }

    #[test]
    fn refuses_sampling_out_of_range() {
        let bad = [
            with_sampling(|it| it.temperature = -1.0),
            with_sampling(|it| it.temperature = f32::NAN),
            with_sampling(|it| it.top_p = 0.0),
            with_sampling(|it| it.top_p = 1.1),
            with_sampling(|it| it.min_p = 2.0),
            with_sampling(|it| it.repetition_penalty = 0.0),
            with_sampling(|it| it.presence_penalty = f32::INFINITY),
            with_sampling(|it| it.frequency_penalty = f32::NAN),
        ];
        for bad in bad {
            assert_eq!(
                code(bad.clone()),
                Some(ErrorCode::InvalidRequest),
                "{bad:?}"
            );
        }
    }

    #[test]
    fn salt_separates_blocks() {
        let scope = |salt: &str| {
            let prompt = pb::Prompt {
                cache_salt: salt.into(),
                ..prompt(&[1])
            };
            identity()
                .request(
                    Some(prompt),
                    SequenceId(1),
                    KvSource::Compute,
                    Purpose::Generate,
                )
                .unwrap()
                .scope
        };
        assert_eq!(scope("a"), scope("a"));
        assert_ne!(scope("a"), scope("b"));
    }

    #[test]
    fn tokens_survive_the_wire() {
        let drawn = Sampled {
            token: 3,
            logprob: Some(-0.5),
            top: vec![TopLogprob {
                token: 9,
                logprob: -0.1,
            }],
        };
        assert_eq!(sampled(token(&drawn)), drawn);
    }
}
