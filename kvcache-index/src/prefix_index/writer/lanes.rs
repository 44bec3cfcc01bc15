//! Lanes: small numbers for workers, each used for one stay of one worker. A
//! lane is given out again only when no run names it any more.

use std::sync::atomic::{AtomicU32, Ordering::Release};

use rustc_hash::FxHashMap;

use super::Writer;
use crate::prefix_index::holder::Holder;
use crate::prefix_index::root::CHUNK;
use crate::prefix_index::{MAX_WORKERS, WorkerSlot};

#[derive(Debug, Default)]
pub(super) struct Lanes {
    of: FxHashMap<WorkerSlot, u32>,
    /// Blocks announced in each lane.
    blocks: Vec<usize>,
    free: Vec<u32>,
}

impl Lanes {
    pub fn known(&self, worker: WorkerSlot) -> Option<u32> {
        self.of.get(&worker).copied()
    }

    /// Takes `worker` off its lane.
    pub fn retire(&mut self, worker: WorkerSlot) -> Option<u32> {
        self.of.remove(&worker)
    }

    /// No run names these lanes any more.
    pub fn release(&mut self, lanes: &mut Vec<u32>) {
        for lane in lanes.iter() {
            self.blocks[*lane as usize] = 0;
        }
        self.free.append(lanes);
    }

    pub fn count(&mut self, lane: u32, holder: Option<Holder>, blocks: isize) {
        if holder.is_some_and(Holder::is_observed) {
            let count = &mut self.blocks[lane as usize];
            *count = count.wrapping_add_signed(blocks);
        }
    }

    pub fn blocks_of(&self, worker: WorkerSlot) -> usize {
        self.known(worker)
            .map_or(0, |lane| self.blocks[lane as usize])
    }

    pub fn memory(&self) -> usize {
        // A hash table of this kind has 8 slots for every 7 entries, each with
        // a byte of its own, and a group of 16 bytes behind them.
        let table = match self.of.capacity() {
            0 => 0,
            entries => {
                let slots = (entries * 8 / 7).next_power_of_two();
                slots * (size_of::<(WorkerSlot, u32)>() + 1) + 16
            }
        };
        table
            + self.blocks.capacity() * size_of::<usize>()
            + self.free.capacity() * size_of::<u32>()
    }
}

impl Writer {
    /// The lane of `worker`, which joins if need be; none if there are too many
    /// workers.
    pub(super) fn lane_of(&mut self, worker: WorkerSlot) -> Option<u32> {
        if let Some(lane) = self.lanes.known(worker) {
            return Some(lane);
        }
        if self.lanes.free.is_empty() && self.lanes.blocks.len() == MAX_WORKERS {
            self.sweep_all();
        }
        let lane = match self.lanes.free.pop() {
            Some(lane) => lane,
            None if self.lanes.blocks.len() == MAX_WORKERS => return None,
            None => {
                if self.lanes.blocks.len().is_multiple_of(CHUNK) {
                    self.publish(self.root.with_lane_chunk());
                }
                self.lanes.blocks.push(0);
                self.lanes.blocks.len() as u32 - 1
            }
        };
        self.lanes.of.insert(worker, lane);
        self.lane(lane).store(worker.0, Release);
        Some(lane)
    }

    pub(super) fn lane(&self, lane: u32) -> &AtomicU32 {
        self.root
            .lane(lane)
            .expect("the writer's root has every lane it made")
    }
}
