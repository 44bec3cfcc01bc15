//! How many sequences more workers could begin soon: what is beyond that is
//! better kept in the router, until it is known which worker is free first.
//!
//! Kept up to date by each change of a worker, so that asking for it costs
//! nothing.

use crate::plan::Load;

/// Prompt work that a worker may have waiting, in milliseconds. Less would leave
/// a policy too little choice, and the worker too little to do when it finishes.
const BACKLOG_MS: f64 = 1500.0;
/// Assumed of a token on a worker that has reported no rate.
const UNKNOWN_PREFILL_MS: f64 = 0.1;

#[derive(Debug, Default)]
pub(super) struct Room {
    /// Sum over the workers that take work.
    total: usize,
    takers: usize,
    /// Tokens to be computed of a sequence: a mean in which the last hundred or
    /// so count.
    mean_uncached: f64,
    /// Of the last sequence placed; 0 before.
    block_size: f64,
}

impl Room {
    /// `None` without a worker that takes work.
    pub(super) fn total(&self) -> Option<usize> {
        (self.takers > 0).then_some(self.total)
    }

    /// Sequences that a worker with `load` could begin soon.
    pub(super) fn on(&self, load: &Load) -> usize {
        let token_ms = match load.prefill_ms {
            0.0 => UNKNOWN_PREFILL_MS,
            known => known,
        };
        let spare = BACKLOG_MS / token_ms - f64::from(load.queued_tokens);
        if spare <= 0.0 {
            return 0;
        }
        let each = self.mean_uncached.max(1.0);
        let by_time = 1.0 + spare / each;
        let by_memory = match load.total_blocks {
            // It has not reported yet.
            0 => f64::INFINITY,
            _ => f64::from(load.free_blocks) * self.block_size.max(1.0) / each,
        };
        let idle = usize::from(load.sequences == 0);
        (by_time.min(by_memory) as usize).max(idle)
    }

    /// A worker's room changed; `None`: it takes no work.
    pub(super) fn change(&mut self, before: Option<usize>, after: Option<usize>) {
        self.total = self.total - before.unwrap_or(0) + after.unwrap_or(0);
        self.takers = self.takers - usize::from(before.is_some()) + usize::from(after.is_some());
    }

    /// A sequence was placed.
    pub(super) fn placed(&mut self, uncached: usize, block_size: usize) {
        self.mean_uncached += (uncached as f64 - self.mean_uncached) / 100.0;
        self.block_size = block_size as f64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOAD: Load = Load {
        queued_tokens: 0,
        sequences: 3,
        waiting: 0,
        free_blocks: 1000,
        total_blocks: 2000,
        prefill_ms: 0.1,
        drain_ms: 0.0,
        step_ms: 10.0,
        inter_token_ms: 0.0,
    };

    fn room() -> Room {
        let mut room = Room::default();
        for _ in 0..2000 {
            room.placed(1000, 16);
        }
        room
    }

    #[test]
    fn is_as_much_as_a_worker_computes_in_a_while_and_has_memory_for() {
        let queued = |queued_tokens| Load {
            queued_tokens,
            ..LOAD
        };
        let free = |free_blocks| Load {
            free_blocks,
            ..LOAD
        };
        let table = [
            (LOAD, 16),
            (queued(14_000), 2),
            (queued(15_000), 0),
            (free(130), 2),
            (free(0), 0),
        ];
        for (load, expected) in table {
            assert_eq!(room().on(&load), expected, "{load:?}");
        }
    }

    #[test]
    fn an_idle_worker_and_one_not_known_yet_have_room() {
        let idle = Load {
            sequences: 0,
            free_blocks: 0,
            ..LOAD
        };
        assert_eq!(room().on(&idle), 1);
        assert!(Room::default().on(&Load::default()) > 100);
    }

    #[test]
    fn is_the_sum_over_those_that_take_work() {
        let mut room = room();
        assert_eq!(room.total(), None);
        room.change(None, Some(3));
        room.change(None, Some(0));
        assert_eq!(room.total(), Some(3));
        room.change(Some(3), Some(1));
        room.change(Some(0), None);
        assert_eq!(room.total(), Some(1));
        room.change(Some(1), None);
        assert_eq!(room.total(), None);
    }
}
