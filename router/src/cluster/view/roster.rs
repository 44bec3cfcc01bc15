//! The workers of one model that take work, as a policy sees them. They are kept
//! from question to question, so that one costs no more than what depends on its
//! time and its prompt.

use kvcache_index::{Overlaps, WorkerSlot};

use super::Excluded;
use super::backlog::Backlog;
use super::worker::Worker;
use crate::plan::{Ask, Candidate};

/// Not in this roster.
const NOWHERE: u32 = u32::MAX;

#[derive(Debug, Default)]
pub(super) struct Roster {
    /// By rising slot.
    candidates: Vec<Candidate>,
    /// Of each of them.
    kept: Vec<Kept>,
    /// Where in them each slot's worker is.
    places: Vec<u32>,
}

/// What is not a policy's business.
#[derive(Debug)]
struct Kept {
    epoch: u64,
    backlog: Backlog,
    prefill_rate: f64,
}

impl Roster {
    /// `worker` takes work, or its load changed.
    pub fn put(&mut self, slot: WorkerSlot, worker: &Worker) {
        let candidate = Candidate {
            worker: slot,
            role: worker.member.role,
            cached_tokens: 0,
            load: worker.load(),
        };
        let kept = Kept {
            epoch: worker.member.epoch,
            backlog: worker.backlog,
            prefill_rate: worker.prefill_rate(),
        };
        match self.place(slot) {
            Some(at) => {
                self.candidates[at] = candidate;
                self.kept[at] = kept;
            }
            None => {
                let at = self.candidates.partition_point(|it| it.worker < slot);
                self.candidates.insert(at, candidate);
                self.kept.insert(at, kept);
                self.number(at);
            }
        }
    }

    pub fn remove(&mut self, slot: WorkerSlot) {
        if let Some(at) = self.place(slot) {
            self.places[slot.0 as usize] = NOWHERE;
            self.candidates.remove(at);
            self.kept.remove(at);
            self.number(at);
        }
    }

    /// Brings the candidates to what they are for `ask`, of whose blocks
    /// `overlaps` were found held.
    pub fn ask(&mut self, ask: &Ask<'_>, overlaps: &Overlaps) {
        let now = ask.now.as_secs_f64();
        for (candidate, kept) in self.candidates.iter_mut().zip(&self.kept) {
            let queued = kept.backlog.left(now, kept.prefill_rate);
            candidate.load.queued_tokens = queued as u32;
            candidate.cached_tokens = 0;
        }
        for overlap in overlaps.iter() {
            if let Some(at) = self.place(overlap.worker) {
                self.candidates[at].cached_tokens = overlap.blocks as usize * ask.block_size;
            }
        }
    }

    /// As they were last asked for.
    pub fn candidates(&self) -> &[Candidate] {
        &self.candidates
    }

    /// Those that are not `excluded`.
    pub fn without(&self, excluded: &Excluded) -> impl Iterator<Item = Candidate> {
        let kept = self.candidates.iter().zip(&self.kept);
        kept.filter(|(it, kept)| !excluded.contains(&(it.worker, kept.epoch)))
            .map(|(it, _)| *it)
    }

    fn place(&self, slot: WorkerSlot) -> Option<usize> {
        let at = self.places.get(slot.0 as usize)?;
        (*at != NOWHERE).then_some(*at as usize)
    }

    /// Those from `first` on are where they are now.
    fn number(&mut self, first: usize) {
        let Some(last) = self.candidates.last() else {
            return;
        };
        let slots = last.worker.0 as usize + 1;
        if self.places.len() < slots {
            self.places.resize(slots, NOWHERE);
        }
        for (at, candidate) in (0..).zip(&self.candidates).skip(first) {
            self.places[candidate.worker.0 as usize] = at;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use kvcache_index::KvEvent;
    use proptest::prelude::*;

    use super::super::{Member, Report, View};
    use super::*;
    use crate::plan::Role;

    const ASK: Ask<'_> = Ask {
        prompt_tokens: 40,
        max_tokens: 10,
        first_token: None,
        inter_token: None,
        block_size: 16,
        may_split: false,
        hashes: &[7, 8],
        session: None,
        now: Duration::ZERO,
        random: 0,
    };

    #[derive(Clone, Debug)]
    enum Op {
        Join { model: u32 },
        Remove,
        Available(bool),
        Report(u32),
        Hold,
    }

    fn op() -> impl Strategy<Value = (u32, Op)> {
        let op = prop_oneof![
            (0..2u32).prop_map(|model| Op::Join { model }),
            Just(Op::Remove),
            any::<bool>().prop_map(Op::Available),
            (0..9u32).prop_map(Op::Report),
            Just(Op::Hold),
        ];
        (0..5u32, op)
    }

    /// A worker, kept the simple way.
    #[derive(Clone, Copy, Default)]
    struct Naive {
        epoch: u64,
        model: u32,
        available: bool,
        sequences: u32,
        cached_tokens: usize,
    }

    fn apply(view: &mut View, naive: &mut BTreeMap<u32, Naive>, (slot, op): (u32, Op), epoch: u64) {
        let worker = WorkerSlot(slot);
        match op {
            Op::Join { model } => {
                let role = Role::Both;
                view.join(worker, Member { epoch, role, model });
                let fresh = Naive {
                    epoch,
                    model,
                    ..Naive::default()
                };
                naive.insert(slot, fresh);
            }
            Op::Remove => {
                view.remove(worker);
                naive.remove(&slot);
            }
            Op::Available(available) => {
                view.set_available(worker, available);
                naive.entry(slot).and_modify(|it| it.available = available);
            }
            Op::Report(sequences) => {
                let report = Report {
                    sequences,
                    ..Report::default()
                };
                view.report(worker, report, Duration::ZERO);
                naive.entry(slot).and_modify(|it| it.sequences = sequences);
            }
            Op::Hold => {
                if let Some(held) = naive.get_mut(&slot) {
                    view.index().apply(worker, &KvEvent::stored(0, vec![7]));
                    held.cached_tokens = 16;
                }
            }
        }
    }

    proptest! {
        #[test]
        fn candidates_are_those_that_take_work_as_they_are_now(
            ops in prop::collection::vec(op(), 1..60),
            out in 0..5u32,
        ) {
            let (mut view, mut naive) = (View::default(), BTreeMap::new());
            for (epoch, op) in (1..).zip(ops) {
                apply(&mut view, &mut naive, op, epoch);
                let overlaps = view.index().overlaps(ASK.hashes, ASK.now);
                let epoch = naive.get(&out).map_or(0, |it| it.epoch);
                for (model, excluded) in [(0, vec![]), (1, vec![(WorkerSlot(out), epoch)])] {
                    let found = view.candidates(model, &ASK, &overlaps, &excluded).iter();
                    let found: Vec<_> = found
                        .map(|it| (it.worker.0, it.load.sequences, it.cached_tokens))
                        .collect();
                    let takes = |(slot, it): &(&u32, &Naive)| {
                        let is_out = !excluded.is_empty() && **slot == out;
                        it.available && it.model == model && !is_out
                    };
                    let expected = naive.iter().filter(takes);
                    let expected: Vec<_> = expected
                        .map(|(slot, it)| (*slot, it.sequences, it.cached_tokens))
                        .collect();
                    prop_assert_eq!(found, expected);
                }
            }
        }
    }
}
