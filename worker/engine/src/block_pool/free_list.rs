//! A doubly linked list over block numbers: all operations take constant time.

const NONE: u32 = u32::MAX;

#[derive(Clone, Copy, Debug)]
struct Links {
    prev: u32,
    next: u32,
}

/// Free blocks, the one to be taken next in front.
#[derive(Debug)]
pub(super) struct FreeList {
    links: Vec<Links>,
    front: u32,
    back: u32,
    len: usize,
}

impl FreeList {
    /// Of blocks `0..total`, in order.
    pub(super) fn full(total: u32) -> FreeList {
        let mut list = FreeList {
            links: vec![
                Links {
                    prev: NONE,
                    next: NONE
                };
                total as usize
            ],
            front: NONE,
            back: NONE,
            len: 0,
        };
        (0..total).for_each(|block| list.push_back(block));
        list
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn push_back(&mut self, block: u32) {
        self.insert(block, self.back, NONE);
    }

    pub(super) fn push_front(&mut self, block: u32) {
        self.insert(block, NONE, self.front);
    }

    pub(super) fn pop_front(&mut self) -> Option<u32> {
        let block = self.front;
        if block == NONE {
            return None;
        }
        self.remove(block);
        Some(block)
    }

    /// `block` must be in the list.
    pub(super) fn remove(&mut self, block: u32) {
        let Links { prev, next } = self.links[block as usize];
        self.set_next(prev, next);
        self.set_prev(next, prev);
        self.len -= 1;
    }

    fn insert(&mut self, block: u32, prev: u32, next: u32) {
        self.links[block as usize] = Links { prev, next };
        self.set_next(prev, block);
        self.set_prev(next, block);
        self.len += 1;
    }

    fn set_next(&mut self, block: u32, next: u32) {
        match self.links.get_mut(block as usize) {
            Some(links) => links.next = next,
            None => self.front = next,
        }
    }

    fn set_prev(&mut self, block: u32, prev: u32) {
        match self.links.get_mut(block as usize) {
            Some(links) => links.prev = prev,
            None => self.back = prev,
        }
    }
}
