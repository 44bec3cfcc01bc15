//! Changes of the index: one at a time, beside any number of lookups.
//!
//! An event goes along its blocks in stretches that are in one run, or in none.
//! A stretch whose holders change moves to the neighbouring run that has just
//! those holders, or becomes a run of its own. The order of stores keeps every
//! moment true for readers (see [`Run`](super::root::Run)).

mod lanes;
mod lists;
mod room;
mod runs;
mod stretch;
mod sweep;
mod table;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use smallvec::SmallVec;

use super::holder::{Change, Holder, Holders, HoldersWord, replaced};
use super::root::{Place, Range, Root};
use super::walk::extent;
use super::{Shared, WorkerSlot};
use crate::Tier;
use lanes::Lanes;
use lists::Lists;
use runs::Runs;
use stretch::Stretch;
use sweep::Sweep;
use table::Table;

/// Depth at which a chain goes on in a run that counts from 0 again.
const MAX_DEPTH: u32 = 1 << 30;
const NONE: u32 = u32::MAX;
/// Places of new blocks, and of blocks to remove, that are read ahead: as many
/// as the first and the second cache of a core hold.
const WARM: usize = 64;
const WARM_AHEAD: usize = 1024;

#[derive(Debug)]
pub(super) struct Writer {
    shared: Arc<Shared>,
    /// The root readers have.
    root: Arc<Root>,
    table: Table,
    runs: Runs,
    lists: Lists,
    lanes: Lanes,
    sweep: Sweep,
    /// Blocks in live runs.
    blocks: usize,
    /// Bytes.
    cap: usize,
    /// Runs in use by the change at hand, which must not be forgotten.
    pins: [u32; 3],
}

impl Writer {
    pub fn new(shared: Arc<Shared>, cap: usize) -> Writer {
        Writer {
            root: shared.root.load_full(),
            shared,
            table: Table::default(),
            runs: Runs::default(),
            lists: Lists::default(),
            lanes: Lanes::default(),
            sweep: Sweep::default(),
            blocks: 0,
            cap,
            pins: [NONE; 3],
        }
    }

    /// `change` happens to `worker`'s hold on `hashes`, which follow `parent`.
    pub fn add(&mut self, worker: WorkerSlot, parent: u64, hashes: &[u64], change: Change) {
        let Some(lane) = self.lane_of(worker) else {
            return;
        };
        if let Change::Predict(until) = change {
            self.sweep.expects(until);
        }
        let mut before = self.place(parent);
        let mut trail: SmallVec<[u32; 16]> = before.iter().map(|place| place.run).collect();
        let mut rest = hashes;
        while let Some(first) = rest.first().filter(|hash| **hash != 0) {
            let (blocks, last) = match self.place(*first) {
                Some(place) => self.hold(
                    Stretch {
                        place,
                        hashes: rest,
                        before,
                    },
                    lane,
                    change,
                ),
                None => self.append(before, rest, change.applied(lane, None)),
            };
            if blocks == 0 {
                break;
            }
            rest = &rest[blocks..];
            before = Some(last);
            trail.push(last.run);
        }
        // A prompt's last run is the first of it to be forgotten.
        trail.dedup();
        for run in trail.into_iter().rev() {
            self.touch(run);
        }
        self.finish();
    }

    /// `worker` no longer holds `hashes` in `tier`.
    pub fn remove(&mut self, worker: WorkerSlot, hashes: &[u64], tier: Tier) {
        let Some(lane) = self.lanes.known(worker) else {
            return;
        };
        self.root.warm(&hashes[..hashes.len().min(WARM_AHEAD)]);
        let mut rest = hashes;
        let mut reversed: SmallVec<[u64; 64]> = SmallVec::new();
        while let Some(first) = rest.first() {
            let Some(place) = self.place(*first) else {
                rest = &rest[1..];
                continue;
            };
            let next = rest.get(1).and_then(|hash| self.place(*hash));
            let is_falling = next.is_some_and(|next| next.plus(1) == place);
            let blocks = match is_falling {
                true => self.falling(place, rest),
                false => extent(&self.root, place, self.range(place.run), rest),
            };
            reversed.clear();
            if is_falling {
                reversed.extend(rest[..blocks].iter().rev().copied());
            }
            let stretch = Stretch {
                place: Place {
                    depth: place.depth - if is_falling { blocks as u32 - 1 } else { 0 },
                    ..place
                },
                hashes: if is_falling {
                    &reversed
                } else {
                    &rest[..blocks]
                },
                before: None,
            };
            self.hold(stretch, lane, Change::Remove(tier));
            rest = &rest[blocks..];
        }
        self.finish();
    }

