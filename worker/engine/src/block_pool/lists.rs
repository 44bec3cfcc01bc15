//! Doubly linked lists over block numbers, a block in one of them or in none:
//! all operations take constant time.

const NONE: u32 = u32::MAX;

/// Where a block is.
#[derive(Clone, Copy, Debug)]
struct Links {
    prev: u32,
    next: u32,
    list: u8,
}

#[derive(Clone, Copy, Debug)]
struct Ends {
    front: u32,
    back: u32,
    len: usize,
}

/// `N` lists.
#[derive(Debug)]
pub(super) struct Lists<const N: usize> {
    links: Vec<Links>,
    ends: [Ends; N],
}

impl<const N: usize> Lists<N> {
    /// For blocks `0..total`, all in no list.
    pub(super) fn new(total: u32) -> Lists<N> {
        let nowhere = Links {
            prev: NONE,
            next: NONE,
            list: 0,
        };
        let empty = Ends {
            front: NONE,
            back: NONE,
            len: 0,
        };
        Lists {
            links: vec![nowhere; total as usize],
            ends: [empty; N],
        }
    }

    pub(super) fn len(&self, list: usize) -> usize {
        self.ends[list].len
    }

    pub(super) fn push_back(&mut self, list: usize, block: u32) {
        self.insert(list, block, self.ends[list].back, NONE);
    }

    pub(super) fn push_front(&mut self, list: usize, block: u32) {
        self.insert(list, block, NONE, self.ends[list].front);
    }

    pub(super) fn pop_front(&mut self, list: usize) -> Option<u32> {
        let block = self.ends[list].front;
        if block == NONE {
            return None;
        }
        self.remove(block);
        Some(block)
    }

    /// `block` must be in a list.
    pub(super) fn remove(&mut self, block: u32) {
        let Links { prev, next, list } = self.links[block as usize];
        self.set_next(list, prev, next);
        self.set_prev(list, next, prev);
        self.ends[usize::from(list)].len -= 1;
    }

    fn insert(&mut self, list: usize, block: u32, prev: u32, next: u32) {
        self.ends[list].len += 1;
        let list = list as u8;
        self.links[block as usize] = Links { prev, next, list };
        self.set_next(list, prev, block);
        self.set_prev(list, next, block);
    }

    fn set_next(&mut self, list: u8, block: u32, next: u32) {
        match self.links.get_mut(block as usize) {
            Some(links) => links.next = next,
            None => self.ends[usize::from(list)].front = next,
        }
    }

    fn set_prev(&mut self, list: u8, block: u32, prev: u32) {
        match self.links.get_mut(block as usize) {
            Some(links) => links.prev = prev,
            None => self.ends[usize::from(list)].back = prev,
        }
    }
}
