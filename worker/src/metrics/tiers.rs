//! Metrics of a tier below device memory, and of blocks that move to and from it.

use std::time::Duration;

use engine::TierStatus;
use kvcache_index::Tier;
use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

/// Handles of one tier.
#[derive(Clone)]
pub struct TierMetrics {
    blocks_total: Gauge,
    blocks_cached: Gauge,
    hits: Counter,
    offload: Direction,
    onboard: Direction,
    let_go: Counter,
    damaged: Counter,
}

#[derive(Clone)]
struct Direction {
    blocks: Counter,
    bytes: Counter,
    seconds: Histogram,
}

impl TierMetrics {
    pub(super) fn new(tier: Tier) -> TierMetrics {
        describe();
        let tier = label(tier);
        TierMetrics {
            blocks_total: gauge!("kvasir_kv_tier_blocks_total", "tier" => tier),
            blocks_cached: gauge!("kvasir_kv_tier_blocks_cached", "tier" => tier),
            hits: hits(tier),
            offload: Direction::new(tier, "offload"),
            onboard: Direction::new(tier, "onboard"),
            let_go: counter!("kvasir_kv_tier_let_go_total", "tier" => tier),
            damaged: counter!("kvasir_kv_tier_damaged_total", "tier" => tier),
        }
    }

    pub fn set_blocks(&self, status: TierStatus) {
        self.blocks_total.set(status.total_blocks as f64);
        self.blocks_cached.set(status.cached_blocks as f64);
    }

    /// A block was copied from the device in `time`, on the engine's thread.
    pub fn record_offload(&self, bytes: usize, time: Duration) {
        self.offload.record(1, bytes, time);
    }

    /// Blocks for a prompt were read and checked in `time`, on the tier's
    /// thread.
    pub fn record_onboard(&self, blocks: usize, bytes: usize, time: Duration) {
        self.onboard.record(blocks, bytes, time);
    }

    /// So many prompt tokens came from here.
    pub fn count_hits(&self, tokens: usize) {
        self.hits.increment(tokens as u64);
    }

    /// An evicted block was not kept.
    pub fn count_let_go(&self) {
        self.let_go.increment(1);
    }

    /// A kept block was not what it had been.
    pub fn count_damaged(&self) {
        self.damaged.increment(1);
    }
}

impl Direction {
    fn new(tier: &'static str, direction: &'static str) -> Direction {
        Direction {
            blocks: counter!("kvasir_kv_tier_moved_blocks_total", "tier" => tier, "direction" => direction),
            bytes: counter!("kvasir_kv_tier_moved_bytes_total", "tier" => tier, "direction" => direction),
            seconds: histogram!("kvasir_kv_tier_move_seconds", "tier" => tier, "direction" => direction),
        }
    }

    fn record(&self, blocks: usize, bytes: usize, time: Duration) {
        self.blocks.increment(blocks as u64);
        self.bytes.increment(bytes as u64);
        self.seconds.record(time.as_secs_f64());
    }
}

/// Prompt tokens found in the device's own blocks, or in a tier's.
pub(super) fn hits(tier: &'static str) -> Counter {
    counter!("kvasir_prefix_hit_tokens_total", "tier" => tier)
}

fn label(tier: Tier) -> &'static str {
    match tier {
        Tier::Device => "device",
        Tier::Host => "host",
        Tier::Disk => "disk",
        Tier::Shared => "shared",
    }
}

fn describe() {
    metrics::describe_counter!(
        "kvasir_prefix_hit_tokens_total",
        "Prompt tokens that need not be computed, by the tier their KV was in."
    );
    metrics::describe_gauge!(
        "kvasir_kv_tier_blocks_total",
        "KV blocks the tier has room for."
    );
    metrics::describe_gauge!("kvasir_kv_tier_blocks_cached", "KV blocks in the tier.");
    metrics::describe_counter!(
        "kvasir_kv_tier_moved_blocks_total",
        "KV blocks that evictions brought to the tier, or prompts from it."
    );
    metrics::describe_counter!("kvasir_kv_tier_moved_bytes_total", "Their bytes.");
    metrics::describe_histogram!(
        "kvasir_kv_tier_move_seconds",
        "Offload: the engine's time to copy one block. Onboard: the tier's time to read a prompt's blocks."
    );
    metrics::describe_counter!(
        "kvasir_kv_tier_let_go_total",
        "Evicted KV blocks that were not kept, as the tier was behind or full."
    );
    metrics::describe_counter!(
        "kvasir_kv_tier_damaged_total",
        "Kept KV blocks whose checksum was wrong or that could not be read; they were computed again."
    );
}
