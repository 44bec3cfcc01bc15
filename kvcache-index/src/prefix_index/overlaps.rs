//! The answer of a lookup, and how it is put together run by run.

use super::WorkerSlot;
use super::holder::{Holder, KINDS, Ticks};
use super::root::NOBODY;
use crate::Tier;

/// How much of a prompt one worker holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overlap {
    pub worker: WorkerSlot,
    /// Blocks in a row from the prompt's first.
    pub blocks: u32,
    kinds: [u32; KINDS],
}

impl Overlap {
    /// Blocks whose fastest tier is `tier`.
    pub fn in_tier(&self, tier: Tier) -> u32 {
        self.kinds[tier as usize]
    }

    /// Blocks that the worker has not announced, but was predicted to hold.
    pub fn predicted(&self) -> u32 {
        self.kinds[KINDS - 1]
    }

    fn count(&mut self, holder: Holder, blocks: u32) {
        self.blocks += blocks;
        self.kinds[holder.best_kind()] += blocks;
    }
}

/// For each worker that holds a prompt's first block: how far it holds on, and
/// where. A buffer to be used again and again. The order is the same for the
/// same history of calls, and means nothing.
#[derive(Clone, Debug, Default)]
pub struct Overlaps {
    found: Vec<Overlap>,
    /// Lane of each of `found`, rising.
    lanes: Vec<u32>,
    /// Those of `found` that hold every block so far; all, up to the second run.
    alive: Vec<u32>,
    /// Holders of a later run, as read and not yet known to belong together.
    staged: Vec<Holder>,
    runs: usize,
}

/// What was read of a run and holds if the run did not change meanwhile.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reading {
    pub blocks: u32,
    pub now: Ticks,
}

impl Overlaps {
    pub fn iter(&self) -> std::slice::Iter<'_, Overlap> {
        self.found.iter()
    }

    pub fn as_slice(&self) -> &[Overlap] {
        &self.found
    }

    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    pub fn len(&self) -> usize {
        self.found.len()
    }

    /// The overlap of one worker.
    pub fn of(&self, worker: WorkerSlot) -> Option<&Overlap> {
        self.found.iter().find(|overlap| overlap.worker == worker)
    }

    pub(super) fn clear(&mut self) {
        self.found.clear();
        self.lanes.clear();
        self.alive.clear();
        self.runs = 0;
    }

    /// Forgets what was staged last, to stage another reading.
    pub(super) fn unstage(&mut self) {
        self.staged.clear();
        if self.runs == 0 {
            self.found.clear();
            self.lanes.clear();
        }
    }

    /// So many holders are about to be staged.
    pub(super) fn expect(&mut self, holders: usize) {
        match self.runs {
            0 => {
                self.found.reserve(holders);
                self.lanes.reserve(holders);
            }
            _ => self.staged.reserve(holders),
        }
    }

    /// `holder` holds the prompt's next blocks. `worker_of` its lane is asked
    /// in the first run.
    pub(super) fn stage(&mut self, holder: Holder, of: Reading, worker_of: impl Fn(u32) -> u32) {
        if self.runs > 0 {
            self.staged.push(holder);
            return;
        }
        let worker = worker_of(holder.lane());
        if worker == NOBODY || holder.is_expired(of.now) {
            return;
        }
        let best = holder.best_kind();
        // Each by itself: a copy of what was just written in parts stalls.
        let of_kind = |kind| if kind == best { of.blocks } else { 0 };
        self.found.push(Overlap {
            worker: WorkerSlot(worker),
            blocks: of.blocks,
            kinds: std::array::from_fn(of_kind),
        });
        self.lanes.push(holder.lane());
    }

    /// What was staged is true. Returns whether any worker holds all blocks so
    /// far.
    pub(super) fn commit(&mut self, of: Reading) -> bool {
        self.runs += 1;
        match self.runs {
            1 => return !self.found.is_empty(),
            2 => self.narrow_all(of),
            _ => self.narrow(of),
        }
        !self.alive.is_empty()
    }

    /// Of all found, those stay alive who are among the holders staged.
    fn narrow_all(&mut self, of: Reading) {
        let mut at = 0;
        for holder in &self.staged {
            at += ahead(&self.lanes[at..], self.staged.len(), |lane| {
                *lane < holder.lane()
            });
            if self.lanes.get(at) == Some(&holder.lane()) && !holder.is_expired(of.now) {
                self.found[at].count(*holder, of.blocks);
                self.alive.push(at as u32);
            }
        }
    }

    /// Of those alive, those stay who are among the holders staged.
    fn narrow(&mut self, of: Reading) {
        let (mut kept, mut at) = (0, 0);
        for holder in &self.staged {
            let lanes = &self.lanes;
            at += ahead(&self.alive[at..], self.staged.len(), |index| {
                lanes[*index as usize] < holder.lane()
            });
            let Some(&index) = self.alive.get(at) else {
                break;
            };
            if lanes[index as usize] == holder.lane() && !holder.is_expired(of.now) {
                self.found[index as usize].count(*holder, of.blocks);
                self.alive[kept] = index;
                kept += 1;
                at += 1;
            }
        }
        self.alive.truncate(kept);
    }
}

/// How many of `sorted` come before, if `few` are looked for among them:
/// behind a system prompt, few of many.
fn ahead<T>(sorted: &[T], few: usize, is_before: impl Fn(&T) -> bool) -> usize {
    match sorted.len() > 16 * few {
        true => sorted.partition_point(is_before),
        false => sorted.iter().take_while(|it| is_before(it)).count(),
    }
}
