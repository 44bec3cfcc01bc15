//! Randomness by name: every request, block and conversation has numbers of its
//! own, so that the order in which they are made changes nothing.

use rand::SeedableRng;
use rand::rngs::StdRng;

/// What random numbers are for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Use {
    /// Tokens of a trace's block, by its hash id.
    Block = 1,
    /// Tokens that the requests of a group share.
    Prefix,
    /// Tokens of a request's own.
    Rest,
    /// Lengths, groups and times of a request or conversation.
    Shape,
    /// How many turns of a recorded conversation are sent.
    Turns,
    /// Words that repair a text of a wrong length.
    Repair,
    /// Whose request or conversation it is.
    Tenant,
    Priority,
}

/// A seed for one use; `number` says for which block, request or conversation.
pub(super) fn derive(seed: u64, usage: Use, number: u64) -> u64 {
    let named = scramble(seed ^ (usage as u64).wrapping_mul(GOLDEN));
    scramble(named.wrapping_add(number.wrapping_mul(GOLDEN)))
}

pub(super) fn rng(seed: u64, usage: Use, number: u64) -> StdRng {
    StdRng::seed_from_u64(derive(seed, usage, number))
}

/// Random numbers fast enough for every token of a long prompt, and the same
/// in every version: SplitMix64 (Steele, Lea, Flood 2014).
#[derive(Clone, Debug)]
pub(super) struct Stream(u64);

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

impl Stream {
    pub fn new(seed: u64) -> Stream {
        Stream(seed)
    }

    /// Uniform below `end`, which is above 0.
    pub fn below(&mut self, end: u32) -> u32 {
        self.0 = self.0.wrapping_add(GOLDEN);
        let high = scramble(self.0) >> 32;
        // Below `end`, as both factors are below 2^32.
        ((high * u64::from(end)) >> 32) as u32
    }
}

fn scramble(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_use_and_number_has_a_seed_of_its_own() {
        let uses = [
            Use::Block,
            Use::Prefix,
            Use::Rest,
            Use::Shape,
            Use::Turns,
            Use::Repair,
            Use::Tenant,
            Use::Priority,
        ];
        let seeds: std::collections::BTreeSet<u64> = uses
            .iter()
            .flat_map(|usage| (0..1000).map(|number| derive(7, *usage, number)))
            .chain((0..1000).map(|number| derive(8, Use::Block, number)))
            .collect();
        assert_eq!(seeds.len(), 9000);
    }

    #[test]
    fn stream_is_uniform() {
        let mut stream = Stream::new(1);
        let mut counts = [0u32; 10];
        for _ in 0..100_000 {
            counts[stream.below(10) as usize] += 1;
        }
        assert!(
            counts.iter().all(|it| (9_500..10_500).contains(it)),
            "{counts:?}"
        );
    }
}
