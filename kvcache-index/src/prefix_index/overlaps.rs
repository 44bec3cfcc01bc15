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
    /// Those of `found` that hold every block so far; all, before the second
    /// run.
    alive: Vec<u32>,
    /// Holders of the run at hand, as read and not yet known to belong together.
    staged: Vec<Holder>,
    /// Workers of `staged`, in the first run.
    workers: Vec<u32>,
    runs: usize,
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

    pub(super) fn is_first_run(&self) -> bool {
        self.runs == 0
    }

    pub(super) fn unstage(&mut self) {
        self.staged.clear();
        self.workers.clear();
    }

    pub(super) fn stage(&mut self, holder: Holder) {
        self.staged.push(holder);
    }

    /// The worker of each holder staged in the first run.
    pub(super) fn stage_workers(&mut self, worker_of: impl Fn(u32) -> u32) {
        let workers = self.staged.iter().map(|holder| worker_of(holder.lane()));
        self.workers.extend(workers);
    }

    /// What was staged is true of the prompt's next `blocks` blocks. Returns
    /// whether any worker holds them all so far.
    pub(super) fn commit(&mut self, blocks: u32, now: Ticks) -> bool {
        self.runs += 1;
        match self.runs {
            1 => self.begin(blocks, now),
            2 => {
                self.alive.extend(0..self.found.len() as u32);
                self.narrow(blocks, now);
            }
            _ => self.narrow(blocks, now),
        }
        self.runs == 1 && !self.found.is_empty() || !self.alive.is_empty()
    }

    fn begin(&mut self, blocks: u32, now: Ticks) {
        for (holder, worker) in self.staged.iter().zip(&self.workers) {
            if *worker == NOBODY || holder.is_expired(now) {
                continue;
            }
            let mut overlap = Overlap {
                worker: WorkerSlot(*worker),
                blocks: 0,
                kinds: [0; KINDS],
            };
            overlap.count(*holder, blocks);
            self.found.push(overlap);
            self.lanes.push(holder.lane());
        }
    }

    /// Keeps alive who is among the holders staged.
    fn narrow(&mut self, blocks: u32, now: Ticks) {
        let (mut kept, mut at) = (0, 0);
        for holder in &self.staged {
            let lane = holder.lane();
            // Few holders among many alive, as behind a system prompt.
            at += if (self.alive.len() - at) > 16 * self.staged.len() {
                self.alive[at..].partition_point(|i| self.lanes[*i as usize] < lane)
            } else {
                let earlier = |i: &&u32| self.lanes[**i as usize] < lane;
                self.alive[at..].iter().take_while(earlier).count()
            };
            let Some(&index) = self.alive.get(at) else {
                break;
            };
            if self.lanes[index as usize] == lane && !holder.is_expired(now) {
                self.found[index as usize].count(*holder, blocks);
                self.alive[kept] = index;
                kept += 1;
                at += 1;
            }
        }
        self.alive.truncate(kept);
    }
}
