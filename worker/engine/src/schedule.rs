//! The scheduler: what each step computes.
//!
//! A step has a token budget. Sequences that decode come first, so that a long
//! prompt never stalls running streams; prompts fill the rest chunk by chunk,
//! first come first served. A sequence is admitted when there are blocks for
//! all its tokens; when a running one finds no further block, the latest
//! arrival yields (it gives up its blocks and later goes on from its tokens,
//! through the prefix cache). Nobody overtakes the first in the queue, and a
//! sequence yields only to earlier ones, so none starves.

mod queues;

use std::time::Duration;

use rustc_hash::FxHashMap;

use crate::block_pool::BlockPool;
use crate::request::{KvSource, Output, SequenceId};
use crate::runner::{Chunk, Step};
use crate::sequence::{Sequence, State};
use queues::Queues;

/// How much the engine takes on.
#[derive(Clone, Debug, PartialEq)]
pub struct EngineConfig {
    /// Tokens in one step at most. More makes prefill faster and, while prompts
    /// are computed, each decoded token later.
    pub max_batch_tokens: usize,
    /// Sequences that run or receive KV at a time, at most; no more than
    /// `max_batch_tokens` have effect.
    pub max_sequences: usize,
    /// Sequences that wait, at most; further ones are refused as busy.
    pub max_waiting: usize,
    /// Share of all blocks that admission leaves free while others run, for
    /// them to grow into. Less admits earlier and preempts more.
    pub watermark: f32,
}

impl Default for EngineConfig {
    fn default() -> EngineConfig {
        EngineConfig {
            max_batch_tokens: 2048,
            max_sequences: 256,
            max_waiting: 1024,
            watermark: 0.01,
        }
    }
}

/// What one step computes.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub(crate) chunks: Vec<PlannedChunk>,
    /// What admission has to tell.
    pub(crate) outputs: Vec<Output>,
    pub(crate) prefill_tokens: usize,
    pub(crate) decode_tokens: usize,
    pub(crate) preempted: usize,
    /// Of sequences let in: what they need not compute.
    pub(crate) cached_tokens: usize,
    /// Sequences that were not let in.
    pub(crate) left_waiting: usize,
    /// How long the first in the queue has waited.
    pub(crate) longest_wait: Duration,
    /// Tokens that still fit.
    budget: usize,
}

#[derive(Debug)]
pub(crate) struct PlannedChunk {
    pub(crate) id: SequenceId,
    pub(crate) start: usize,
    pub(crate) end: usize,
    pub(crate) sample: bool,
    pub(crate) prompt_logprobs: bool,
}

/// All sequences, and the blocks they hold.
#[derive(Debug)]
pub(crate) struct Scheduler {
    pub(crate) pool: BlockPool,
    config: EngineConfig,
    /// Blocks that admission leaves free while others run.
    reserve: usize,
    sequences: FxHashMap<SequenceId, Sequence>,
    queues: Queues,
    arrivals: u64,
    preemptions: u64,
}

impl Scheduler {
    pub(crate) fn new(config: EngineConfig, pool: BlockPool) -> Scheduler {
        let max_batch_tokens = config.max_batch_tokens.max(1);
        Scheduler {
            reserve: (f64::from(config.watermark.max(0.0)) * pool.total() as f64).ceil() as usize,
            config: EngineConfig {
                max_batch_tokens,
                max_sequences: config.max_sequences.clamp(1, max_batch_tokens),
                ..config
            },
            pool,
            sequences: FxHashMap::default(),
            queues: Queues::default(),
            arrivals: 0,
            preemptions: 0,
        }
    }

    pub(crate) fn config(&self) -> &EngineConfig {
        &self.config
    }

    pub(crate) fn get(&self, id: SequenceId) -> Option<&Sequence> {
        self.sequences.get(&id)
    }

