//! What only a simulation knows of a cluster.

use serde::{Deserialize, Serialize};

use super::bound::Bound;
use super::policy::SimPolicy;
use super::world::World;
use crate::figures::Figures;

/// Beside the figures of a run: how well the cluster was used.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ClusterFigures {
    pub policy: String,
    /// Share of prompt tokens whose KV was there, 0 to 1.
    pub hit_rate: f64,
    /// `None`: there were too many blocks to follow.
    pub bound: Option<Bound>,
    /// Prompt tokens computed by the busiest worker of those that compute
    /// prompts, over their mean.
    pub prefill_imbalance: f64,
    /// Tokens generated on the busiest worker of those that decode, over their
    /// mean.
    pub decode_imbalance: f64,
    /// Share of the time in which workers computed, 0 to 1: of all, and of the
    /// busiest.
    pub utilisation: f64,
    pub utilisation_of_busiest: f64,
    /// Share of requests whose prompt another worker computed, 0 to 1.
    pub split: f64,
    /// Requests that were placed again after a worker failed.
    pub replaced: u64,
    /// Sequences that had to yield their blocks.
    pub preempted: u64,
}

impl ClusterFigures {
    pub(super) fn of(world: &World<'_>, policy: SimPolicy) -> ClusterFigures {
        let lasted = world.now.as_secs_f64().max(f64::MIN_POSITIVE);
        let counts: Vec<_> = world.workers.iter().map(|it| it.counts).collect();
        let busy: Vec<f64> = counts
            .iter()
            .map(|it| it.busy.as_secs_f64() / lasted)
            .collect();
        let prefill = counts.iter().map(|it| it.prefill_tokens as f64);
        let decode = counts.iter().map(|it| it.decode_tokens as f64);
        let placed = world.counts.placed.max(1) as f64;
        ClusterFigures {
            policy: policy.to_string(),
            hit_rate: 0.0,
            bound: world.bound.bound(),
            prefill_imbalance: rounded(imbalance(prefill)),
            decode_imbalance: rounded(imbalance(decode)),
            utilisation: rounded(busy.iter().sum::<f64>() / busy.len().max(1) as f64),
            utilisation_of_busiest: rounded(busy.iter().copied().fold(0.0, f64::max)),
            split: rounded(world.counts.split as f64 / placed),
            replaced: world.counts.replaced,
            preempted: counts.iter().map(|it| it.preempted).sum(),
        }
    }

    pub(super) fn with_hits(self, figures: &Figures) -> ClusterFigures {
        let hit_rate = figures.cached.map_or(0.0, |it| it.share);
        ClusterFigures { hit_rate, ..self }
    }
}

/// The greatest over the mean, of those that did any; 0 if none did.
fn imbalance(shares: impl Iterator<Item = f64>) -> f64 {
    let shares: Vec<f64> = shares.filter(|it| *it > 0.0).collect();
    let sum: f64 = shares.iter().sum();
    match shares.is_empty() {
        true => 0.0,
        false => shares.iter().copied().fold(0.0, f64::max) * shares.len() as f64 / sum,
    }
}

/// Short decimals survive JSON unchanged.
fn rounded(value: f64) -> f64 {
    (value * 1e4).round() / 1e4
}
