//! Tokens of text pieces encoded before, so that a growing conversation is not
//! encoded again from its start. Bounded in bytes; what was not used for one
//! generation goes.

use std::mem;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustc_hash::FxHashMap;

/// What an entry costs besides its tokens: key, pointers, table slack.
const ENTRY_BYTES: usize = 96;

/// Identity of a piece of text under one tokenizer. Cryptographic: equal keys
/// decide whose tokens a client gets.
pub(super) type Key = [u8; 16];

/// Shared by all models of a router.
#[derive(Debug)]
pub(super) struct PieceCache {
    max_bytes: usize,
    generations: Mutex<Generations>,
    hits: AtomicU64,
    misses: AtomicU64,
}

#[derive(Debug, Default)]
struct Generations {
    young: FxHashMap<Key, Arc<[u32]>>,
    old: FxHashMap<Key, Arc<[u32]>>,
    /// Of `young` alone; `old` never grows.
    young_bytes: usize,
}

/// Pieces found and not found since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheStats {
    pub hits: u64,
    pub misses: u64,
}

impl PieceCache {
    pub(super) fn new(max_bytes: usize) -> PieceCache {
        PieceCache {
            max_bytes,
            generations: Mutex::default(),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
        }
    }

    pub(super) fn get(&self, key: &Key) -> Option<Arc<[u32]>> {
        let found = self.lock(|generations| match generations.young.get(key) {
            Some(tokens) => Some(Arc::clone(tokens)),
            None => {
                let tokens = generations.old.remove(key)?;
                self.add(generations, *key, Arc::clone(&tokens));
                Some(tokens)
            }
        });
        let counter = if found.is_some() {
            &self.hits
        } else {
            &self.misses
        };
        counter.fetch_add(1, Ordering::Relaxed);
        found
    }

    pub(super) fn insert(&self, key: Key, tokens: Arc<[u32]>) {
        if cost(&tokens) <= self.max_bytes / 2 {
            self.lock(|generations| self.add(generations, key, tokens));
        }
    }

    pub(super) fn stats(&self) -> CacheStats {
        CacheStats {
            hits: self.hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
        }
    }

    /// Each generation holds at most half of the budget.
    fn add(&self, generations: &mut Generations, key: Key, tokens: Arc<[u32]>) {
        let bytes = cost(&tokens);
        if generations.young_bytes + bytes > self.max_bytes / 2 {
            generations.old = mem::take(&mut generations.young);
            generations.young_bytes = 0;
        }
        if generations.young.insert(key, tokens).is_none() {
            generations.young_bytes += bytes;
        }
    }

    fn lock<T>(&self, work: impl FnOnce(&mut Generations) -> T) -> T {
        // Each step leaves the maps whole, so a poisoned lock is still good.
        work(
            &mut self
                .generations
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }
}

fn cost(tokens: &[u32]) -> usize {
    mem::size_of_val(tokens) + ENTRY_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u32) -> Key {
        let mut key = Key::default();
        key[..4].copy_from_slice(&number.to_le_bytes());
        key
    }

    fn bytes(cache: &PieceCache) -> usize {
        cache.lock(|generations| {
            let maps = [&generations.young, &generations.old];
            maps.iter()
                .flat_map(|map| map.values())
                .map(|tokens| cost(tokens))
                .sum()
        })
    }

    #[test]
    fn stays_within_its_budget_and_keeps_what_is_used() {
        let cache = PieceCache::new(10_000);
        cache.insert(key(0), Arc::from([7; 10]));
        for number in 1..1000 {
            cache.insert(key(number), Arc::from([number; 10]));
            assert_eq!(cache.get(&key(0)).as_deref(), Some(&[7; 10][..]));
            assert!(bytes(&cache) <= 10_000);
        }
        assert_eq!(cache.get(&key(1)), None);
        assert_eq!(
            cache.stats(),
            CacheStats {
                hits: 999,
                misses: 1
            }
        );
    }

    #[test]
    fn oversized_piece_does_not_empty_the_cache() {
        let cache = PieceCache::new(1000);
        cache.insert(key(1), Arc::from([1]));
        cache.insert(key(2), Arc::from([2; 1000]));
        assert!(cache.get(&key(1)).is_some());
        assert!(cache.get(&key(2)).is_none());
    }
}