    /// The sequence and the pool, to be changed together.
    pub(crate) fn get_mut(&mut self, id: SequenceId) -> Option<(&mut Sequence, &mut BlockPool)> {
        Some((self.sequences.get_mut(&id)?, &mut self.pool))
    }

    /// Number of sequences in `state`.
    pub(crate) fn count(&self, state: State) -> usize {
        self.queues.of(state).len()
    }

    /// Number of times that a sequence had to yield.
    pub(crate) fn preemptions(&self) -> u64 {
        self.preemptions
    }

    pub(crate) fn queued_prefill_tokens(&self) -> usize {
        self.sequences.values().map(Sequence::queued_prefill).sum()
    }

    /// Puts a new sequence at the end of the queue.
    pub(crate) fn add(&mut self, mut sequence: Sequence) {
        sequence.arrival = self.arrivals;
        self.arrivals += 1;
        self.queues.enter(&sequence);
        self.sequences.insert(sequence.id, sequence);
    }

    /// Forgets a sequence and frees its blocks.
    pub(crate) fn remove(&mut self, id: SequenceId) -> bool {
        let Some(mut sequence) = self.sequences.remove(&id) else {
            return false;
        };
        self.queues.leave(&sequence);
        self.pool.release(&sequence.take_blocks());
        true
    }

    pub(crate) fn move_to(&mut self, id: SequenceId, state: State) {
        if let Some(sequence) = self.sequences.get_mut(&id) {
            self.queues.leave(sequence);
            sequence.state = state;
            self.queues.enter(sequence);
        }
    }

    /// Decides what the next step computes and moves sequences accordingly.
    pub(crate) fn schedule(&mut self, now: Duration) -> Plan {
        let mut plan = Plan {
            budget: self.config.max_batch_tokens,
            ..Plan::default()
        };
        let running: Vec<SequenceId> = self.queues.ids(State::Running).collect();
        self.schedule_decodes(&running, &mut plan);
        self.schedule_prefills(&running, &mut plan);
        self.admit(&mut plan);
        plan.longest_wait = self.longest_wait(now);
        plan.left_waiting = self.count(State::Waiting);
        plan
    }

