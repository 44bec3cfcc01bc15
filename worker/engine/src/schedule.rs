//! The scheduler: what each step computes.
//!
//! A step has a token budget. Sequences that decode come first, so that a long
//! prompt never stalls running streams; prompts fill the rest chunk by chunk,
//! first come first served, and no more of them than keeps the step within its
//! target time. Of sequences that would compute the same block the first does,
//! and the others go on with it, or with a copy where each writes on in it. A
//! sequence is admitted when there are blocks for all its tokens; when a running
//! one finds no further block, the least urgent, and of those the latest arrival,
//! yields (it gives up its blocks and later goes on from its tokens, through the
//! prefix cache). Running ones also yield to a more urgent one that waits. Nobody
//! overtakes the first in the queue, and a sequence yields only to earlier or more
//! urgent ones, so of equal priority none starves.

mod admission;
mod plan;
mod queues;

use std::time::Duration;

use rustc_hash::FxHashMap;

use crate::block_pool::BlockPool;
use crate::pace::{Pace, TargetStep};
use crate::rates::{Rates, StepTime};
use crate::request::SequenceId;
use crate::runner::{Chunk, Step};
use crate::sequence::{Sequence, State};
use crate::tiers::Tiers;
pub(crate) use plan::{BlockCopy, Plan, PlannedChunk};
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
    /// Time of a step in which sequences decode: prompts get what decoding
    /// leaves of it.
    pub target_step: TargetStep,
}

impl Default for EngineConfig {
    fn default() -> EngineConfig {
        EngineConfig {
            max_batch_tokens: 2048,
            max_sequences: 256,
            max_waiting: 1024,
            watermark: 0.01,
            target_step: TargetStep::Off,
        }
    }
}

/// All sequences, and the blocks they hold.
pub(crate) struct Scheduler {
    pub(crate) pool: BlockPool,
    pub(crate) tiers: Tiers,
    rates: Rates,
    pace: Pace,
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
            tiers: Tiers::default(),
            rates: Rates::default(),
            pace: Pace::default(),
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

    pub(crate) fn ids(&self, state: State) -> Vec<SequenceId> {
        self.queues.ids(state).collect()
    }

    /// Number of times that a sequence had to yield.
    pub(crate) fn preemptions(&self) -> u64 {
        self.preemptions
    }

    /// How long a step took.
    pub(crate) fn record(&mut self, step: StepTime) {
        self.rates.record(step);
        self.pace.record(step, &self.rates);
    }

    pub(crate) fn rates(&self) -> &Rates {
        &self.rates
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
        let mut plan = Plan::new(self.config.max_batch_tokens);
        self.make_way(&mut plan);
        let running = self.ids(State::Running);
        self.schedule_decodes(&running, &mut plan);
        if plan.decode_tokens > 0 && !self.prompts_go_first(&running, &plan) {
            let target = self.config.target_step;
            let budget = self.pace.prefill_budget(target, &self.rates);
            plan.budget = plan.budget.min(budget);
        }
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

    /// What was brought in for the sequence is all that comes: it runs.
    pub(crate) fn land(&mut self, id: SequenceId) {
        if let Some(sequence) = self.sequences.get_mut(&id) {
            sequence.onboarding = None;
        }
        self.move_to(id, State::Running);
    }

    fn schedule_decodes(&mut self, running: &[SequenceId], plan: &mut Plan) {
        for &id in running {
            let one_left =
                |sequence: &Sequence| sequence.state == State::Running && sequence.remaining() == 1;
            if self.get(id).is_some_and(one_left)
                && self.grow(id, plan)
                && let Some(sequence) = self.sequences.get_mut(&id)
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
            if let Some(sequence) = self.sequences.get_mut(id)
                && sequence.state == State::Running
                && sequence.remaining() > 1
            {
                plan.prefill(sequence, &mut self.pool);
            }
        }
    }

    /// Whether a step that takes all the prompt tokens it can gives at least as
    /// many first tokens as there are streams that it holds up.
    fn prompts_go_first(&self, running: &[SequenceId], plan: &Plan) -> bool {
        if self.config.target_step != TargetStep::Auto {
            return false;
        }
        let prompts = running.iter().filter_map(|id| self.get(*id));
        let prompts = prompts.filter(|it| it.state == State::Running && it.remaining() > 1);
        let mut tokens = plan.budget;
        let mut end = |sequence: &&Sequence| {
            let left = tokens.checked_sub(sequence.remaining());
            tokens = left.unwrap_or(0);
            left.is_some()
        };
        let first_tokens = prompts.take_while(&mut end).count();
        let waiting = self.placeable().take_while(end).count();
        first_tokens + waiting >= plan.decode_tokens
    }

    /// Sees to a block for the next position. Whoever yields goes after `id`, or
    /// is `id` itself (then this is false): it is not in the plan yet, as those
    /// that need blocks are planned in that order.
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

#[cfg(test)]
mod tests;
