//! Counter-based randomness: noise is a function of what it is for.
//!
//! SplitMix64's output function (Steele, Lea, Flood 2014) over a counter:
//! `mix(mix(mix(seed) + index * GAMMA) + (token + 1) * GAMMA)`.

use std::f64::consts::LN_2;

const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

/// The noise of one draw.
#[derive(Clone, Copy, Debug)]
pub(super) struct Noise {
    key: u64,
}

impl Noise {
    /// Of token number `index` under `seed`.
    pub(super) fn new(seed: u64, index: usize) -> Noise {
        Noise {
            key: mix(mix(seed).wrapping_add((index as u64).wrapping_mul(GAMMA))),
        }
    }

    /// Draws a token with probability proportional to `exp(score)` (the
    /// Gumbel-max trick). Scores of negative infinity are impossible.
    pub(super) fn pick(&self, scores: impl Iterator<Item = (u32, f64)>) -> Option<u32> {
        let mut best = (f64::NEG_INFINITY, None);
        for (token, score) in scores {
            let bits = self.bits(token);
            // The logarithms are only worth taking for the few that can win.
            if score + gumbel_bound(bits) <= best.0 {
                continue;
            }
            let noisy = score + gumbel(bits);
            if noisy > best.0 {
                best = (noisy, Some(token));
            }
        }
        best.1
    }

    fn bits(&self, token: u32) -> u64 {
        mix(self
            .key
            .wrapping_add((u64::from(token) + 1).wrapping_mul(GAMMA)))
    }
}

/// Standard Gumbel noise from uniform bits: `-ln(-ln(1 - w))`, `w` in (0, 1).
fn gumbel(bits: u64) -> f64 {
    // 52 bits: one more and the largest `w` would round to 1.
    let w = ((bits >> 12) as f64 + 0.5) * (0.5f64).powi(52);
    -(-(-w).ln_1p()).ln()
}

/// Never less than [`gumbel`]: with `z` leading zeros `w >= 2^-(z + 2)`, and
/// `-ln(1 - w) >= w`.
fn gumbel_bound(bits: u64) -> f64 {
    f64::from(bits.leading_zeros() + 2) * LN_2
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_holds() {
        let edges = (0..64).flat_map(|shift| [1u64 << shift, (1 << shift) - 1, u64::MAX >> shift]);
        let random = (0..100_000u64).map(|i| mix(i.wrapping_mul(GAMMA)));
        for bits in edges.chain(random) {
            assert!(gumbel(bits) <= gumbel_bound(bits), "{bits:#x}");
            assert!(gumbel(bits).is_finite(), "{bits:#x}");
        }
    }

    #[test]
    fn seeds_indices_and_tokens_give_noise_of_their_own() {
        let draws = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (GAMMA, 0, 0)];
        let bits: std::collections::HashSet<u64> = draws
            .iter()
            .map(|&(seed, index, token)| Noise::new(seed, index).bits(token))
            .collect();
        assert_eq!(bits.len(), draws.len());
    }
}
