//! A simulated worker: the real engine, a device that is busy until its step
//! ends, and what arrives meanwhile.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use engine::{Engine, Export, Output, Request, Sampled, SequenceId};
use kvcache_index::KvEvent;
use router::cluster::view::Report;
use router::plan::Role;
use rustc_hash::FxHashMap;

use super::profile::Profile;

/// Events kept for routers that missed some.
const LOG: usize = 1 << 16;

/// What a sequence on a worker is done for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Task {
    /// The request's number.
    pub(super) request: u64,
    /// Of that request; what belongs to an earlier one is void.
    pub(super) attempt: u32,
    pub(super) part: Part,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// Computes the prompt for another worker.
    Prefill,
    /// Generates; computes the prompt too unless another worker does.
    Decode,
}

/// What is asked of a worker. Takes effect between steps.
#[derive(Debug)]
pub(super) enum Call {
    Add {
        request: Box<Request>,
        task: Task,
    },
    Abort(SequenceId),
    /// Send the KV of `id` from a block on to a worker that decodes.
    Pull {
        id: SequenceId,
        from_block: usize,
        to: Address,
    },
    /// KV has arrived; with the last of it the token that was drawn from it.
    Import {
        id: SequenceId,
        first_block: usize,
        blocks: usize,
        done: Option<Option<Sampled>>,
    },
}

/// A sequence on a start of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) worker: usize,
    pub(super) epoch: u64,
    pub(super) id: SequenceId,
}

/// Blocks that leave for another worker.
#[derive(Debug)]
pub(super) struct Sending {
    pub(super) from: SequenceId,
    pub(super) to: Address,
    pub(super) next_block: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Up,
    /// Finishes what it has.
    Draining,
    Down,
}

pub(super) struct Worker {
    pub(super) id: Arc<str>,
    pub(super) profile: Arc<Profile>,
    pub(super) role: Role,
    pub(super) epoch: u64,
    pub(super) state: State,
    pub(super) engine: Engine,
    pub(super) tasks: FxHashMap<SequenceId, Task>,
    inbox: Vec<Call>,
    /// What the step that runs will have given at its end.
    step: Option<Vec<Output>>,
    pub(super) sending: Vec<Sending>,
    /// Drawn after prompts that are to be handed over.
    pub(super) first_tokens: FxHashMap<SequenceId, Sampled>,
    /// Its port is taken until then.
    pub(super) sends_until: Duration,
    pub(super) receives_until: Duration,
    /// Sequences taken in since its start.
    pub(super) accepted: u64,
    /// Number of its last event.
    last_seq: u64,
    log: VecDeque<(u64, KvEvent)>,
    keeps_log: bool,
    told_at: Option<Duration>,
    /// A report is planned.
    pub(super) report_planned: bool,
    pub(super) counts: Counts,
}

/// What a worker has done.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Counts {
    pub(super) busy: Duration,
    pub(super) prefill_tokens: u64,
    pub(super) decode_tokens: u64,
    pub(super) sequences: u64,
    pub(super) preempted: u64,
    pub(super) steps: u64,
}

impl Worker {
    pub(super) fn new(id: Arc<str>, profile: Arc<Profile>, role: Role, keeps_log: bool) -> Worker {
        Worker {
            id,
            engine: profile.engine(),
            profile,
            role,
            epoch: 1,
            state: State::Up,
            tasks: FxHashMap::default(),
            inbox: Vec::new(),
            step: None,
            sending: Vec::new(),
            first_tokens: FxHashMap::default(),
            sends_until: Duration::ZERO,
            receives_until: Duration::ZERO,
            accepted: 0,
            last_seq: 0,
            log: VecDeque::new(),
            keeps_log,
            told_at: None,
            report_planned: false,
            counts: Counts::default(),
        }
    }

    /// Gone with all it had; what it did counts on.
    pub(super) fn fail(&mut self) {
        let id = self.id.clone();
        let fresh = Worker::new(id, self.profile.clone(), self.role, self.keeps_log);
        *self = Worker {
            epoch: self.epoch + 1,
            state: State::Down,
            counts: self.counts,
            ..fresh
        };
    }

