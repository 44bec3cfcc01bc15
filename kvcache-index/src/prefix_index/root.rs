//! The memory that readers and the writer share.
//!
//! Three kinds of cells, all atomics. A *slot* of the table maps a block's hash
//! to its *place*: a run and a depth in it. A *run* is a chain of blocks that
//! the same workers hold in the same way, so that what is said of many blocks
//! is stored once. A *list* holds a run's holders when there are several.
//!
//! Cells change in place. A [`Root`] says where cells are; growing makes a new
//! root that shares what did not move, so a reader works on one root for a
//! whole lookup and never sees memory go away.

use std::sync::Arc;
use std::sync::atomic::{
    AtomicU32, AtomicU64,
    Ordering::{Acquire, Relaxed},
};

/// Runs and lanes per chunk.
pub(super) const CHUNK: usize = 1024;
/// Words per chunk of lists, and the longest list.
pub(super) const LIST_CHUNK: usize = 1 << 14;
pub(super) const PAGES: usize = 32;
pub(super) const SEGMENTS_PER_PAGE: usize = 32;
pub(super) const SEGMENTS: usize = PAGES * SEGMENTS_PER_PAGE;

/// A lane whose worker is gone.
pub(super) const NOBODY: u32 = u32::MAX;

/// A block's entry in the table. `hash` is written once; `place` 0 means that
/// nobody holds the block.
#[derive(Debug, Default)]
pub(super) struct Slot {
    pub hash: AtomicU64,
    pub place: AtomicU64,
}

/// Where a block is: the run, and how deep in a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub run: u32,
    pub depth: u32,
}

impl Place {
    pub fn encode(self) -> u64 {
        (u64::from(self.run) + 1) << 32 | u64::from(self.depth)
    }

    pub fn decode(word: u64) -> Option<Place> {
        let run = (word >> 32).checked_sub(1)?;
        Some(Place {
            run: run as u32,
            depth: word as u32,
        })
    }

    pub fn plus(self, blocks: usize) -> Place {
        Place {
            run: self.run,
            depth: self.depth + blocks as u32,
        }
    }
}

/// A run's record.
///
/// Every single store leaves a state that is true of the blocks in it. The
/// version rises at the end of each change, and before anything the run used is
/// used again: a reader that saw the same version before and after has seen
/// values that belong together.
#[derive(Debug, Default)]
pub(super) struct Run {
    pub version: AtomicU64,
    pub range: AtomicU64,
    /// A [`HoldersWord`](super::holder::HoldersWord).
    pub holders: AtomicU64,
}

/// The depths a run's blocks have: `start..end`, all of them unless `holed`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub start: u32,
    pub end: u32,
    pub holed: bool,
}

const HOLED: u64 = 1 << 63;

impl Range {
    pub fn encode(self) -> u64 {
        let holed = if self.holed { HOLED } else { 0 };
        holed | u64::from(self.start) << 32 | u64::from(self.end)
    }

    pub fn decode(word: u64) -> Range {
        Range {
            start: ((word & !HOLED) >> 32) as u32,
            end: word as u32,
            holed: word & HOLED != 0,
        }
    }

    pub fn len(self) -> u32 {
        self.end - self.start
    }
}

pub(super) type Segment = Arc<[Slot]>;

#[derive(Clone, Debug)]
pub(super) struct Page(pub [Segment; SEGMENTS_PER_PAGE]);

pub(super) type Chunks<T> = Arc<[Arc<[T]>]>;

#[derive(Clone, Debug)]
pub(super) struct Root {
    pages: [Arc<Page>; PAGES],
    runs: Chunks<Run>,
    lists: Chunks<AtomicU64>,
    /// The worker of each lane, or [`NOBODY`].
    lanes: Chunks<AtomicU32>,
}

impl Default for Root {
    fn default() -> Root {
        let empty: Segment = Arc::new([]);
        let page = Arc::new(Page(std::array::from_fn(|_| empty.clone())));
        Root {
            pages: std::array::from_fn(|_| page.clone()),
            runs: Arc::new([]),
            lists: Arc::new([]),
            lanes: Arc::new([]),
        }
    }
}

/// Where a hash belongs: its segment, and a fraction of the way into it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Home {
    pub segment: usize,
    fraction: u64,
}

