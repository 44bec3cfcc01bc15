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
