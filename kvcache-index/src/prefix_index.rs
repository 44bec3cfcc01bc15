//! The prefix index: which worker holds which prefix, and in which tier.
//!
//! Hashes chain, so a block's hash stands for its whole prefix and hashes of
//! different models, adapters, salts and block sizes never meet: they share one
//! index. Lookups take `&self`, run beside each other and beside a writer, and
//! never wait for one. Events of different workers may come from different
//! threads; each is applied whole before the next. What it knows is a function
//! of the calls made, so the simulator gets the same answers every time.
//! The crate's `README.md` has the picture, the costs and the measurements.

mod holder;
mod overlaps;
mod root;
mod walk;
mod writer;

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;

use crate::KvEvent;
use holder::{Change, Ticks};
pub use overlaps::{Overlap, Overlaps};
use root::Root;
use writer::Writer;

/// A worker's number in the index, given by its owner; may be used again after
/// [`PrefixIndex::remove_worker`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkerSlot(pub u32);

/// Live workers that an index can tell apart; events of further ones are
/// dropped.
pub const MAX_WORKERS: usize = root::LIST_CHUNK;

/// The least cap that [`PrefixIndex::with_memory_cap`] keeps to: what an index
/// of a few blocks takes.
pub const MIN_MEMORY: usize = 1 << 20;

/// Which workers hold which blocks.
#[derive(Debug)]
pub struct PrefixIndex {
    shared: Arc<Shared>,
    writer: Mutex<Writer>,
}

/// What a lookup reads.
#[derive(Debug, Default)]
struct Shared {
    root: ArcSwap<Root>,
    blocks: AtomicUsize,
}

impl Default for PrefixIndex {
    /// An index without a cap.
    fn default() -> PrefixIndex {
        PrefixIndex::with_memory_cap(usize::MAX)
    }
}

impl PrefixIndex {
    /// An index that takes at most `bytes` of memory, at least [`MIN_MEMORY`].
    /// When it is full, it forgets first what removed workers and ended
    /// predictions left, then the run of blocks that was not stored, extended
    /// or predicted for the longest time; of a prompt's runs the last one.
    pub fn with_memory_cap(bytes: usize) -> PrefixIndex {
        let shared = Arc::new(Shared::default());
        let writer = Mutex::new(Writer::new(shared.clone(), bytes.max(MIN_MEMORY)));
        PrefixIndex { shared, writer }
    }

    /// Applies one event of `worker`. Repeats change nothing.
    pub fn apply(&self, worker: WorkerSlot, event: &KvEvent) {
        let mut writer = self.writer();
        match event {
            KvEvent::Stored {
                parent,
                hashes,
                tier,
            } => writer.add(worker, *parent, hashes, Change::Store(*tier)),
            KvEvent::Removed { hashes, tier } => writer.remove(worker, hashes, *tier),
            KvEvent::Cleared => writer.forget(worker),
        }
    }

    /// `worker` is expected to hold a prompt's first blocks soon, and counts as
    /// holding them until it says so itself, or until `until` (rounded up to
    /// 16 ms). Predicting again moves the end further away, never nearer.
    pub fn predict(&self, worker: WorkerSlot, hashes: &[u64], until: Duration) {
        let until = ticks(until + Duration::from_millis(TICK_MS - 1));
        self.writer().add(worker, 0, hashes, Change::Predict(until));
    }

    /// Forgets all of `worker`, at a cost that does not depend on how much it
    /// holds: its blocks count for nobody from now on, and are cleared away by
    /// and by.
    pub fn remove_worker(&self, worker: WorkerSlot) {
        self.writer().forget(worker);
    }

    /// Clears away a share of what removed workers and predictions that ended
    /// before `now` left; every event does a little of it too. Returns whether
    /// there is more to do.
    pub fn tidy(&self, now: Duration) -> bool {
        self.writer().tidy(ticks(now))
    }

    /// The longest held prefix of every worker, for a prompt whose full blocks
    /// have `hashes`.
    pub fn overlaps(&self, hashes: &[u64], now: Duration) -> Overlaps {
        let mut overlaps = Overlaps::default();
        self.overlaps_into(hashes, now, &mut overlaps);
        overlaps
    }

    /// [`overlaps`](PrefixIndex::overlaps) into a buffer, which allocates
    /// nothing once it is large enough.
    pub fn overlaps_into(&self, hashes: &[u64], now: Duration, overlaps: &mut Overlaps) {
        loop {
            let root = self.shared.root.load();
            let is_current = || Arc::ptr_eq(&root, &self.shared.root.load());
            if walk::walk(&root, (is_current, || ()), (hashes, ticks(now)), overlaps) {
                return;
            }
        }
    }

    /// Number of blocks that `worker` has announced and not withdrawn.
    pub fn blocks_of(&self, worker: WorkerSlot) -> usize {
        self.writer().blocks_of(worker)
    }

    /// Number of different blocks, with those of removed workers that are not
    /// cleared away yet.
    pub fn len(&self) -> usize {
        self.shared.blocks.load(Relaxed)
    }

    /// Whether there are no blocks.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of memory taken, all allocations counted.
    pub fn memory(&self) -> usize {
        self.writer().memory()
    }

    fn writer(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const TICK_MS: u64 = 16;

fn ticks(time: Duration) -> Ticks {
    Ticks::try_from(time.as_millis() as u64 / TICK_MS).unwrap_or(Ticks::MAX)
}

#[cfg(test)]
mod tests;
