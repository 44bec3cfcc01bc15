//! Blocks between the device and slower tiers: evicted ones leave before they
//! are overwritten, and come back before a sequence that needs them runs.

use std::time::Duration;

use kvcache_index::Tier;

use crate::engine::Engine;
use crate::request::SequenceId;
use crate::sequence::State;
use crate::tier::{KvTier, TierStatus};
use crate::tiers::Next;

/// Bytes brought in between two steps while sequences run: about a millisecond
/// of copying, so that they don't notice.
const BYTES_BETWEEN_STEPS: usize = 4 << 20;

/// Blocks that came from tiers to the device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Onboarded {
    pub blocks: usize,
    pub bytes: usize,
    /// Sequences that asked a tier and got less than it had promised.
    pub cut_short: usize,
}

impl Engine {
    /// From now on evicted blocks are offered to `tier`. Of several the one that
    /// saves most time is asked for a prompt's blocks.
    pub fn add_tier(&mut self, tier: Box<dyn KvTier>) {
        self.scheduler.pool.keep_evicted();
        self.scheduler.tiers.add(tier);
    }

    /// Brings in what tiers have answered; to be called before each step.
    pub fn onboard(&mut self) -> Onboarded {
        let mut onboarded = Onboarded::default();
        for (id, fetch, blocks) in self.scheduler.tiers.answers() {
            if let Some((sequence, _)) = self.scheduler.get_mut(id)
                && let Some(onboarding) = &mut sequence.onboarding
            {
                onboarding.answer(fetch, blocks);
            }
        }
        let block_bytes = self.shape().kv.block_bytes.max(1);
        let mut room = match self.scheduler.count(State::Running) {
            0 => usize::MAX,
            _ => (BYTES_BETWEEN_STEPS / block_bytes).max(1),
        };
        for id in self.scheduler.ids(State::Onboarding) {
            self.bring(id, &mut room, &mut onboarded);
        }
        onboarded
    }

    /// How long [`Engine::onboard`] took: the engine learns what it costs.
    pub fn record_onboard(&mut self, onboarded: Onboarded, time: Duration) {
        if onboarded.blocks > 0 {
            let seconds = time.as_secs_f64() / onboarded.blocks as f64;
            self.scheduler.tiers.record_import(seconds);
        }
    }

    /// What each tier holds.
    pub fn tiers(&self) -> impl Iterator<Item = (Tier, TierStatus)> {
        self.scheduler
            .tiers
            .iter()
            .map(|tier| (tier.tier(), tier.status()))
    }

    /// Offers blocks that are about to be overwritten to the tiers.
    pub(crate) fn offload_evicted(&mut self) {
        let evicted = self.scheduler.pool.take_evicted();
        let runner = &self.runner;
        for (block, content) in evicted {
            for tier in self.scheduler.tiers.iter_mut() {
                tier.offload(content, &mut |out| runner.export_block(block, out));
            }
        }
    }

    /// Brings blocks of one sequence in, as many as there is room for. It runs
    /// as soon as it has all that come.
    fn bring(&mut self, id: SequenceId, room: &mut usize, onboarded: &mut Onboarded) {
        while let Some((sequence, pool)) = self.scheduler.get_mut(id) {
            sequence.adopt(pool);
            let block = sequence.computed / pool.block_size();
            let next = sequence.onboarding.as_ref().map(|it| it.next(block));
            match next {
                Some(Next::NotYet) => return,
                Some(Next::Block(_)) if *room == 0 => return,
                Some(Next::Block(bytes)) if self.import_next(id, &bytes) => {
                    *room -= 1;
                    onboarded.blocks += 1;
                    onboarded.bytes += bytes.len();
                }
                Some(Next::All) | None => return self.land(id),
                Some(Next::CutShort | Next::Block(_)) => {
                    onboarded.cut_short += 1;
                    return self.land(id);
                }
            }
        }
    }

    /// Fills the sequence's next block; false if the device does not take it.
    fn import_next(&mut self, id: SequenceId, bytes: &[u8]) -> bool {
        let Some((sequence, pool)) = self.scheduler.get_mut(id) else {
            return false;
        };
        let block = sequence.computed / pool.block_size();
        let imported = self.runner.import_block(sequence.blocks[block], bytes);
        if imported.is_ok() {
            sequence.cached_untold += pool.block_size();
            sequence.set_computed((block + 1) * pool.block_size(), pool);
        }
        imported.is_ok()
    }

    fn land(&mut self, id: SequenceId) {
        self.scheduler.land(id);
        self.wake();
    }
}

#[cfg(test)]
mod tests;
