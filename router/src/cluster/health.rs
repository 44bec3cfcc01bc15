//! Who gets no work for now, judged by what became of the work before.
//!
//! Pure: outcomes and time in, a list of shunned workers out. A *breaker* opens
//! on failures in a row and lets one probe through at a time; *outliers* are
//! ejected by comparison with the others, never more than a share of them; a
//! worker that says so itself is not *ready*. Every mark ends with time, and a
//! mark is advice: where nobody else is left, marked workers are asked.

mod breaker;
mod config;
mod outliers;

use std::time::Instant;

use kvcache_index::WorkerSlot;
use rustc_hash::FxHashMap;

use super::Excluded;
use breaker::Breaker;
pub use config::Config;
use outliers::{Outliers, Record};
pub use outliers::{Reason, Sample};

/// What one attempt says of a worker that took part in it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Outcome {
    /// It did its part.
    Served(Sample),
    /// It failed by itself: lost, stuck, or its engine failed.
    Failed,
    /// Nothing: it refused, the request was at fault, or nobody wanted to know
    /// any more.
    Neutral,
}

/// A worker was marked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    BreakerOpened,
    Ejected(Reason),
}

/// The workers' health as one router sees it.
#[derive(Debug)]
pub struct Health {
    config: Config,
    workers: FxHashMap<WorkerSlot, Worker>,
    outliers: Outliers,
    /// All that may be marked, so that asking costs nothing while all is well.
    doubted: Vec<WorkerSlot>,
}

#[derive(Debug)]
struct Worker {
    epoch: u64,
    breaker: Breaker,
    record: Record,
    ready: bool,
}

impl Health {
    pub fn new(config: Config) -> Health {
        Health {
            config,
            workers: FxHashMap::default(),
            outliers: Outliers::default(),
            doubted: Vec::new(),
        }
    }

    /// A worker joined; a new start of it begins without marks.
    pub fn joined(&mut self, slot: WorkerSlot, epoch: u64) {
        let fresh = Worker {
            epoch,
            breaker: Breaker::default(),
            record: Record::default(),
            ready: true,
        };
        let known = self.workers.get(&slot);
        if known.is_none_or(|known| known.epoch != epoch) {
            self.workers.insert(slot, fresh);
        }
    }

    pub fn removed(&mut self, slot: WorkerSlot) {
        self.workers.remove(&slot);
    }

    /// What the worker says of itself, or its link of it.
    pub fn set_ready(&mut self, slot: WorkerSlot, ready: bool) {
        if let Some(worker) = self.workers.get_mut(&slot) {
            worker.ready = ready;
        }
        if !ready {
            self.doubt(slot);
        }
    }

    /// Who is to be left out now, as long as others remain.
    pub fn shunned(&self, now: Instant) -> Excluded {
        let doubted = self.doubted.iter();
        let known = doubted.filter_map(|slot| Some((*slot, self.workers.get(slot)?)));
        known
            .filter(|(_, worker)| worker.is_shunned(now))
            .map(|(slot, worker)| (slot, worker.epoch))
            .collect()
    }

    /// A sequence was booked on the worker: a half-open breaker's probe.
    pub fn booked(&mut self, slot: WorkerSlot, now: Instant) {
        if let Some(worker) = self.workers.get_mut(&slot) {
            worker.breaker.booked(now, &self.config);
        }
    }

    /// A sequence has got something of the worker, and goes on.
    pub fn progressed(&mut self, slot: WorkerSlot, epoch: u64) {
        if let Some(worker) = self.worker_mut(slot, epoch) {
            worker.breaker.progressed();
        }
    }

    /// The worker's part in an attempt is over. Tells what that led to.
    pub fn ended(
        &mut self,
        (slot, epoch): (WorkerSlot, u64),
        outcome: Outcome,
        now: Instant,
    ) -> Vec<(WorkerSlot, Mark)> {
        let mut marks = Vec::new();
        let Some(worker) = self.workers.get_mut(&slot) else {
            return marks;
        };
        if worker.epoch != epoch {
            return marks;
        }
        match outcome {
            Outcome::Served(sample) => {
                worker.breaker.succeeded();
                worker.record.served(sample);
            }
            Outcome::Failed => {
                worker.record.failed();
                if worker.breaker.failed(now, &self.config) {
                    marks.push((slot, Mark::BreakerOpened));
                }
            }
            Outcome::Neutral => worker.breaker.gave_up_probe(),
        }
        if self.outliers.is_due(now, &self.config) {
            let records = self
                .workers
                .iter_mut()
                .map(|(slot, it)| (*slot, &mut it.record));
            let ejected = self.outliers.sweep(records.collect(), now, &self.config);
            marks.extend(
                ejected
                    .into_iter()
                    .map(|(slot, why)| (slot, Mark::Ejected(why))),
            );
        }
        if outcome == Outcome::Failed {
            self.doubt(slot);
        }
        marks.iter().for_each(|(slot, _)| self.doubt(*slot));
        let workers = &self.workers;
        let may_be = |slot: &WorkerSlot| workers.get(slot).is_some_and(|it| it.may_be_shunned(now));
        self.doubted.retain(may_be);
        marks
    }

    fn doubt(&mut self, slot: WorkerSlot) {
        if !self.doubted.contains(&slot) {
            self.doubted.push(slot);
        }
    }

    fn worker_mut(&mut self, slot: WorkerSlot, epoch: u64) -> Option<&mut Worker> {
        let worker = self.workers.get_mut(&slot)?;
        (worker.epoch == epoch).then_some(worker)
    }
}

impl Worker {
    fn is_shunned(&self, now: Instant) -> bool {
        !self.ready || !self.breaker.admits(now) || self.record.is_ejected(now)
    }

    /// Now, or later without another mark.
    fn may_be_shunned(&self, now: Instant) -> bool {
        !self.ready || !self.breaker.is_closed() || self.record.is_ejected(now)
    }
}

#[cfg(test)]
mod tests;
