//! Simulated KV: for each position of each block, a number that chains over the
//! tokens up to it; 0 where nothing was computed.

use rustc_hash::FxHashSet;

use crate::runner::{BlockId, Chunk, RunError};
use crate::sim::{KvCheck, fault};

#[derive(Debug)]
pub(super) struct KvStore {
    block_size: usize,
    values: Vec<u64>,
    /// Blocks written in the step: two sequences that write one block at a time
    /// are a fault, whatever they write.
    written: FxHashSet<BlockId>,
}

impl KvStore {
    pub(super) fn new(total_blocks: usize, block_size: usize) -> KvStore {
        KvStore {
            block_size,
            values: vec![0; total_blocks * block_size],
            written: FxHashSet::default(),
        }
    }

    pub(super) fn begin_step(&mut self) {
        self.written.clear();
    }

    pub(super) fn block(&self, block: BlockId) -> Result<&[u64], RunError> {
        let start = block.0 as usize * self.block_size;
        match self.values.get(start..start + self.block_size) {
            Some(values) if values[0] != 0 => Ok(values),
            _ => Err(RunError(format!("kv block {} holds nothing", block.0))),
        }
    }

    pub(super) fn block_mut(&mut self, block: BlockId) -> Result<&mut [u64], RunError> {
        let start = block.0 as usize * self.block_size;
        self.values
            .get_mut(start..start + self.block_size)
            .ok_or_else(|| RunError(format!("there is no kv block {}", block.0)))
    }

    /// The KV of the position before `end`.
    pub(super) fn before(&self, blocks: &[BlockId], end: usize) -> Result<u64, RunError> {
        match end.checked_sub(1) {
            None => Ok(START),
            Some(last) => {
                let block = self.block(blocks[last / self.block_size])?;
                Ok(block[last % self.block_size])
            }
        }
    }

    /// Compares the KV before the chunk with the sequence's tokens.
    pub(super) fn check(&self, chunk: &Chunk<'_>, check: KvCheck) -> Result<(), RunError> {
        let from = match check {
            KvCheck::Last => chunk.start.saturating_sub(1),
            KvCheck::Every => 0,
            KvCheck::Off => return Ok(()),
        };
        let mut chain = self.before(chunk.blocks, from)?;
        for position in from..chunk.start {
            chain = follow(chain, chunk.tokens[position]);
            if self.before(chunk.blocks, position + 1)? != chain {
                return Err(fault(chunk, &format!("has wrong kv at token {position}")));
            }
        }
        Ok(())
    }

    /// Writes the chunk's KV.
    pub(super) fn compute(&mut self, chunk: &Chunk<'_>) -> Result<(), RunError> {
        let mut chain = self.before(chunk.blocks, chunk.start)?;
        let first = chunk.start / self.block_size;
        let last = (chunk.end - 1) / self.block_size;
        for (index, &block) in chunk.blocks.iter().enumerate().take(last + 1).skip(first) {
            if !self.written.insert(block) {
                return Err(fault(chunk, "writes a block that another one writes"));
            }
            let base = index * self.block_size;
            let begin = chunk.start.max(base) - base;
            let end = chunk.end.min(base + self.block_size) - base;
            let values = self.block_mut(block)?;
            for (value, &token) in values[begin..end]
                .iter_mut()
                .zip(&chunk.tokens[base + begin..])
            {
                chain = follow(chain, token);
                *value = chain;
            }
            // What the block held before must not pass for this sequence's.
            values[end..].fill(0);
        }
        Ok(())
    }
}

/// What the first token chains on.
const START: u64 = 1;

/// KV of `token` after the position with KV `before`; never 0.
pub(super) fn follow(before: u64, token: u32) -> u64 {
    mix(before ^ mix(u64::from(token) + 1)).max(1)
}

/// SplitMix64's output function.
pub(super) fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