impl Home {
    pub fn of(hash: u64) -> Home {
        // Multiply and fold: small or patterned hashes spread as well.
        let product = u128::from(hash) * 0x9e37_79b9_7f4a_7c15_u128;
        let mixed = (product >> 64) as u64 ^ product as u64;
        Home {
            segment: (mixed >> (64 - SEGMENTS.ilog2())) as usize,
            fraction: mixed << SEGMENTS.ilog2() >> 32,
        }
    }

    /// The first slot to look at among `slots`.
    pub fn slot(self, slots: usize) -> usize {
        ((self.fraction * slots as u64) >> 32) as usize
    }
}

impl Root {
    /// The slot that has, or had, `hash`.
    pub fn slot(&self, hash: u64) -> Option<&Slot> {
        let home = Home::of(hash);
        let slots = self.segment(home.segment);
        let first = home.slot(slots.len());
        // A segment is never full, so an empty slot ends the search.
        let (before, after) = slots.split_at_checked(first)?;
        for slot in after.iter().chain(before) {
            match slot.hash.load(Acquire) {
                0 => return None,
                found if found == hash => return Some(slot),
                _ => {}
            }
        }
        None
    }

    pub fn place(&self, hash: u64) -> Option<Place> {
        Place::decode(self.slot(hash)?.place.load(Acquire))
    }

    /// Reads where each of `hashes` belongs, all at once rather than one miss
    /// of the cache after the other.
    pub fn warm(&self, hashes: &[u64]) {
        let first = |hash: &u64| {
            let home = Home::of(*hash);
            let slots = self.segment(home.segment);
            let slot = slots.get(home.slot(slots.len()));
            slot.map_or(0, |slot| slot.hash.load(Relaxed))
        };
        std::hint::black_box(hashes.iter().map(first).fold(0, |a, b| a ^ b));
    }

    pub fn run(&self, run: u32) -> Option<&Run> {
        chunked(&self.runs, run as usize, CHUNK)
    }

    pub fn lane(&self, lane: u32) -> Option<&AtomicU32> {
        chunked(&self.lanes, lane as usize, CHUNK)
    }

    /// The `len` words of the list at `at`.
    pub fn list(&self, at: u32, len: u32) -> Option<&[AtomicU64]> {
        let chunk = self.lists.get(at as usize / LIST_CHUNK)?;
        let first = at as usize % LIST_CHUNK;
        chunk.get(first..first + len as usize)
    }

    pub fn segment(&self, segment: usize) -> &Segment {
        &self.pages[segment / SEGMENTS_PER_PAGE].0[segment % SEGMENTS_PER_PAGE]
    }

    pub fn with_segment(&self, segment: usize, slots: Segment) -> Root {
        let mut root = self.clone();
        let page = Arc::make_mut(&mut root.pages[segment / SEGMENTS_PER_PAGE]);
        page.0[segment % SEGMENTS_PER_PAGE] = slots;
        root
    }

    pub fn with_run_chunk(&self) -> Root {
        Root {
            runs: extended(&self.runs, (0..CHUNK).map(|_| Run::default()).collect()),
            ..self.clone()
        }
    }

    pub fn with_list_chunk(&self) -> Root {
        let words = (0..LIST_CHUNK).map(|_| AtomicU64::new(0)).collect();
        Root {
            lists: extended(&self.lists, words),
            ..self.clone()
        }
    }

    pub fn with_lane_chunk(&self) -> Root {
        let lanes = (0..CHUNK).map(|_| AtomicU32::new(NOBODY)).collect();
        Root {
            lanes: extended(&self.lanes, lanes),
            ..self.clone()
        }
    }

    /// Chunks of runs, of lists and of lanes.
    pub fn chunks(&self) -> [usize; 3] {
        [self.runs.len(), self.lists.len(), self.lanes.len()]
    }
}

fn chunked<T>(chunks: &Chunks<T>, index: usize, size: usize) -> Option<&T> {
    chunks.get(index / size)?.get(index % size)
}

fn extended<T>(chunks: &Chunks<T>, chunk: Arc<[T]>) -> Chunks<T> {
    chunks.iter().cloned().chain([chunk]).collect()
}
