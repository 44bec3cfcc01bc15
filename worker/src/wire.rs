//! Between the wire's types and the worker's own. Wire types stop here.

mod request;

use std::time::Duration;

use engine::{Finish, KvShape, Sampled, TopLogprob};
use kvcache_index::{KvEvent, Tier};
use proto::worker as pb;

use crate::config::Role;
use crate::engine_thread::StageTimes;
use crate::event_feed::{Pulse, Update, WorkerStatus};
use crate::event_log::Run;
pub use request::{BlockIdentity, purpose};

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
    use super::*;

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
