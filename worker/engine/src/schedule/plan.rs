//! What one step computes, and how it comes together.

use std::time::Duration;

use kvcache_index::BlockHash;
use rustc_hash::FxHashSet;

use crate::block_pool::BlockPool;
use crate::request::{KvSource, Output, SequenceId};
use crate::runner::BlockId;
use crate::sequence::Sequence;

/// What one step computes.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub(crate) chunks: Vec<PlannedChunk>,
    /// To be done before any chunk is computed.
    pub(crate) copies: Vec<BlockCopy>,
    /// What admission has to tell.
    pub(crate) outputs: Vec<Output>,
    pub(crate) prefill_tokens: usize,
    pub(crate) decode_tokens: usize,
    pub(crate) preempted: usize,
    /// Of sequences let in: what they need not compute.
    pub(crate) cached_tokens: usize,
    /// Sequences that were not let in.
    pub(crate) left_waiting: usize,
    /// How long the first in the queue has waited.
    pub(crate) longest_wait: Duration,
    /// Tokens that still fit.
    pub(super) budget: usize,
    /// Blocks, and ends of prompts, that sequences compute next: who would
    /// compute one of them too waits for it.
    computing: FxHashSet<BlockHash>,
}

/// One block's content for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BlockCopy {
    pub(crate) from: BlockId,
    pub(crate) to: BlockId,
}

#[derive(Debug)]
pub(crate) struct PlannedChunk {
    pub(crate) id: SequenceId,
    pub(crate) start: usize,
    pub(crate) end: usize,
    pub(crate) sample: bool,
    pub(crate) prompt_logprobs: bool,
}

impl Plan {
    /// Nothing yet, of at most so many tokens.
    pub(super) fn new(budget: usize) -> Plan {
        Plan {
            budget,
            ..Plan::default()
        }
    }

    /// Plans a part of the sequence's prompt, unless another one is about to
    /// compute the same: then it waits and goes on with the other's block, or
    /// with a copy of it where both write on in it.
    pub(super) fn prefill(&mut self, sequence: &mut Sequence, pool: &mut BlockPool) {
        sequence.adopt(pool);
        self.copies.extend(sequence.copy_end(pool));
        let next = sequence.next_block(pool.block_size());
        let next = next.or_else(|| sequence.end(pool.block_size()));
        if next.is_none_or(|next| self.computing.insert(next)) {
            self.push(sequence);
        }
    }

    /// Tells of the sequence's start, if that is now.
    pub(super) fn begin(&mut self, sequence: &mut Sequence) {
        let cached_tokens = std::mem::take(&mut sequence.cached_untold);
        if sequence.kv == KvSource::Compute {
            self.cached_tokens += cached_tokens;
        }
        if !std::mem::replace(&mut sequence.started, true) {
            self.outputs.push(Output::Started {
                id: sequence.id,
                cached_tokens,
            });
        }
    }

    /// Plans as many of the sequence's tokens as fit.
    pub(super) fn push(&mut self, sequence: &mut Sequence) {
        self.begin(sequence);
        let start = sequence.computed;
        let tokens = sequence.remaining().min(self.budget);
        let end = start + tokens;
        self.budget -= tokens;
        match start >= sequence.request_len && sequence.remaining() == 1 {
            true => self.decode_tokens += tokens,
            false => self.prefill_tokens += tokens,
        }
        self.chunks.push(PlannedChunk {
            id: sequence.id,
            start,
            end,
            sample: end == sequence.tokens.len() && sequence.wants_token(),
            prompt_logprobs: sequence.scores_prompt(end),
        });
    }
}
