//! What one router knows of the workers: role, reported load, and what it has
//! booked on them itself. Which blocks they hold is in a [`PrefixIndex`] beside
//! it, which is changed and asked without whatever lock keeps the view.
//!
//! Pure: it knows no connection, no model file and no clock, so that the
//! simulator runs this very code. A booking counts on top of a worker's own
//! report until a report that includes it has come.

use std::sync::Arc;
use std::time::Duration;

mod backlog;
mod room;
mod roster;
mod worker;

use kvcache_index::{Overlaps, PrefixIndex, WorkerSlot};
use rustc_hash::FxHashMap;

use crate::plan::{Ask, Candidate, Choice, Policy, Role};
use room::Room;
use roster::Roster;
use worker::{Booked, Share, Worker};

/// What a worker has not said to hold after so long is not there, or not soon.
const PREDICTION: Duration = Duration::from_secs(1);

/// A worker's start that is not to be tried again for a sequence.
pub type Excluded = Vec<(WorkerSlot, u64)>;

/// What a worker is, for as long as one start of it lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    pub epoch: u64,
    pub role: Role,
    /// Workers of equal number serve the same model.
    pub model: u32,
}

/// What a worker reports of its load.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Report {
    /// Sequences running or waiting.
    pub sequences: u32,
    /// Those of them that wait.
    pub waiting: u32,
    /// Prompt tokens waiting to be computed.
    pub queued_prefill_tokens: u64,
    pub free_blocks: u32,
    pub total_blocks: u32,
    /// 0: unknown.
    pub prefill_tokens_per_second: f32,
    /// 0: unknown.
    pub decode_step_ms: f32,
    /// 0: unknown.
    pub inter_token_ms: f32,
    /// 0: unknown.
    pub drain_tokens_per_second: f32,
    /// Sequences that it has taken in since its start. `None`: it does not count
    /// them.
    pub accepted: Option<u64>,
}

/// The workers as one router sees them.
#[derive(Debug, Default)]
pub struct View {
    /// By slot.
    workers: Vec<Option<Worker>>,
    index: Arc<PrefixIndex>,
    bookings: FxHashMap<u64, Booked>,
    last_booking: u64,
    /// By model.
    rosters: Vec<Roster>,
    weighed: Weighed,
    /// Kept from call to call for its memory.
    left: Vec<Candidate>,
    room: Room,
    /// Sum of what workers report.
    reported_sequences: u64,
}

/// Whom a policy was asked to choose of.
#[derive(Clone, Copy, Debug, Default)]
enum Weighed {
    /// All of a model's.
    Roster(usize),
    /// Those that were left without the excluded.
    #[default]
    Left,
}

/// A sequence placed and booked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    pub booking: u64,
    pub decode: WorkerSlot,
    pub prefill: Option<WorkerSlot>,
    /// Prompt tokens that, as far as is known, need not be computed.
    pub cached_tokens: usize,
}

impl Placed {
    /// The prompt's blocks count as held where it is placed before the workers say
    /// so, for a time: equal prompts that come at once find one another.
    pub fn predict(&self, index: &PrefixIndex, ask: &Ask<'_>) {
        let until = ask.now + PREDICTION;
        for worker in std::iter::once(self.decode).chain(self.prefill) {
            index.predict(worker, ask.hashes, until);
        }
    }
}

impl View {
    /// A view whose index takes at most `bytes` of memory.
    pub fn with_index_memory(bytes: usize) -> View {
        View {
            index: Arc::new(PrefixIndex::with_memory_cap(bytes)),
            ..View::default()
        }
    }

    /// Adds a worker, or a new start of one, of which nothing is left then. It
    /// takes work once [`View::set_available`] says so.
    pub fn join(&mut self, slot: WorkerSlot, member: Member) {
        self.remove(slot);
        let at = slot.0 as usize;
        if self.workers.len() <= at {
            self.workers.resize_with(at + 1, || None);
        }
        self.workers[at] = Some(Worker::new(member));
        let rosters = self.rosters.len().max(member.model as usize + 1);
        self.rosters.resize_with(rosters, Roster::default);
    }

    pub fn remove(&mut self, slot: WorkerSlot) {
        self.set_available(slot, false);
        self.index.remove_worker(slot);
        let worker = self.workers.get_mut(slot.0 as usize);
        if let Some(worker) = worker.and_then(Option::take) {
            self.reported_sequences -= u64::from(worker.report.sequences);
        }
    }

    pub fn set_available(&mut self, slot: WorkerSlot, available: bool) {
        if let Some(worker) = self.worker_mut(slot) {
            worker.available = available;
        }
        self.changed(slot);
    }

    /// The worker's own word on its load.
    pub fn report(&mut self, slot: WorkerSlot, report: Report, now: Duration) {
        let Some(worker) = self
            .workers
            .get_mut(slot.0 as usize)
            .and_then(Option::as_mut)
        else {
            return;
        };
        self.reported_sequences -= u64::from(worker.report.sequences);
        self.reported_sequences += u64::from(report.sequences);
        worker.report = report;
        let included = report.accepted.unwrap_or(u64::MAX);
        let bookings = &mut self.bookings;
        // What was released meanwhile has no number to wait for.
        let is_over = |it: &mut (u64, u64)| it.1 <= included || !bookings.contains_key(&it.0);
        let over: Vec<(u64, u64)> = worker.accepted.extract_if(.., is_over).collect();
        for (id, _) in over {
            worker.settle(slot, bookings.get_mut(&id));
        }
        let queued = report.queued_prefill_tokens + worker.unreported.prefill_tokens;
        worker.backlog.report(now.as_secs_f64(), queued);
        self.changed(slot);
    }

