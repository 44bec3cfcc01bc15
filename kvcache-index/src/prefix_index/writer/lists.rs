//! Lists of holders: written once, read for as long as a run names them.

use std::sync::atomic::{AtomicU64, Ordering::Release};

use super::Writer;
use crate::prefix_index::holder::{Holder, HoldersWord};
use crate::prefix_index::root::LIST_CHUNK;

/// Lengths are powers of two; this many of them fit a chunk.
const CLASSES: usize = LIST_CHUNK.ilog2() as usize + 1;
/// Words cut into lists of one class at a time.
const PIECE: usize = 256;

/// Free lists by class, and the words never given out.
#[derive(Debug, Default)]
pub(super) struct Lists {
    free: [Vec<u32>; CLASSES],
    cut: usize,
}

impl Lists {
    pub fn memory(&self) -> usize {
        let free = self.free.iter().map(Vec::capacity).sum::<usize>();
        free * size_of::<u32>()
    }
}

fn class_of(len: usize) -> usize {
    len.next_power_of_two().ilog2() as usize
}

impl Writer {
    /// The word that stands for `holders` in a run.
    pub(super) fn store_holders(&mut self, holders: &[Holder]) -> u64 {
        let word = match *holders {
            [] => HoldersWord::None,
            [holder] => HoldersWord::One(holder),
            _ => {
                let at = self.free_list(class_of(holders.len()));
                let len = holders.len() as u32;
                let list = self.root.list(at, len).unwrap_or(&[]);
                for (word, holder) in list.iter().zip(holders) {
                    word.store(holder.0, Release);
                }
                HoldersWord::List { at, len }
            }
        };
        word.encode()
    }

    /// No run names the list of `word` any more.
    pub(super) fn free_holders(&mut self, word: u64) {
        if let HoldersWord::List { at, len } = HoldersWord::decode(word) {
            self.lists.free[class_of(len as usize)].push(at);
        }
    }

    fn free_list(&mut self, class: usize) -> u32 {
        if let Some(at) = self.lists.free[class].pop() {
            return at;
        }
        let words = PIECE.max(1 << class);
        let mut at = self.lists.cut.next_multiple_of(words);
        if at == self.root.chunks()[1] * LIST_CHUNK {
            self.make_room(LIST_CHUNK * size_of::<AtomicU64>());
            if let Some(at) = self.lists.free[class].pop() {
                return at;
            }
            self.publish(self.root.with_list_chunk());
        }
        // What a long list skipped serves short ones.
        let skipped = (self.lists.cut..at).step_by(PIECE).map(|at| at as u32);
        self.lists.free[class_of(PIECE)].extend(skipped);
        self.lists.cut = at + words;
        let end = at + words;
        while at + (2 << class) <= end {
            at += 1 << class;
            self.lists.free[class].push(at as u32);
        }
        (end - words) as u32
    }
}
