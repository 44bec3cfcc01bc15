//! Tiers below device memory: blocks that the engine evicts, kept elsewhere.
//!
//! The engine's side knows which block lies in which slot and answers at once;
//! a thread of the tier's own moves bytes and checks them. Slots are told to it
//! in order, so a block that is read is the one that was written there before.
//! Nothing here waits for it: what it has no time to write is let go. A block
//! whose checksum does not hold is forgotten, and computed again.

mod background;
mod memory;
mod slots;

use std::io;
use std::sync::Arc;

use engine::Engine;
use kvcache_index::Tier;
use runtime::config::ByteSize;

use crate::metrics::TierMetrics;
pub use background::Background;
pub use memory::HostMemory;
pub use slots::Slots;

/// Wakes the engine's thread: a tier has an answer.
pub type Wake = Arc<dyn Fn() + Send + Sync>;

/// How a tier is made.
pub struct TierOptions {
    pub tier: Tier,
    /// Most bytes of blocks, those on their way to the tier counted in.
    pub memory: ByteSize,
    pub block_bytes: usize,
    pub block_size: usize,
    pub wake: Wake,
    pub metrics: TierMetrics,
}

/// Gives `engine` host memory for evicted blocks; 0 gives none.
pub fn add_host_memory(
    engine: &mut Engine,
    memory: ByteSize,
    wake: Wake,
    metrics: TierMetrics,
) -> io::Result<()> {
    let shape = engine.shape();
    if memory.0 == 0 || shape.kv.block_bytes == 0 {
        return Ok(());
    }
    let options = TierOptions {
        tier: Tier::Host,
        memory,
        block_bytes: shape.kv.block_bytes,
        block_size: shape.block_size,
        wake,
        metrics,
    };
    let tier = Background::spawn(options, HostMemory::default())?;
    engine.add_tier(Box::new(tier));
    Ok(())
}

#[cfg(test)]
mod tests;