    /// The plan as the runner takes it.
    pub(crate) fn chunks(&self, plan: &Plan) -> Step<'_> {
        let chunk = |planned: &PlannedChunk| {
            let sequence = self.sequences.get(&planned.id)?;
            Some(Chunk {
                id: planned.id,
                tokens: &sequence.tokens,
                prompt_len: sequence.prompt_len,
                start: planned.start,
                end: planned.end,
                blocks: &sequence.blocks,
                sample: planned.sample,
                prompt_logprobs: planned.prompt_logprobs,
                sampling: &sequence.sampling,
                constraint: sequence.constraint.as_deref(),
                pooled: sequence.pooled(planned.start, planned.end),
            })
        };
        Step {
            chunks: plan.chunks.iter().filter_map(chunk).collect(),
        }
    }

    fn schedule_decodes(&mut self, running: &[SequenceId], plan: &mut Plan) {
        for &id in running {
            let one_left =
                |sequence: &Sequence| sequence.state == State::Running && sequence.remaining() == 1;
            if self.get(id).is_some_and(one_left)
                && self.grow(id, plan)
                && let Some(sequence) = self.sequences.get(&id)
            {
                plan.push(sequence);
            }
        }
    }

    fn schedule_prefills(&mut self, running: &[SequenceId], plan: &mut Plan) {
        for id in running {
            if plan.budget == 0 {
                return;
            }
            if let Some(sequence) = self.sequences.get(id)
                && sequence.state == State::Running
                && sequence.remaining() > 1
            {
                plan.push(sequence);
            }
        }
    }

    /// Sees to a block for the next position. Whoever yields arrived later than
    /// `id`, or is `id` itself (then this is false): it is not in the plan yet,
    /// as those that need blocks are planned in order of arrival.
    fn grow(&mut self, id: SequenceId, plan: &mut Plan) -> bool {
        loop {
            let Some(sequence) = self.sequences.get_mut(&id) else {
                return false;
            };
            if sequence.computed < sequence.blocks.len() * self.pool.block_size() {
                return true;
            }
            if let Some(block) = self.pool.allocate() {
                sequence.blocks.push(block);
                return true;
            }
            let latest = self.queues.last(State::Running).unwrap_or(id);
            self.preempt(latest);
            plan.preempted += 1;
            if latest == id {
                return false;
            }
        }
    }

    fn preempt(&mut self, id: SequenceId) {
        if let Some(sequence) = self.sequences.get_mut(&id) {
            let blocks = sequence.take_blocks();
            self.pool.release(&blocks);
        }
        self.move_to(id, State::Waiting);
        self.preemptions += 1;
    }

    fn admit(&mut self, plan: &mut Plan) {
        while self.count(State::Running) + self.count(State::Receiving) < self.config.max_sequences
            && let Some(id) = self.queues.first(State::Waiting)
            && let Some(kv) = self.get(id).map(|sequence| sequence.kv)
            && (plan.budget > 0 || kv == KvSource::Receive)
            && self.place(id)
        {
            self.start(id, kv, plan);
        }
    }

    /// Gives a waiting sequence blocks for all its tokens, cached ones as far
    /// as there are; false if there are not enough.
    fn place(&mut self, id: SequenceId) -> bool {
        let reserve = match self.count(State::Running) {
            0 => 0,
            _ => self.reserve,
        };
        let Some(sequence) = self.sequences.get_mut(&id) else {
            return false;
        };
        let block_size = self.pool.block_size();
        let needed = sequence.tokens.len().div_ceil(block_size);
        let hashes = sequence.cacheable(block_size);
        let prefix = self.pool.lookup(hashes);
        let fresh = needed - prefix.blocks;
        if fresh + prefix.idle + reserve > self.pool.free() {
            return false;
        }
        let mut blocks = self.pool.reuse(&hashes[..prefix.blocks]);
        blocks.extend((0..fresh).map_while(|_| self.pool.allocate()));
        sequence.place(blocks, prefix.blocks, block_size);
        true
    }

    fn start(&mut self, id: SequenceId, kv: KvSource, plan: &mut Plan) {
        let state = match kv {
            KvSource::Compute => State::Running,
            KvSource::Receive => State::Receiving,
        };
        self.move_to(id, state);
        let Some(sequence) = self.sequences.get_mut(&id) else {
            return;
        };
        if kv == KvSource::Compute {
            plan.cached_tokens += sequence.computed;
        }
        if !std::mem::replace(&mut sequence.started, true) {
            plan.outputs.push(Output::Started {
                id,
                cached_tokens: sequence.computed,
            });
        }
        match kv {
            KvSource::Compute => plan.push(sequence),
            KvSource::Receive => plan.outputs.push(Output::Receiving {
                id,
                first_block: sequence.next_import,
            }),
        }
    }

    fn longest_wait(&self, now: Duration) -> Duration {
        let first = self
            .queues
            .first(State::Waiting)
            .and_then(|id| self.get(id));
        first.map_or(Duration::ZERO, |sequence| {
            now.saturating_sub(sequence.arrived)
        })
    }
}

impl Plan {
    /// Plans as many of the sequence's tokens as fit.
    fn push(&mut self, sequence: &Sequence) {
        let start = sequence.computed;
        let tokens = sequence.remaining().min(self.budget);
        let end = start + tokens;
        self.budget -= tokens;
        match start >= sequence.request_len && sequence.remaining() == 1 {
            true => self.decode_tokens += tokens,
            false => self.prefill_tokens += tokens,
        }
        self.chunks.push(PlannedChunk {
            id: sequence.id,
            start,
            end,
            sample: end == sequence.tokens.len() && sequence.wants_token(),
            prompt_logprobs: sequence.scores_prompt(end),
        });
    }
}

#[cfg(test)]
mod tests;
