//! The tiers an engine has, and which of them it asks for what.

use std::collections::VecDeque;

use bytes::Bytes;
use kvcache_index::{BlockHash, KvEvent};
use rustc_hash::FxHashMap;

use crate::request::SequenceId;
use crate::tier::{Fetch, KvTier};

/// A sequence's blocks on their way from a tier.
#[derive(Debug)]
pub(crate) struct Onboarding {
    fetch: Fetch,
    /// The first block that was asked for and not taken.
    next: usize,
    /// One past the last block that was asked for.
    end: usize,
    /// From `next` on; `None` until the tier has answered.
    blocks: Option<VecDeque<Bytes>>,
}

/// What is next of an [`Onboarding`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// The tier has not answered.
    NotYet,
    Block(Bytes),
    /// All that was asked for is there.
    All,
    /// The tier gave less.
    CutShort,
}

#[derive(Default)]
pub(crate) struct Tiers {
    tiers: Vec<Box<dyn KvTier>>,
    fetches: u64,
    asked: FxHashMap<Fetch, SequenceId>,
    /// Seconds to bring a block that a tier gave to the device; 0 while unknown.
    import_seconds: f64,
}

/// Weight of the newest time in [`Tiers::import_seconds`].
const NEWEST: f64 = 0.1;

/// A prompt's blocks that are not on the device.
pub(crate) struct Missing<'a> {
    pub(crate) id: SequenceId,
    pub(crate) first_block: usize,
    pub(crate) hashes: &'a [BlockHash],
    /// To compute one block; 0 while unknown.
    pub(crate) seconds_per_block: f64,
}

impl Tiers {
    pub(crate) fn add(&mut self, tier: Box<dyn KvTier>) {
        self.tiers.push(tier);
    }

    pub(crate) fn record_import(&mut self, seconds: f64) {
        self.import_seconds = match self.import_seconds > 0.0 {
            true => self.import_seconds + (seconds - self.import_seconds) * NEWEST,
            false => seconds,
        };
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.tiers.iter().any(|tier| tier.is_ready())
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &dyn KvTier> {
        self.tiers.iter().map(AsRef::as_ref)
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Box<dyn KvTier>> {
        self.tiers.iter_mut()
    }

    pub(crate) fn drain_events(&mut self) -> Vec<KvEvent> {
        self.tiers
            .iter_mut()
            .flat_map(|tier| tier.drain_events())
            .collect()
    }

    /// Asks the tier that saves most time for what it has of `missing`; `None`
    /// if computing is not slower.
    pub(crate) fn ask(&mut self, missing: &Missing<'_>) -> Option<Onboarding> {
        let import_seconds = self.import_seconds;
        let saved = |tier: &&mut Box<dyn KvTier>| {
            let held = missing
                .hashes
                .iter()
                .take_while(|hash| tier.has(**hash))
                .count();
            // Not measured is taken to be fast, or it never would be.
            let faster = match missing.seconds_per_block > 0.0 {
                true => missing.seconds_per_block - tier.seconds_per_block() - import_seconds,
                false => 1.0,
            };
            (held, held as f64 * faster)
        };
        let offers = self.tiers.iter_mut().map(|tier| (saved(&tier), tier));
        let ((held, seconds), tier) = offers.max_by(|a, b| a.0.1.total_cmp(&b.0.1))?;
        if seconds <= 0.0 {
            return None;
        }
        let fetch = Fetch(self.fetches);
        self.fetches += 1;
        self.asked.insert(fetch, missing.id);
        tier.fetch(fetch, &missing.hashes[..held]);
        Some(Onboarding {
            fetch,
            next: missing.first_block,
            end: missing.first_block + held,
            blocks: None,
        })
    }

    /// Answers that are there, and whose they are.
    pub(crate) fn answers(&mut self) -> Vec<(SequenceId, Fetch, Vec<Bytes>)> {
        let mut answers = Vec::new();
        for tier in &mut self.tiers {
            while let Some(fetched) = tier.poll() {
                if let Some(id) = self.asked.remove(&fetched.fetch) {
                    answers.push((id, fetched.fetch, fetched.blocks));
                }
            }
        }
        answers
    }
}

impl Onboarding {
    /// Takes an answer, if it is to this question.
    pub(crate) fn answer(&mut self, fetch: Fetch, blocks: Vec<Bytes>) {
        if self.fetch == fetch {
            self.blocks = Some(blocks.into());
        }
    }

    /// What is due once the sequence has `block`s.
    pub(crate) fn next(&self, block: usize) -> Next {
        let Some(blocks) = &self.blocks else {
            return Next::NotYet;
        };
        match blocks.get(block - self.next) {
            _ if block >= self.end => Next::All,
            Some(bytes) => Next::Block(bytes.clone()),
            None => Next::CutShort,
        }
    }
}