    pub(super) fn is_busy(&self) -> bool {
        self.step.is_some()
    }

    /// Keeps `call` until the step ends.
    pub(super) fn post(&mut self, call: Call) {
        self.inbox.push(call);
    }

    pub(super) fn take_inbox(&mut self) -> Vec<Call> {
        std::mem::take(&mut self.inbox)
    }

    /// Begins a step, if there is anything to do; how long it takes. Zero: its
    /// outputs are there at once.
    pub(super) fn begin_step(&mut self, now: Duration) -> Option<Duration> {
        if !self.engine.has_work() {
            return None;
        }
        // The simulated runner fails only on a fault of the engine's own.
        let report = self.engine.step(now).expect("a simulated step succeeds");
        let time = report.simulated.unwrap_or_default();
        self.engine.record(&report, time);
        self.counts.busy += time;
        self.counts.steps += 1;
        self.counts.prefill_tokens += report.prefill_tokens as u64;
        self.counts.decode_tokens += report.decode_tokens as u64;
        self.counts.preempted += report.preempted as u64;
        self.step = Some(report.outputs);
        Some(time)
    }

    /// The step's outputs.
    pub(super) fn end_step(&mut self) -> Vec<Output> {
        self.step.take().unwrap_or_default()
    }

    /// New events, and the number of the first.
    pub(super) fn events(&mut self) -> (u64, Vec<KvEvent>) {
        let events = self.engine.drain_events();
        let first = self.last_seq + 1;
        self.last_seq += events.len() as u64;
        if self.keeps_log {
            self.log.extend((first..).zip(events.iter().cloned()));
            let surplus = self.log.len().saturating_sub(LOG);
            self.log.drain(..surplus);
        }
        (first, events)
    }

    /// The events after `seq`; `None` if they are no longer known.
    pub(super) fn events_after(&self, seq: u64) -> Option<Vec<KvEvent>> {
        let oldest = self.log.front().map_or(self.last_seq + 1, |it| it.0);
        (oldest <= seq + 1).then(|| {
            let missing = self.log.iter().filter(|it| it.0 > seq);
            missing.map(|it| it.1.clone()).collect()
        })
    }

    /// All it holds, and the number of its last event.
    pub(super) fn snapshot(&self) -> (u64, Vec<KvEvent>) {
        let stored = self
            .engine
            .cached_content()
            .map(|content| KvEvent::stored(content.parent.short(), vec![content.hash.short()]));
        (self.last_seq, stored.collect())
    }

    /// When its load may be told again, given the shortest time between two
    /// reports.
    pub(super) fn report_due(&self, interval: Duration) -> Duration {
        self.told_at.map_or(Duration::ZERO, |it| it + interval)
    }

    pub(super) fn report(&mut self, now: Duration) -> Report {
        self.told_at = Some(now);
        let (status, rates) = (self.engine.status(), self.engine.rates());
        Report {
            sequences: (status.running + status.receiving + status.waiting) as u32,
            waiting: status.waiting as u32,
            queued_prefill_tokens: status.queued_prefill_tokens as u64,
            free_blocks: status.free_blocks as u32,
            total_blocks: status.total_blocks as u32,
            prefill_tokens_per_second: rates.prefill_tokens_per_second(),
            drain_tokens_per_second: rates.drain_tokens_per_second(),
            decode_step_ms: rates.decode_step_ms(),
            inter_token_ms: rates.inter_token_ms(),
            accepted: Some(self.accepted),
        }
    }

    /// What can be sent of `sending` now: first block, number of blocks, and
    /// whether these are the last.
    pub(super) fn export(&self, sending: &Sending) -> Option<(usize, usize, bool)> {
        let all = usize::MAX;
        match self.engine.export(sending.from, sending.next_block, all) {
            Export::Blocks {
                first_block,
                blocks,
                done,
            } => Some((first_block, blocks.len(), done)),
            Export::NotYet | Export::Gone | Export::Failed(_) => None,
        }
    }
}
