//! Consistent hashing with bounded loads: a session, or a prompt's beginning,
//! stays on one worker as long as that one is not overloaded.
//!
//! Rendezvous hashing (Thaler and Ravishankar 1998) gives each key an order of
//! all workers; the first of them below the bound takes it (Mirrokni, Thorup
//! and Zadimoghaddam 2018).

use super::{Policy, place_each};
use crate::plan::{Ask, Candidate, Choice};

/// Load of a worker at most, as a multiple of the mean.
const BOUND: f64 = 1.25;
/// Blocks of a prompt's beginning that make its key: past a short system prompt
/// that everybody shares, within what a conversation keeps.
const KEY_BLOCKS: usize = 16;

#[derive(Debug)]
pub(super) struct ConsistentHash;

impl Policy for ConsistentHash {
    fn place(&mut self, ask: &Ask<'_>, candidates: &[Candidate]) -> Option<Choice> {
        let beginning = ask.hashes.iter().take(KEY_BLOCKS).next_back();
        let key = ask.session.or(beginning.copied()).unwrap_or(ask.random);
        place_each(ask, candidates, |of| {
            let load = |at: &usize| f64::from(candidates[*at].load.sequences);
            let mean = (of.iter().map(load).sum::<f64>() + 1.0) / of.len().max(1) as f64;
            let rank = |at: &usize| mix(key ^ mix(u64::from(candidates[*at].worker.0) + 1));
            of.iter()
                .filter(|at| load(at) + 1.0 <= (BOUND * mean).ceil())
                .max_by_key(|at| rank(at))
                .or_else(|| of.iter().max_by_key(|at| rank(at)))
                .copied()
        })
    }
}

/// SplitMix64's output function.
fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
