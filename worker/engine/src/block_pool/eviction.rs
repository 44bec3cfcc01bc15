//! Which free block goes next.
//!
//! 2Q (Johnson and Shasha 1994, "2Q: A Low Overhead High Performance Buffer
//! Management Replacement Algorithm") for prefix trees. A block whose content
//! was used once is on probation; one that was used again, or was computed
//! again soon after its eviction, is protected. Probation goes first, so what
//! comes once passes by what is used. Protected blocks take half of the pool at
//! most; beyond that the least recently used of them are on probation again.
//! Each queue is in order of last use, and of one sequence the tail comes
//! before the head.
//!
//! An ancestor never goes before its descendant: whoever uses a block uses all
//! before it, and so they are in the same queue behind it, or protected while
//! it is on probation.

use super::ghosts::Ghosts;
use super::lists::Lists;

/// Parts of the pool that protected blocks may take: one in so many.
const PROTECTED_SHARE: usize = 2;
/// While others still use a block, uses so soon after it was cached are one use
/// (2Q's correlated references: several completions of one prompt): until one
/// in so many blocks of the pool was cached.
const CORRELATED_SHARE: u64 = 16;

const BLANK: usize = 0;
const PROBATION: usize = 1;
const PROTECTED: usize = 2;

/// The order of free blocks, and what is known of the use of the others.
#[derive(Debug)]
pub(super) struct Eviction {
    lists: Lists<3>,
    usage: Vec<Usage>,
    ghosts: Ghosts,
    /// Blocks cached so far: what time is counted in.
    clock: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Usage {
    is_protected: bool,
    cached_at: u64,
}

impl Eviction {
    /// Of blocks `0..total`, all free and blank.
    pub(super) fn new(total: u32) -> Eviction {
        let mut lists = Lists::new(total);
        (0..total).for_each(|block| lists.push_back(BLANK, block));
        Eviction {
            lists,
            usage: vec![Usage::default(); total as usize],
            ghosts: Ghosts::new(total as usize),
            clock: 0,
        }
    }

    /// Number of free blocks.
    pub(super) fn free(&self) -> usize {
        [BLANK, PROBATION, PROTECTED]
            .map(|it| self.lists.len(it))
            .iter()
            .sum()
    }

    /// The free block that is to be taken next is free no more.
    pub(super) fn take(&mut self) -> Option<u32> {
        [BLANK, PROBATION, PROTECTED]
            .into_iter()
            .find_map(|list| self.lists.pop_front(list))
    }

    /// The content `hash` of the block that was taken is gone.
    pub(super) fn evicted(&mut self, hash: u64) {
        self.ghosts.insert(hash);
    }

    /// The free `block` is in use.
    pub(super) fn hold(&mut self, block: u32) {
        self.lists.remove(block);
    }

    /// Nobody uses the blank `block` any more.
    pub(super) fn free_blank(&mut self, block: u32) {
        self.lists.push_front(BLANK, block);
    }

    /// Nobody uses the cached `block` any more.
    pub(super) fn free_cached(&mut self, block: u32) {
        match self.usage[block as usize].is_protected {
            true => self.lists.push_back(PROTECTED, block),
            false => self.lists.push_back(PROBATION, block),
        }
        if self.lists.len(PROTECTED) > self.usage.len() / PROTECTED_SHARE
            && let Some(oldest) = self.lists.pop_front(PROTECTED)
        {
            self.usage[oldest as usize].is_protected = false;
            self.lists.push_back(PROBATION, oldest);
        }
    }

    /// `block` now holds `hash`, which follows what `parent` holds.
    pub(super) fn cached(&mut self, block: u32, hash: u64, parent: Option<u32>) {
        self.clock += 1;
        let comes_again = self.ghosts.take(hash);
        self.usage[block as usize] = Usage {
            is_protected: comes_again && self.protects(parent),
            cached_at: self.clock,
        };
    }

    /// The content of `block`, which follows that of `parent` and others use
    /// too, is used by one more.
    pub(super) fn shared(&mut self, block: u32, parent: Option<u32>) {
        let correlated = self.usage.len() as u64 / CORRELATED_SHARE;
        if self.clock - self.usage[block as usize].cached_at >= correlated {
            self.used_again(block, parent);
        }
    }

    /// The content of `block` is used after a while in which nobody did.
    pub(super) fn used_again(&mut self, block: u32, parent: Option<u32>) {
        if self.protects(parent) {
            self.usage[block as usize].is_protected = true;
        }
    }

    /// Whether a block after `parent` may be protected.
    fn protects(&self, parent: Option<u32>) -> bool {
        parent.is_none_or(|parent| self.usage[parent as usize].is_protected)
    }
}
