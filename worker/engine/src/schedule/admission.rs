//! Who is let in: blocks for a sequence, and where its prompt's KV comes from.

use super::{Plan, Scheduler};
use crate::request::{KvSource, Output, SequenceId};
use crate::sequence::{Sequence, State};
use crate::tiers::Missing;

/// Blocks that a sequence needs to be let in.
#[derive(Debug, Default)]
struct Needs {
    /// Of its prompt, in the cache.
    cached: usize,
    fresh: usize,
    /// To be taken from those that are free: fresh ones, and cached ones that
    /// nobody uses.
    blocks: usize,
}

impl Scheduler {
    /// Lets running sequences yield to a more urgent one that waits, if that
    /// gives it what it needs.
    pub(super) fn make_way(&mut self, plan: &mut Plan) {
        let Some(first) = self
            .queues
            .first(State::Waiting)
            .and_then(|id| self.get(id))
        else {
            return;
        };
        let (id, priority) = (first.id, first.priority);
        let yields = |sequence: &&Sequence| sequence.priority < priority;
        let last = |scheduler: &Scheduler| {
            let last = scheduler.queues.last(State::Running)?;
            scheduler.get(last).filter(yields).map(|_| last)
        };
        if last(self).is_none() {
            return;
        }
        let running = self
            .queues
            .ids(State::Running)
            .filter_map(|id| self.get(id));
        let held: usize = running.filter(yields).map(|it| it.blocks.len()).sum();
        if self.needs(id).blocks > self.pool.free() + held {
            return;
        }
        let fits = |scheduler: &mut Scheduler| {
            let needs = scheduler.needs(id);
            scheduler.fits(&needs)
        };
        while !fits(self)
            && let Some(last) = last(self)
        {
            self.preempt(last);
            plan.preempted += 1;
        }
    }

    pub(super) fn admit(&mut self, plan: &mut Plan) {
        while let Some(id) = self.queues.first(State::Waiting)
            && let Some(kv) = self.get(id).map(|sequence| sequence.kv)
            && (plan.budget > 0 || kv == KvSource::Receive)
            && self.place(id)
        {
            self.start(id, kv, plan);
        }
    }

    /// Sequences that run or are about to.
    fn holding(&self) -> usize {
        let states = [State::Running, State::Receiving, State::Onboarding];
        states.map(|state| self.count(state)).iter().sum()
    }

    /// What a waiting sequence would take from the pool.
    fn needs(&mut self, id: SequenceId) -> Needs {
        let block_size = self.pool.block_size();
        let Some(sequence) = self.sequences.get_mut(&id) else {
            return Needs::default();
        };
        let prefix = self.pool.lookup(sequence.cacheable(block_size));
        let fresh = sequence.tokens.len().div_ceil(block_size) - prefix.blocks;
        Needs {
            cached: prefix.blocks,
            fresh,
            blocks: fresh + prefix.idle,
        }
    }

    fn fits(&self, needs: &Needs) -> bool {
        self.holding() < self.config.max_sequences
            && needs.blocks + self.reserved() <= self.pool.free()
    }

    /// Blocks that are not given to who waits.
    fn reserved(&self) -> usize {
        match self.count(State::Running) {
            0 => 0,
            _ => self.reserve,
        }
    }

    /// Waiting sequences to be computed that would be let in together, were
    /// nothing of them cached.
    pub(super) fn placeable(&self) -> impl Iterator<Item = &Sequence> {
        let places = self.config.max_sequences.saturating_sub(self.holding());
        let mut blocks = self.pool.free().saturating_sub(self.reserved());
        let waiting = self.queues.ids(State::Waiting).take(places);
        let waiting = waiting.filter_map(|id| self.get(id));
        waiting
            .filter(|sequence| sequence.kv == KvSource::Compute)
            .take_while(move |sequence| {
                let needed = sequence.tokens.len().div_ceil(self.pool.block_size());
                let left = blocks.checked_sub(needed);
                blocks = left.unwrap_or(0);
                left.is_some()
            })
    }

    /// Gives a waiting sequence blocks for all its tokens, cached ones as far
    /// as there are; false if there are not enough.
    fn place(&mut self, id: SequenceId) -> bool {
        let needs = self.needs(id);
        if !self.fits(&needs) {
            return false;
        }
        let Some(sequence) = self.sequences.get_mut(&id) else {
            return false;
        };
        let (kv, block_size) = (sequence.kv, self.pool.block_size());
        let (cached, missing) = sequence.cacheable(block_size).split_at(needs.cached);
        let mut blocks = self.pool.reuse(None, cached);
        blocks.extend((0..needs.fresh).map_while(|_| self.pool.allocate()));
        let missing = Missing {
            id,
            first_block: needs.cached,
            hashes: missing,
            seconds_per_block: self.rates.prefill_token_seconds() * block_size as f64,
        };
        let onboarding = match kv {
            KvSource::Compute => self.tiers.ask(&missing),
            KvSource::Receive => None,
        };
        sequence.place(blocks, needs.cached, block_size);
        sequence.onboarding = onboarding;
        true
    }

    fn start(&mut self, id: SequenceId, kv: KvSource, plan: &mut Plan) {
        let brings = |sequence: &Sequence| sequence.onboarding.is_some();
        let state = match kv {
            KvSource::Receive => State::Receiving,
            KvSource::Compute if self.get(id).is_some_and(brings) => State::Onboarding,
            KvSource::Compute => State::Running,
        };
        self.move_to(id, state);
        let Some(sequence) = self.sequences.get_mut(&id) else {
            return;
        };
        match state {
            State::Running => plan.prefill(sequence, &mut self.pool),
            State::Receiving => {
                plan.begin(sequence);
                plan.outputs.push(Output::Receiving {
                    id,
                    first_block: sequence.next_import,
                });
            }
            _ => {}
        }
    }
}
