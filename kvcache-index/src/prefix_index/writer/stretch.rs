//! Moving blocks between runs: how a stretch of blocks gets other holders.

use std::sync::atomic::Ordering::Release;

use super::{MAX_DEPTH, NONE, Writer};
use crate::prefix_index::holder::{Holder, Holders};
use crate::prefix_index::root::{Place, Range};

/// Longest run that is copied to its neighbour rather than left beside it.
const JOIN: usize = 64;

/// Blocks that follow each other, in one run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stretch<'a> {
    /// Of the first block.
    pub place: Place,
    pub hashes: &'a [u64],
    /// The block before the first, if known.
    pub before: Option<Place>,
}

/// Where a stretch moves: depths from `depth` on in `run`.
#[derive(Clone, Copy, Debug)]
struct Target {
    run: u32,
    depth: u32,
}

impl Writer {
    /// `stretch` gets new holders. Returns the place of its last block.
    pub(super) fn assign(&mut self, stretch: Stretch<'_>, holders: &Holders) -> Place {
        let (run, blocks) = (stretch.place.run, stretch.hashes.len());
        let last = stretch.place.plus(blocks - 1);
        if holders.is_empty() {
            self.drop_blocks(stretch);
            return last;
        }
        self.pins = [run, stretch.before.map_or(NONE, |before| before.run), NONE];
        let is_whole = blocks == self.runs.note(run).held as usize;
        match self.neighbour(stretch, holders) {
            Some(target) if !is_whole || blocks <= JOIN => self.shift(stretch, target),
            _ if is_whole => {
                self.set_holders(run, holders);
                last
            }
            _ => {
                let target = self.split(stretch, holders);
                self.shift(stretch, target)
            }
        }
    }

    /// The run before or after `stretch`, if it has just these holders.
    fn neighbour(&self, stretch: Stretch<'_>, holders: &[Holder]) -> Option<Target> {
        let place = stretch.place;
        if let Some(before) = stretch.before
            && before.run != place.run
            && self.goes_on(before, holders)
        {
            let Place { run, depth } = before.plus(1);
            return Some(Target { run, depth });
        }
        let end = place.depth + stretch.hashes.len() as u32;
        let next = self.runs.note(place.run).next;
        let follows = next != NONE
            && next != place.run
            && end == self.range(place.run).end
            && self.is_live(next)
            && self.range(next).start == end
            && self.holds_just(next, holders);
        follows.then_some(Target {
            run: next,
            depth: place.depth,
        })
    }

    /// Whether a block after `before` that has `holders` is one of its run.
    pub(super) fn goes_on(&self, before: Place, holders: &[Holder]) -> bool {
        let range = self.range(before.run);
        before.depth + 1 == range.end
            && range.end < MAX_DEPTH
            && self.is_live(before.run)
            && self.holds_just(before.run, holders)
    }

    /// A run for `stretch`, without blocks yet.
    fn split(&mut self, stretch: Stretch<'_>, holders: &[Holder]) -> Target {
        let place = stretch.place;
        let run = self.new_run(place.depth, holders);
        self.pins[2] = run;
        let end = place.depth + stretch.hashes.len() as u32;
        if end == self.range(place.run).end {
            self.runs.note_mut(place.run).next = run;
        }
        Target {
            run,
            depth: place.depth,
        }
    }

    /// Moves `stretch` to another run. Blocks leave from an end of theirs, so
    /// that at every moment what is left lies together.
    fn shift(&mut self, stretch: Stretch<'_>, target: Target) -> Place {
        let blocks = stretch.hashes.len();
        let there = Place {
            run: target.run,
            depth: target.depth,
        };
        let range = self.range(target.run);
        let is_in_front = target.depth < range.start;
        self.set_range(
            target.run,
            Range {
                start: range.start.min(target.depth),
                end: range.end.max(target.depth + blocks as u32),
                ..range
            },
        );
        self.runs.note_mut(target.run).held += blocks as u32;
        self.leave(stretch, is_in_front, |block| there.plus(block).encode());
        self.bump(target.run);
        there.plus(blocks - 1)
    }

    /// Nobody holds `stretch` any more.
    fn drop_blocks(&mut self, stretch: Stretch<'_>) {
        self.blocks -= stretch.hashes.len();
        self.leave(stretch, false, |_| 0);
    }

    /// Writes a new place for every block of `stretch`, and takes them out of
    /// their run.
    fn leave(&mut self, stretch: Stretch<'_>, backwards: bool, place_of: impl Fn(usize) -> u64) {
        let (Place { run, depth }, blocks) = (stretch.place, stretch.hashes.len());
        let range = self.range(run);
        let is_head = depth == range.start;
        let is_tail = depth + blocks as u32 == range.end;
        if !is_head && !is_tail {
            self.set_range(
                run,
                Range {
                    holed: true,
                    ..range
                },
            );
        }
        let write = |block: usize| {
            if let Some(slot) = self.root.slot(stretch.hashes[block]) {
                slot.place.store(place_of(block), Release);
            }
        };
        match backwards || is_tail && !is_head {
            true => (0..blocks).rev().for_each(write),
            false => (0..blocks).for_each(write),
        }
        self.take(run, (is_head, is_tail), blocks as u32);
    }
}