    /// Which worker holds which blocks; who follows a worker's events feeds it.
    /// Workers that are removed here, or start anew, are forgotten there.
    pub fn index(&self) -> &Arc<PrefixIndex> {
        &self.index
    }

    pub fn bookings(&self) -> usize {
        self.bookings.len()
    }

    /// Workers of `model` that may take a sequence now, of whose blocks `overlaps`
    /// were found held.
    pub fn candidates(
        &mut self,
        model: u32,
        ask: &Ask<'_>,
        overlaps: &Overlaps,
        excluded: &Excluded,
    ) -> &[Candidate] {
        let number = model as usize;
        self.left.clear();
        self.weighed = Weighed::Left;
        if let Some(roster) = self.rosters.get_mut(number) {
            roster.ask(ask, overlaps);
            match excluded.is_empty() {
                true => self.weighed = Weighed::Roster(number),
                false => self.left.extend(roster.without(excluded)),
            }
        }
        self.weighed()
    }

    /// Sequences that all workers together say they have.
    pub fn reported_sequences(&self) -> u64 {
        self.reported_sequences
    }

    /// Sequences that could begin soon, beside those there are; `None` without a
    /// worker that takes any.
    pub fn room(&self) -> Option<usize> {
        self.room.total()
    }

    /// What the last call of [`View::candidates`] gave.
    pub fn weighed(&self) -> &[Candidate] {
        match self.weighed {
            Weighed::Roster(model) => self.rosters[model].candidates(),
            Weighed::Left => &self.left,
        }
    }

    /// Books `choice` of the candidates that the last call gave.
    pub fn book(&mut self, ask: &Ask<'_>, choice: Choice) -> Placed {
        let candidates = self.weighed();
        let decode = candidates[choice.decode].worker;
        let prefill = choice.prefill.map(|at| candidates[at].worker);
        let uncached = ask.uncached(&candidates[choice.computes()]);
        let blocks = uncached.div_ceil(ask.block_size.max(1)) as u32;
        let mut share = |slot: WorkerSlot, prefill_tokens: usize| {
            let mut share = Share {
                worker: slot,
                epoch: 0,
                prefill_tokens: prefill_tokens as u64,
                blocks,
                reported: false,
            };
            if let Some(worker) = self.worker_mut(slot) {
                share.epoch = worker.member.epoch;
                worker.add(&share, ask.now);
            }
            share
        };
        let booked = match prefill {
            Some(prefill) => Booked {
                decode: share(decode, 0),
                prefill: Some(share(prefill, uncached)),
            },
            None => Booked {
                decode: share(decode, uncached),
                prefill: None,
            },
        };
        self.room.placed(uncached, ask.block_size);
        self.last_booking += 1;
        self.bookings.insert(self.last_booking, booked);
        [Some(decode), prefill]
            .into_iter()
            .flatten()
            .for_each(|slot| self.changed(slot));
        Placed {
            booking: self.last_booking,
            decode,
            prefill,
            cached_tokens: ask.prompt_tokens - uncached,
        }
    }

    /// Looks up, chooses by `policy`, books and predicts.
    pub fn place(
        &mut self,
        policy: &mut dyn Policy,
        model: u32,
        ask: &Ask<'_>,
        excluded: &Excluded,
    ) -> Option<Placed> {
        let overlaps = self.index.overlaps(ask.hashes, ask.now);
        let candidates = self.candidates(model, ask, &overlaps, excluded);
        let choice = policy.place(ask, candidates)?;
        let placed = self.book(ask, choice);
        placed.predict(&self.index, ask);
        Some(placed)
    }

    /// `slot` has accepted its part of a booking, as the sequence of that number:
    /// reports that count so many include it. A report may have been on its way
    /// before. 0: it has no number, and the next report counts.
    pub fn accepted(&mut self, booking: u64, slot: WorkerSlot, number: u64) {
        let Some(Some(worker)) = self.workers.get_mut(slot.0 as usize) else {
            return;
        };
        let known = worker.report.accepted.unwrap_or(0);
        match (1..=known).contains(&number) {
            // The report came first.
            true => {
                if let Some(tokens) = worker.settle(slot, self.bookings.get_mut(&booking)) {
                    worker.backlog.withdraw(tokens);
                }
            }
            false => worker.accepted.push((booking, number)),
        }
        self.changed(slot);
    }

    pub fn release(&mut self, booking: u64) {
        let Some(booked) = self.bookings.remove(&booking) else {
            return;
        };
        for share in booked.shares().filter(|share| !share.reported) {
            if let Some(worker) = self.worker_mut(share.worker)
                && worker.member.epoch == share.epoch
            {
                worker.unreported.remove(share);
                worker.backlog.withdraw(share.prefill_tokens);
            }
            self.changed(share.worker);
        }
    }

    /// A worker's load or state changed.
    fn changed(&mut self, slot: WorkerSlot) {
        let Some(Some(worker)) = self.workers.get_mut(slot.0 as usize) else {
            return;
        };
        let load = worker.load();
        let room = worker.available.then(|| self.room.on(&load));
        self.room.change(worker.room, room);
        worker.room = room;
        let roster = &mut self.rosters[worker.member.model as usize];
        match worker.available {
            true => roster.put(slot, worker),
            false => roster.remove(slot),
        }
    }

    fn worker_mut(&mut self, slot: WorkerSlot) -> Option<&mut Worker> {
        self.workers.get_mut(slot.0 as usize)?.as_mut()
    }
}
