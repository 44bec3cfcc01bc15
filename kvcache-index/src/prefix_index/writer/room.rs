//! Memory: how much is taken, and what is forgotten when there is no more.

use std::sync::atomic::{AtomicU32, AtomicU64};

use super::Writer;
use super::table::ARC_COUNTS;
use crate::prefix_index::Shared;
use crate::prefix_index::root::{CHUNK, LIST_CHUNK, Root, Run};

/// One in so many blocks is forgotten at a time.
const PORTION: usize = 32;
/// One in so many bytes is for lists of free cells and the like.
const SPARE: usize = 32;

impl Writer {
    pub fn memory(&self) -> usize {
        let [runs, lists, lanes] = self.root.chunks();
        let chunks = runs * chunk_bytes::<Run>(CHUNK)
            + lists * chunk_bytes::<AtomicU64>(LIST_CHUNK)
            + lanes * chunk_bytes::<AtomicU32>(CHUNK);
        chunks
            + FIXED
            + self.table.memory()
            + self.runs.memory()
            + self.lists.memory()
            + self.lanes.memory()
            + self.sweep.memory()
    }

    /// Whether `more` bytes fit, with some to spare for small things.
    pub(super) fn fits(&self, more: usize) -> bool {
        self.cap == usize::MAX || self.memory() + more <= self.cap - self.cap / SPARE
    }

    /// Small things may have grown past what was spared for them.
    pub(super) fn keep_to_cap(&mut self) {
        if self.cap != usize::MAX && self.memory() > self.cap {
            self.make_room(0);
        }
    }

    /// Makes room for `more` bytes, if there is anything to forget.
    pub(super) fn make_room(&mut self, more: usize) {
        while !self.fits(more) && self.forget_oldest() {
            self.compact();
        }
    }

    /// Forgets a portion of the blocks, those longest unused first. Returns
    /// whether there were any.
    pub(super) fn forget_oldest(&mut self) -> bool {
        let portion = self.blocks / PORTION + 1;
        let mut forgotten = 0;
        while forgotten < portion {
            let oldest = self.runs.by_age().find(|run| !self.pins.contains(run));
            let Some(run) = oldest else {
                break;
            };
            forgotten += (self.runs.note(run).held as usize).max(1);
            self.kill(run);
        }
        forgotten > 0
    }
}

/// A chunk, and the pointer to it.
const fn chunk_bytes<T>(len: usize) -> usize {
    ARC_COUNTS + len * size_of::<T>() + size_of::<&[T]>()
}

/// The root, its three lists of chunks and the shared part itself.
const FIXED: usize =
    (ARC_COUNTS + size_of::<Root>()) + 3 * ARC_COUNTS + (ARC_COUNTS + size_of::<Shared>());
