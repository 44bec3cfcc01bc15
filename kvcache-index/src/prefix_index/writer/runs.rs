//! Records of runs: making, freeing, and the order in which they were used.

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use super::{NONE, Writer};
use crate::prefix_index::holder::{Holder, HoldersWord};
use crate::prefix_index::root::{CHUNK, Range, Run};

/// What only the writer knows of a run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Note {
    /// Blocks in it.
    pub held: u32,
    /// The run that was last split off its end; a hint.
    pub next: u32,
    older: u32,
    newer: u32,
}

impl Default for Note {
    fn default() -> Note {
        Note {
            held: 0,
            next: NONE,
            older: NONE,
            newer: NONE,
        }
    }
}

#[derive(Debug)]
pub(super) struct Runs {
    notes: Vec<Box<[Note]>>,
    free: Vec<u32>,
    /// Runs made so far.
    pub made: u32,
    oldest: u32,
    newest: u32,
}

impl Default for Runs {
    fn default() -> Runs {
        Runs {
            notes: Vec::new(),
            free: Vec::new(),
            made: 0,
            oldest: NONE,
            newest: NONE,
        }
    }
}

impl Runs {
    pub fn note(&self, run: u32) -> &Note {
        &self.notes[run as usize / CHUNK][run as usize % CHUNK]
    }

    pub fn note_mut(&mut self, run: u32) -> &mut Note {
        &mut self.notes[run as usize / CHUNK][run as usize % CHUNK]
    }

    /// Runs from the one not used for longest.
    pub fn by_age(&self) -> impl Iterator<Item = u32> {
        let some = |run: u32| Some(run).filter(|run| *run != NONE);
        std::iter::successors(some(self.oldest), move |run| some(self.note(*run).newer))
    }

    /// Runs that no block's place names any more may be made again.
    pub fn release(&mut self, runs: Vec<u32>) {
        self.free.extend(runs);
    }

    pub fn memory(&self) -> usize {
        self.notes.capacity() * size_of::<Box<[Note]>>()
            + self.notes.len() * CHUNK * size_of::<Note>()
            + self.free.capacity() * size_of::<u32>()
    }

    fn unlink(&mut self, run: u32) {
        let Note { older, newer, .. } = *self.note(run);
        match older {
            NONE if self.oldest != run => return,
            NONE => self.oldest = newer,
            older => self.note_mut(older).newer = newer,
        }
        match newer {
            NONE => self.newest = older,
            newer => self.note_mut(newer).older = older,
        }
        let note = self.note_mut(run);
        (note.older, note.newer) = (NONE, NONE);
    }

    fn link_newest(&mut self, run: u32) {
        let newest = std::mem::replace(&mut self.newest, run);
        self.note_mut(run).older = newest;
        match newest {
            NONE => self.oldest = run,
            newest => self.note_mut(newest).newer = run,
        }
    }
}

impl Writer {
    pub(super) fn run(&self, run: u32) -> &Run {
        self.root
            .run(run)
            .expect("the writer's root has every run it made")
    }

    pub(super) fn range(&self, run: u32) -> Range {
        Range::decode(self.run(run).range.load(Relaxed))
    }

    pub(super) fn set_range(&self, run: u32, range: Range) {
        self.run(run).range.store(range.encode(), Release);
    }

    pub(super) fn is_live(&self, run: u32) -> bool {
        self.run(run).holders.load(Relaxed) != 0
    }

    /// Ends a change of `run`: from now on its old list may be used again.
    pub(super) fn bump(&self, run: u32) {
        self.run(run).version.fetch_add(1, Release);
    }

    pub(super) fn holds_just(&self, run: u32, holders: &[Holder]) -> bool {
        match HoldersWord::decode(self.run(run).holders.load(Relaxed)) {
            HoldersWord::None => holders.is_empty(),
            HoldersWord::One(holder) => *holders == [holder],
            HoldersWord::List { at, len } => {
                let list = self.root.list(at, len).unwrap_or(&[]);
                let words = list.iter().map(|word| Holder(word.load(Relaxed)));
                words.eq(holders.iter().copied())
            }
        }
    }

    /// A run of no blocks yet, at `depth`.
    pub(super) fn new_run(&mut self, depth: u32, holders: &[Holder]) -> u32 {
        let holders = self.store_holders(holders);
        let run = match self.runs.free.pop() {
            Some(run) => run,
            None => self.made_run(),
        };
        *self.runs.note_mut(run) = Note::default();
        self.runs.link_newest(run);
        let range = Range {
            start: depth,
            end: depth,
            holed: false,
        };
        self.set_range(run, range);
        self.run(run).holders.store(holders, Release);
        run
    }

    fn made_run(&mut self) -> u32 {
        if self.runs.made as usize == self.runs.notes.len() * CHUNK {
            if let Some(run) = self.run_by_forgetting() {
                return run;
            }
            self.publish(self.root.with_run_chunk());
            self.runs.notes.push(vec![Note::default(); CHUNK].into());
        }
        self.runs.made += 1;
        self.runs.made - 1
    }

    /// A run cleared away, where the cap allows no more runs.
    fn run_by_forgetting(&mut self) -> Option<u32> {
        let chunk = CHUNK * (size_of::<Run>() + size_of::<Note>() + 64);
        if self.fits(chunk) {
            return None;
        }
        self.forget_oldest();
        self.sweep_table();
        self.runs.free.pop()
    }

    /// `blocks` at the named ends of `run`, or in its middle, have left it.
    pub(super) fn take(&mut self, run: u32, (head, tail): (bool, bool), blocks: u32) {
        let note = self.runs.note_mut(run);
        note.held -= blocks;
        let held = note.held;
        if held == 0 {
            self.free_run(run);
            return;
        }
        let mut range = self.range(run);
        match (head, tail) {
            (true, _) => range.start += blocks,
            (_, true) => range.end -= blocks,
            _ => {}
        }
        range.holed = held < range.len();
        self.set_range(run, range);
        self.bump(run);
    }

    /// A run without blocks: no place names it.
    fn free_run(&mut self, run: u32) {
        self.unhold(run);
        self.runs.free.push(run);
    }

    /// A run whose blocks are forgotten; their places still name it.
    pub(super) fn kill(&mut self, run: u32) {
        let held = std::mem::take(&mut self.runs.note_mut(run).held);
        self.blocks -= held as usize;
        for holder in self.holders(run) {
            self.lanes
                .count(holder.lane(), Some(holder), -(held as isize));
        }
        self.unhold(run);
        self.sweep.bury(run);
    }

    fn unhold(&mut self, run: u32) {
        self.runs.unlink(run);
        let before = self.run(run).holders.swap(0, Release);
        self.bump(run);
        self.free_holders(before);
    }

    /// `run` was used just now.
    pub(super) fn touch(&mut self, run: u32) {
        if self.is_live(run) && self.runs.newest != run {
            self.runs.unlink(run);
            self.runs.link_newest(run);
        }
    }

    pub(super) fn each_holder(&self, word: u64, mut each: impl FnMut(Holder)) {
        match HoldersWord::decode(word) {
            HoldersWord::None => {}
            HoldersWord::One(holder) => each(holder),
            HoldersWord::List { at, len } => {
                let list = self.root.list(at, len).unwrap_or(&[]);
                list.iter()
                    .for_each(|word| each(Holder(word.load(Acquire))));
            }
        }
    }
}
