//! The worker's KV events of this epoch: numbered, kept for a while, summed up.
//!
//! Subscribers read at their own pace by number. Who asks for events that are
//! no longer kept takes a [`Snapshot`] and goes on from its number. Memory is
//! bounded by the capacity and the number of blocks. Pure.

use std::collections::{BTreeMap, VecDeque};

use kvcache_index::{KvEvent, Tier};
use rustc_hash::{FxHashMap, FxHashSet};

/// Longest list of hashes in one event, so that messages stay small.
const HASHES_PER_EVENT: usize = 8 * 1024;

/// Events by number, and the set of blocks they add up to.
#[derive(Debug)]
pub struct EventLog {
    epoch: u64,
    /// Number of the newest event; the first is 1.
    last_seq: u64,
    /// The newest events, ending with `last_seq`.
    kept: VecDeque<KvEvent>,
    /// Sum of the weights of `kept`.
    weight: usize,
    capacity: usize,
    stored: BTreeMap<Tier, Parents>,
}

/// Every stored block and its parent.
type Parents = FxHashMap<u64, u64>;

/// An event and its number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Numbered {
    pub seq: u64,
    pub event: KvEvent,
}

/// All blocks stored after event `seq`.
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub seq: u64,
    stored: BTreeMap<Tier, Parents>,
}

/// Blocks that follow each other; the first follows `parent` (0: none).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    pub tier: Tier,
    pub parent: u64,
    pub hashes: Vec<u64>,
}

impl EventLog {
    /// Keeps events that together name at most about `capacity` blocks.
    pub fn new(epoch: u64, capacity: usize) -> EventLog {
        EventLog {
            epoch,
            last_seq: 0,
            kept: VecDeque::new(),
            weight: 0,
            capacity,
            stored: BTreeMap::new(),
        }
    }

    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    pub fn last_seq(&self) -> u64 {
        self.last_seq
    }

    /// Numbers and keeps an event; a long one becomes several.
    pub fn append(&mut self, event: KvEvent) {
        match event {
            KvEvent::Stored {
                mut parent,
                hashes,
                tier,
            } => {
                for part in hashes.chunks(HASHES_PER_EVENT) {
                    self.push(KvEvent::Stored {
                        parent,
                        hashes: part.to_vec(),
                        tier,
                    });
                    parent = part.last().copied().unwrap_or(parent);
                }
            }
            KvEvent::Removed { hashes, tier } => {
                for part in hashes.chunks(HASHES_PER_EVENT) {
                    self.push(KvEvent::Removed {
                        hashes: part.to_vec(),
                        tier,
                    });
                }
            }
            KvEvent::Cleared => self.push(KvEvent::Cleared),
        }
    }

    /// At most `limit` events that follow event `seq`; `None` if the first of
    /// them is no longer kept, or `seq` is not a number of this epoch.
    pub fn after(&self, seq: u64, limit: usize) -> Option<Vec<Numbered>> {
        let behind = usize::try_from(self.last_seq.checked_sub(seq)?).ok()?;
        let skipped = self.kept.len().checked_sub(behind)?;
        let events = self.kept.iter().skip(skipped).take(limit);
        let numbered = events.zip(seq + 1..).map(|(event, seq)| Numbered {
            seq,
            event: event.clone(),
        });
        Some(numbered.collect())
    }

    /// What all events up to now add up to.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            seq: self.last_seq,
            stored: self.stored.clone(),
        }
    }

    fn push(&mut self, event: KvEvent) {
        match &event {
            KvEvent::Stored {
                parent,
                hashes,
                tier,
            } => {
                let parents = std::iter::once(parent).chain(hashes);
                let stored = self.stored.entry(*tier).or_default();
                stored.extend(hashes.iter().copied().zip(parents.copied()));
            }
            KvEvent::Removed { hashes, tier } => {
                let stored = self.stored.entry(*tier).or_default();
                for hash in hashes {
                    stored.remove(hash);
                }
            }
            KvEvent::Cleared => self.stored.clear(),
        }
        self.last_seq += 1;
        self.weight += weight(&event);
        self.kept.push_back(event);
        while self.weight > self.capacity
            && let Some(oldest) = self.kept.pop_front()
        {
            self.weight -= weight(&oldest);
        }
    }
}

/// What an event costs to keep, in hashes.
fn weight(event: &KvEvent) -> usize {
    match event {
        KvEvent::Stored { hashes, .. } | KvEvent::Removed { hashes, .. } => hashes.len() + 4,
        KvEvent::Cleared => 4,
    }
}

impl Snapshot {
    /// The blocks in runs, parents before children, cut into parts of about
    /// `hashes_per_part`; at least one part.
    pub fn into_parts(self, hashes_per_part: usize) -> Vec<Vec<Run>> {
        let mut parts = vec![Vec::new()];
        let mut room = hashes_per_part;
        for run in self.into_runs() {
            let tier = run.tier;
            let mut parent = run.parent;
            let mut rest = run.hashes.as_slice();
            while !rest.is_empty() {
                if room == 0 {
                    parts.push(Vec::new());
                    room = hashes_per_part;
                }
                let (now, later) = rest.split_at(rest.len().min(room));
                if let Some(part) = parts.last_mut() {
                    part.push(Run {
                        tier,
                        parent,
                        hashes: now.to_vec(),
                    });
                }
                room -= now.len();
                parent = now.last().copied().unwrap_or(parent);
                rest = later;
            }
        }
        parts
    }

    fn into_runs(self) -> Vec<Run> {
        let stored = self.stored.iter();
        stored
            .flat_map(|(tier, stored)| runs(*tier, stored))
            .collect()
    }
}

/// Every block is in exactly one run: a run goes on with a block's first
/// child, and each other child starts its own.
fn runs(tier: Tier, stored: &Parents) -> Vec<Run> {
    let mut children: FxHashMap<u64, Vec<u64>> = FxHashMap::default();
    for (&hash, &parent) in stored {
        children.entry(parent).or_default().push(hash);
    }
    let mut starts: Vec<(u64, u64)> = stored
        .iter()
        .filter(|(_, parent)| !stored.contains_key(parent))
        .map(|(&hash, &parent)| (parent, hash))
        .collect();
    let mut seen = FxHashSet::default();
    let mut runs = Vec::new();
    while let Some((parent, first)) = starts.pop() {
        let mut hashes = Vec::new();
        let mut next = Some(first);
        while let Some(hash) = next.take() {
            // Hashes cut to 64 bits may collide into a ring.
            if !seen.insert(hash) {
                break;
            }
            hashes.push(hash);
            let mut followers = children.get(&hash).into_iter().flatten().copied();
            next = followers.next();
            starts.extend(followers.map(|child| (hash, child)));
        }
        runs.push(Run {
            tier,
            parent,
            hashes,
        });
    }
    runs
}

#[cfg(test)]
mod tests;
