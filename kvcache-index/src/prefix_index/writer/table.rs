//! The table of places: open addressing in segments that are replaced whole
//! when they fill up, each on its own, so that no change waits long.

use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use super::Writer;
use crate::prefix_index::root::{
    Home, PAGES, Page, Place, Root, SEGMENTS, SEGMENTS_PER_PAGE, Segment, Slot,
};

/// A segment is replaced when more than 4 in 5 slots were used, by one with 2
/// slots for every block.
const FULL: (usize, usize) = (4, 5);
const ROOMY: usize = 2;
const LEAST_SLOTS: usize = 8;

#[derive(Debug)]
pub(super) struct Table {
    /// Slots of each segment that have a hash.
    used: Vec<u32>,
    slots: usize,
    segments: usize,
    /// Bit by page: it has a segment, and no longer shares the empty page.
    pages: u32,
}

impl Default for Table {
    fn default() -> Table {
        Table {
            used: vec![0; SEGMENTS],
            slots: 0,
            segments: 0,
            pages: 0,
        }
    }
}

impl Table {
    pub fn memory(&self) -> usize {
        let own = self.pages.count_ones() as usize;
        let pages = own + usize::from(own < PAGES);
        self.used.capacity() * size_of::<u32>()
            + self.slots * size_of::<Slot>()
            + self.segments * ARC_COUNTS
            + pages * (ARC_COUNTS + size_of::<Page>())
            + usize::from(self.segments < SEGMENTS) * ARC_COUNTS
    }
}

/// Bytes before the value in a shared allocation.
pub(super) const ARC_COUNTS: usize = 2 * size_of::<usize>();

impl Writer {
    /// Gives readers another root.
    pub(super) fn publish(&mut self, root: Root) {
        self.root = Arc::new(root);
        self.shared.root.store(self.root.clone());
    }

    /// `hash` gets a place. `false`: it has a live one.
    pub(super) fn insert(&mut self, hash: u64, place: Place) -> bool {
        if let Some(slot) = self.root.slot(hash) {
            let before = Place::decode(slot.place.load(Relaxed));
            if before.is_some_and(|before| self.is_live(before.run)) {
                return false;
            }
            slot.place.store(place.encode(), Release);
            return true;
        }
        let home = Home::of(hash);
        let used = self.table.used[home.segment] as usize + 1;
        if used * FULL.1 > self.root.segment(home.segment).len() * FULL.0 {
            self.replace_segment(home.segment);
        }
        put(self.root.segment(home.segment), hash, place.encode());
        self.table.used[home.segment] += 1;
        true
    }

    /// A new segment with the live blocks of the old one and room for more.
    fn replace_segment(&mut self, segment: usize) {
        let before = self.root.segment(segment).len();
        let mut live = self.live_slots(segment);
        let mut slots = roomy(live.len());
        while slots > before && !self.fits((slots - before) * size_of::<Slot>()) {
            if (live.len() + 1) * 4 <= before * 3 {
                slots = before;
                break;
            }
            if !self.forget_oldest() {
                break;
            }
            live = self.live_slots(segment);
            slots = roomy(live.len());
        }
        self.refill(segment, &live, slots);
    }

    /// Gives back slots of forgotten blocks, in all segments.
    pub(super) fn compact(&mut self) {
        for segment in 0..SEGMENTS {
            let live = self.live_slots(segment);
            if roomy(live.len()) < self.root.segment(segment).len() {
                self.refill(segment, &live, roomy(live.len()));
            }
        }
    }

    fn refill(&mut self, segment: usize, live: &[(u64, u64)], slots: usize) {
        let before = self.root.segment(segment).len();
        let fresh: Segment = (0..slots).map(|_| Slot::default()).collect();
        for (hash, place) in live {
            put(&fresh, *hash, *place);
        }
        self.table.used[segment] = live.len() as u32;
        self.table.slots = self.table.slots - before + slots;
        self.table.segments += usize::from(before == 0);
        self.table.pages |= 1 << (segment / SEGMENTS_PER_PAGE);
        self.publish(self.root.with_segment(segment, fresh));
    }

    fn live_slots(&self, segment: usize) -> Vec<(u64, u64)> {
        let slots = self.root.segment(segment).iter();
        let words = slots.map(|slot| (slot.hash.load(Relaxed), slot.place.load(Relaxed)));
        // Looking at runs, all over memory, is worth it only if some are dead.
        let all_live = !self.sweep.has_dead_runs();
        let is_live = |word: u64| {
            Place::decode(word).is_some_and(|place| all_live || self.is_live(place.run))
        };
        words.filter(|(_, place)| is_live(*place)).collect()
    }

    /// Clears the places of dead runs in some slots of a segment, from `first`.
    /// Returns whether that was its end.
    pub(super) fn clear_dead(&self, segment: usize, first: usize, slots: usize) -> bool {
        let all = self.root.segment(segment);
        for slot in all.iter().skip(first).take(slots) {
            let place = Place::decode(slot.place.load(Acquire));
            if place.is_some_and(|place| !self.is_live(place.run)) {
                slot.place.store(0, Release);
            }
        }
        first + slots >= all.len()
    }
}

fn roomy(blocks: usize) -> usize {
    ((blocks + 1) * ROOMY).max(LEAST_SLOTS)
}

/// Writes a hash that is not there into the first slot free.
fn put(slots: &[Slot], hash: u64, place: u64) {
    let first = Home::of(hash).slot(slots.len());
    let (before, after) = slots.split_at(first);
    let mut candidates = after.iter().chain(before);
    if let Some(slot) = candidates.find(|slot| slot.hash.load(Relaxed) == 0) {
        slot.place.store(place, Release);
        slot.hash.store(hash, Release);
    }
}
