//! Slower places for blocks that the device evicts: host memory, and what else
//! implements [`KvTier`].
//!
//! Calls never wait: a tier does its work on a thread of its own. What it gives
//! back is what it was given, or nothing: it checks. The engine asks a tier
//! only where bringing blocks takes less time than computing them.

use bytes::Bytes;
use kvcache_index::{BlockHash, KvEvent, Tier};

use crate::block_pool::Content;
use crate::runner::RunError;

/// Blocks that were asked for at one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fetch(pub u64);

/// The answer to a [`Fetch`].
#[derive(Clone, Debug)]
pub struct Fetched {
    pub fetch: Fetch,
    /// In wire form, from the first that was asked for; fewer than were asked
    /// for if one is damaged or gone.
    pub blocks: Vec<Bytes>,
}

/// Reads a block's wire form from the device.
pub type ReadBlock<'a> = &'a mut dyn FnMut(&mut Vec<u8>) -> Result<(), RunError>;

/// What a tier holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TierStatus {
    pub total_blocks: usize,
    pub cached_blocks: usize,
}

/// Keeps copies of blocks.
pub trait KvTier: Send {
    /// Which one it is, as events say it.
    fn tier(&self) -> Tier;

    /// Whether it has the block.
    fn has(&self, hash: BlockHash) -> bool;

    /// The device evicts a block. A tier that has it counts that as a use; one
    /// that wants it calls `read` before it returns; one that is behind with
    /// its work, or can't read it, lets it go.
    fn offload(&mut self, content: Content, read: ReadBlock<'_>);

    /// Asks for blocks in a row, which it has.
    fn fetch(&mut self, fetch: Fetch, hashes: &[BlockHash]);

    /// Whether [`KvTier::poll`] has something to give.
    fn is_ready(&self) -> bool;

    /// Takes an answer, in the order of questions.
    fn poll(&mut self) -> Option<Fetched>;

    /// Time to bring one block, measured; 0 while unknown.
    fn seconds_per_block(&self) -> f64;

    /// Takes the changes of what it has since the last call, in order.
    fn drain_events(&mut self) -> Vec<KvEvent>;

    fn status(&self) -> TierStatus;
}
