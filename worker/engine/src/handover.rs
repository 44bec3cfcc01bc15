//! Hand-over: KV blocks of a prompt leave one engine and enter another, while
//! the first still computes.
//!
//! Exporting side: a [`Purpose::HandOver`](crate::Purpose::HandOver) sequence;
//! [`Engine::export`] gives its blocks as they are computed, until
//! [`Engine::abort`] releases it. Importing side: a
//! [`KvSource::Receive`](crate::KvSource::Receive) sequence; after
//! [`Output::Receiving`](crate::Output::Receiving) blocks are imported in order
//! and the import ends with [`Engine::import_done`] or
//! [`Engine::import_failed`]. While it receives, a sequence is not preempted:
//! the caller bounds the time an import may take.

use bytes::Bytes;

use crate::engine::Engine;
use crate::error::ImportError;
use crate::request::{KvSource, Output, Sampled, SequenceId};
use crate::runner::RunError;
use crate::sequence::State;

/// What there is to export of a sequence's prompt.
#[derive(Debug)]
pub enum Export {
    /// Blocks in a row, in wire form.
    Blocks {
        first_block: usize,
        blocks: Vec<Bytes>,
        /// The prompt has no block after these.
        done: bool,
    },
    /// The block asked for is not computed yet; ask again after a step.
    NotYet,
    /// There is no such sequence (any more).
    Gone,
    /// The device could not read a block.
    Failed(RunError),
}

impl Engine {
    /// Blocks of the prompt from `from_block` on that are computed: at least
    /// one, if there is one, and no more than fit into `max_bytes`. The last,
    /// partial block comes when the prompt is complete.
    pub fn export(&self, id: SequenceId, from_block: usize, max_bytes: usize) -> Export {
        let Some(sequence) = self.scheduler.get(id) else {
            return Export::Gone;
        };
        let block_size = self.shape().block_size;
        let all = sequence.request_len.div_ceil(block_size);
        let complete = sequence.computed >= sequence.request_len;
        let ready = match complete {
            true => all,
            false => sequence.computed / block_size,
        };
        if from_block >= ready && !complete {
            return Export::NotYet;
        }
        let fit = max_bytes / self.shape().kv.block_bytes.max(1);
        let end = ready.min(from_block.saturating_add(fit.max(1)));
        let blocks = sequence.blocks.get(from_block..end).unwrap_or_default();
        match blocks.iter().map(|block| self.wire_form(*block)).collect() {
            Ok(blocks) => Export::Blocks {
                first_block: from_block,
                blocks,
                done: complete && end == all,
            },
            Err(error) => Export::Failed(error),
        }
    }

    /// Takes blocks of a receiving sequence's prompt, in order. Full ones are
    /// cached for others at once.
    pub fn import(
        &mut self,
        id: SequenceId,
        first_block: usize,
        blocks: &[Bytes],
    ) -> Result<(), ImportError> {
        let expected_bytes = self.runner.shape().kv.block_bytes;
        let (sequence, pool) = self
            .scheduler
            .get_mut(id)
            .filter(|(sequence, _)| sequence.state == State::Receiving)
            .ok_or(ImportError::NotReceiving)?;
        if first_block != sequence.next_import {
            return Err(ImportError::OutOfOrder {
                expected: sequence.next_import,
                got: first_block,
            });
        }
        for (block, bytes) in (first_block..).zip(blocks) {
            let target = *sequence.blocks.get(block).ok_or(ImportError::PastEnd {
                block,
                blocks: sequence.blocks.len(),
            })?;
            if bytes.len() != expected_bytes {
                return Err(ImportError::WrongSize {
                    block,
                    expected: expected_bytes,
                    got: bytes.len(),
                });
            }
            self.runner.import_block(target, bytes)?;
            sequence.next_import = block + 1;
            // The last token may have to be computed here, so its block is not
            // everybody's before the import ends.
            let filled = (block + 1) * pool.block_size();
            sequence.set_computed(filled.min(sequence.request_len - 1), pool);
        }
        Ok(())
    }

    /// All blocks are imported. With the token that the exporting engine drew
    /// the sequence goes on from there; without, its last prompt token is
    /// computed here to draw one.
    pub fn import_done(
        &mut self,
        id: SequenceId,
        first_token: Option<Sampled>,
    ) -> Result<Vec<Output>, ImportError> {
        let vocab_size = self.runner.shape().vocab_size;
        let (sequence, pool) = self
            .scheduler
            .get_mut(id)
            .filter(|(sequence, _)| sequence.state == State::Receiving)
            .ok_or(ImportError::NotReceiving)?;
        if sequence.next_import < sequence.blocks.len() {
            return Err(ImportError::Incomplete {
                got: sequence.next_import,
                blocks: sequence.blocks.len(),
            });
        }
        let mut outputs = Vec::new();
        match first_token {
            Some(first) if first.token as usize >= vocab_size => {
                return Err(ImportError::InvalidToken(first.token));
            }
            Some(first) => {
                sequence.set_computed(sequence.request_len, pool);
                self.resume(id);
                self.advance(id, first, &mut outputs);
            }
            None => self.resume(id),
        }
        Ok(outputs)
    }

    /// No more blocks will come: the sequence computes what is missing. No-op
    /// for one that does not receive.
    pub fn import_failed(&mut self, id: SequenceId) {
        let receives = |state| state == State::Receiving;
        if self.scheduler.get(id).is_some_and(|it| receives(it.state)) {
            self.resume(id);
        }
    }

    /// Number of handed-over sequences that keep their blocks.
    pub fn held(&self) -> usize {
        self.scheduler.count(State::HandedOver)
    }

    fn resume(&mut self, id: SequenceId) {
        if let Some((sequence, _)) = self.scheduler.get_mut(id) {
            sequence.kv = KvSource::Compute;
        }
        self.scheduler.move_to(id, State::Running);
        self.wake();
    }

    fn wire_form(&self, block: crate::BlockId) -> Result<Bytes, RunError> {
        let mut bytes = Vec::with_capacity(self.shape().kv.block_bytes);
        self.runner.export_block(block, &mut bytes)?;
        Ok(Bytes::from(bytes))
    }
}

#[cfg(test)]
mod tests;
