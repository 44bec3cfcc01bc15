//! Clearing away what removed workers and ended predictions left, a little with
//! every change.
//!
//! A pass over the runs takes dead lanes and ended predictions off them; lanes
//! that died before it began are free at its end. Runs that nobody holds any
//! more are dead; a pass over the table clears the places that name them, and
//! at its end they are free.

use super::Writer;
use crate::prefix_index::holder::{Holder, Holders, Ticks};
use crate::prefix_index::root::{NOBODY, SEGMENTS};
use std::sync::atomic::Ordering::Relaxed;

/// Runs, or four times as many slots, that are looked at with each change;
/// after a removal; and in one call of `tidy`.
pub(super) const PER_CHANGE: usize = 64;
pub(super) const AFTER_REMOVAL: usize = 4096;
const PER_TIDY: usize = 1 << 15;
const SLOTS_PER_RUN: usize = 4;

#[derive(Debug, Default)]
enum Pass {
    #[default]
    None,
    Runs {
        next: u32,
    },
    Table {
        segment: usize,
        slot: usize,
    },
}

#[derive(Debug)]
pub(super) struct Sweep {
    pass: Pass,
    /// The last time told.
    now: Ticks,
    /// No prediction ends before.
    expiry: Ticks,
    /// Dead lanes: those this pass takes off, and those that died since.
    leaving: Vec<u32>,
    condemned: Vec<u32>,
    /// Dead runs: those this pass clears, and those that died since.
    clearing: Vec<u32>,
    buried: Vec<u32>,
}

impl Default for Sweep {
    fn default() -> Sweep {
        Sweep {
            pass: Pass::None,
            now: 0,
            expiry: Ticks::MAX,
            leaving: Vec::new(),
            condemned: Vec::new(),
            clearing: Vec::new(),
            buried: Vec::new(),
        }
    }
}

impl Sweep {
    /// A prediction ends at `until`.
    pub fn expects(&mut self, until: Ticks) {
        self.expiry = self.expiry.min(until);
    }

    pub fn condemn(&mut self, lane: u32) {
        self.condemned.push(lane);
    }

    pub fn bury(&mut self, run: u32) {
        self.buried.push(run);
    }

    /// Whether places may name dead runs.
    pub fn has_dead_runs(&self) -> bool {
        !(self.buried.is_empty() && self.clearing.is_empty())
    }

    pub fn memory(&self) -> usize {
        let lists = [&self.leaving, &self.condemned, &self.clearing, &self.buried];
        lists.map(|list| list.capacity()).iter().sum::<usize>() * size_of::<u32>()
    }

    fn begin(&mut self) {
        self.pass = if !self.condemned.is_empty() || self.expiry <= self.now {
            self.leaving.append(&mut self.condemned);
            self.expiry = Ticks::MAX;
            Pass::Runs { next: 0 }
        } else if !self.buried.is_empty() {
            self.clearing = std::mem::take(&mut self.buried);
            Pass::Table {
                segment: 0,
                slot: 0,
            }
        } else {
            Pass::None
        };
    }
}

impl Writer {
    pub fn tidy(&mut self, now: Ticks) -> bool {
        self.sweep.now = self.sweep.now.max(now);
        let done = self.sweep_some(PER_TIDY);
        self.finish();
        !done
    }

    /// Looks at up to `budget` runs. Returns whether nothing is left to do.
    pub(super) fn sweep_some(&mut self, budget: usize) -> bool {
        let mut left = budget;
        while left > 0 {
            left -= match self.sweep.pass {
                Pass::None => {
                    self.sweep.begin();
                    if matches!(self.sweep.pass, Pass::None) {
                        return true;
                    }
                    1
                }
                Pass::Runs { next } => self.sweep_runs(next, left),
                Pass::Table { segment, slot } => self.sweep_slots((segment, slot), left),
            };
        }
        false
    }

    pub(super) fn sweep_all(&mut self) {
        while !self.sweep_some(PER_TIDY) {}
    }

    /// Frees the runs that are dead now.
    pub(super) fn sweep_table(&mut self) {
        self.sweep.clearing.append(&mut self.sweep.buried);
        for segment in 0..SEGMENTS {
            self.clear_dead(segment, 0, usize::MAX);
        }
        self.runs.release(std::mem::take(&mut self.sweep.clearing));
        if let Pass::Table { .. } = self.sweep.pass {
            self.sweep.pass = Pass::None;
        }
    }

    /// Returns how many it looked at, at least 1.
    fn sweep_runs(&mut self, next: u32, budget: usize) -> usize {
        let end = self.runs.made.min(next.saturating_add(budget as u32));
        for run in next..end {
            self.sweep_run(run);
        }
        self.sweep.pass = Pass::Runs { next: end };
        if end == self.runs.made {
            self.lanes.release(&mut self.sweep.leaving);
            self.sweep.pass = Pass::None;
        }
        ((end - next) as usize).max(1)
    }

    fn sweep_run(&mut self, run: u32) {
        let (mut stale, mut expiry) = (false, Ticks::MAX);
        let now = self.sweep.now;
        self.each_holder(self.run(run).holders.load(Relaxed), |holder| {
            match self.is_stale(holder, now) {
                true => stale = true,
                false if !holder.is_observed() => expiry = expiry.min(holder.until()),
                false => {}
            }
        });
        self.sweep.expects(expiry);
        if !stale {
            return;
        }
        let (gone, left): (Holders, Holders) = self
            .holders(run)
            .into_iter()
            .partition(|holder| self.is_stale(*holder, now));
        if left.is_empty() {
            self.kill(run);
            return;
        }
        let held = self.runs.note(run).held as isize;
        for holder in gone {
            self.lanes.count(holder.lane(), Some(holder), -held);
        }
        self.set_holders(run, &left);
    }

    fn is_stale(&self, holder: Holder, now: Ticks) -> bool {
        holder.is_expired(now) || self.lane(holder.lane()).load(Relaxed) == NOBODY
    }

    fn sweep_slots(&mut self, (segment, slot): (usize, usize), budget: usize) -> usize {
        let slots = budget * SLOTS_PER_RUN;
        let is_end = self.clear_dead(segment, slot, slots);
        let looked = match is_end {
            true => self.root.segment(segment).len().saturating_sub(slot),
            false => slots,
        };
        self.sweep.pass = match is_end {
            true if segment + 1 == SEGMENTS => {
                self.runs.release(std::mem::take(&mut self.sweep.clearing));
                Pass::None
            }
            true => Pass::Table {
                segment: segment + 1,
                slot: 0,
            },
            false => Pass::Table {
                segment,
                slot: slot + slots,
            },
        };
        looked.div_ceil(SLOTS_PER_RUN).max(1)
    }
}