    /// How many of `hashes` are in one run from `place` upwards.
    fn falling(&self, place: Place, hashes: &[u64]) -> usize {
        let is_at = |(up, hash): &(usize, &u64)| {
            let depth = place.depth.checked_sub(*up as u32);
            depth.is_some_and(|depth| self.place(**hash) == Some(Place { depth, ..place }))
        };
        hashes.iter().enumerate().take_while(is_at).count()
    }

    /// All of `worker` is gone.
    pub fn forget(&mut self, worker: WorkerSlot) {
        if let Some(lane) = self.lanes.retire(worker) {
            self.lane(lane).store(super::root::NOBODY, Release);
            self.sweep.condemn(lane);
            self.sweep_some(sweep::AFTER_REMOVAL);
        }
        self.finish();
    }

    pub fn blocks_of(&self, worker: WorkerSlot) -> usize {
        self.lanes.blocks_of(worker)
    }

    fn finish(&mut self) {
        self.pins = [NONE; 3];
        self.sweep_some(sweep::PER_CHANGE);
        self.keep_to_cap();
        self.shared.blocks.store(self.blocks, Relaxed);
    }

    /// `change` happens to the part of `stretch` that is in one run. Returns
    /// its length and the place of its last block.
    fn hold(&mut self, stretch: Stretch<'_>, lane: u32, change: Change) -> (usize, Place) {
        let place = stretch.place;
        let blocks = extent(&self.root, place, self.range(place.run), stretch.hashes);
        if blocks == 0 {
            return (0, place);
        }
        let before = self.holder(place.run, lane);
        let after = change.applied(lane, before);
        if before == after {
            return (blocks, place.plus(blocks - 1));
        }
        let holders = self.holders(place.run);
        self.lanes.count(lane, before, -(blocks as isize));
        self.lanes.count(lane, after, blocks as isize);
        let stretch = Stretch {
            hashes: &stretch.hashes[..blocks],
            ..stretch
        };
        let last = self.assign(stretch, &replaced(&holders, lane, after));
        (blocks, last)
    }

    /// Blocks that nobody holds get their first holder. Returns how many were
    /// new, and the place of the last.
    fn append(
        &mut self,
        before: Option<Place>,
        hashes: &[u64],
        holder: Option<Holder>,
    ) -> (usize, Place) {
        let Some(holder) = holder else {
            return (0, Place { run: 0, depth: 0 });
        };
        let first = match before.filter(|before| self.goes_on(*before, &[holder])) {
            Some(before) => before.plus(1),
            None => {
                self.pins[0] = before.map_or(NONE, |before| before.run);
                let depth = before.map_or(0, |before| before.depth + 1);
                let depth = if depth < MAX_DEPTH { depth } else { 0 };
                let run = self.new_run(depth, &[holder]);
                Place { run, depth }
            }
        };
        self.pins = [first.run, before.map_or(NONE, |before| before.run), NONE];
        let range = self.range(first.run);
        let mut blocks = 0;
        for hash in hashes.iter().take_while(|hash| **hash != 0) {
            if blocks % WARM == 0 {
                let ahead = hashes.len().min(blocks + WARM);
                self.root.warm(&hashes[blocks..ahead]);
            }
            let place = first.plus(blocks);
            let end = place.depth + 1;
            self.set_range(first.run, Range { end, ..range });
            if !self.insert(*hash, place) {
                break;
            }
            blocks += 1;
        }
        let end = first.depth + blocks as u32;
        self.set_range(first.run, Range { end, ..range });
        self.runs.note_mut(first.run).held += blocks as u32;
        self.blocks += blocks;
        self.lanes
            .count(holder.lane(), Some(holder), blocks as isize);
        self.bump(first.run);
        (blocks, first.plus(blocks.max(1) - 1))
    }

    /// The holders of a run changed as a whole, in place.
    fn set_holders(&mut self, run: u32, holders: &[Holder]) {
        let word = self.store_holders(holders);
        let before = self.run(run).holders.swap(word, Release);
        self.bump(run);
        self.free_holders(before);
    }

    fn place(&self, hash: u64) -> Option<Place> {
        self.root
            .place(hash)
            .filter(|place| self.is_live(place.run))
    }

    /// What `lane` holds of a run.
    fn holder(&self, run: u32, lane: u32) -> Option<Holder> {
        match HoldersWord::decode(self.run(run).holders.load(Acquire)) {
            HoldersWord::None => None,
            HoldersWord::One(holder) => Some(holder),
            HoldersWord::List { at, len } => {
                let list = self.root.list(at, len)?;
                let of = |word: &AtomicU64| Holder(word.load(Acquire));
                let at = list.partition_point(|word| of(word).lane() < lane);
                list.get(at).map(of)
            }
        }
        .filter(|holder| holder.lane() == lane)
    }

    fn holders(&self, run: u32) -> Holders {
        let mut holders = Holders::new();
        self.each_holder(self.run(run).holders.load(Acquire), |holder| {
            holders.push(holder);
        });
        holders
    }
}
