//! Identities of what was evicted last: a ring, and where in it each stands.

use rustc_hash::FxHashMap;

/// At most `capacity` of them; all operations take constant time.
#[derive(Debug)]
pub(super) struct Ghosts {
    ring: Vec<u64>,
    /// Where the next goes.
    next: usize,
    capacity: usize,
    places: FxHashMap<u64, usize>,
}

impl Ghosts {
    pub(super) fn new(capacity: usize) -> Ghosts {
        Ghosts {
            ring: Vec::new(),
            next: 0,
            capacity,
            places: FxHashMap::default(),
        }
    }

    pub(super) fn insert(&mut self, hash: u64) {
        if self.capacity == 0 {
            return;
        }
        match self.ring.get_mut(self.next) {
            Some(slot) => {
                let oldest = std::mem::replace(slot, hash);
                // It may have been taken, or have come again since.
                if self.places.get(&oldest) == Some(&self.next) {
                    self.places.remove(&oldest);
                }
            }
            None => self.ring.push(hash),
        }
        self.places.insert(hash, self.next);
        self.next = (self.next + 1) % self.capacity;
    }

    /// Forgets `hash`; whether it was known.
    pub(super) fn take(&mut self, hash: u64) -> bool {
        self.places.remove(&hash).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_is_forgotten_and_what_came_again_is_young() {
        let mut ghosts = Ghosts::new(3);
        [1, 2, 1, 3]
            .into_iter()
            .for_each(|hash| ghosts.insert(hash));
        assert_eq!([1, 2, 3].map(|hash| ghosts.take(hash)), [true, true, true]);
        [1, 2, 1, 3, 4]
            .into_iter()
            .for_each(|hash| ghosts.insert(hash));
        assert_eq!(
            [2, 1, 3, 4].map(|hash| ghosts.take(hash)),
            [false, true, true, true]
        );
        assert!(!ghosts.take(1));
        assert!(ghosts.places.is_empty());
    }
}
