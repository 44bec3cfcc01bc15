//! A sequence's state: its tokens, how many are computed, and where.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use kvcache_index::{BlockHash, HashScope};

use crate::block_pool::{BlockPool, Content};
use crate::constraint::Constraint;
use crate::pool::Pool;
use crate::request::{Finish, KvSource, Purpose, Request, Sampled, SamplingParams, SequenceId};
use crate::runner::BlockId;
use crate::schedule::BlockCopy;
use crate::tiers::Onboarding;

/// Where a sequence stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// It holds no block.
    Waiting,
    /// It holds blocks for its prompt, whose KV is being imported.
    Receiving,
    /// It holds blocks for its prompt; cached ones come from a slower tier.
    Onboarding,
    /// It takes part in steps.
    Running,
    /// Its prompt is computed; it keeps its blocks for export.
    HandedOver,
}

/// One sequence in the engine.
#[derive(Debug)]
pub(crate) struct Sequence {
    pub(crate) id: SequenceId,
    /// The most urgent goes first and yields last.
    pub(crate) priority: i32,
    /// Order of arrival; of equal priority who came later yields first.
    pub(crate) arrival: u64,
    pub(crate) arrived: Duration,
    pub(crate) state: State,
    pub(crate) kv: KvSource,
    pub(crate) purpose: Purpose,
    pub(crate) sampling: SamplingParams,
    pub(crate) constraint: Option<Arc<dyn Constraint>>,
    /// If it is run for an embedding.
    pub(crate) pool: Option<Pool>,
    /// Prompt and generated tokens.
    pub(crate) tokens: Vec<u32>,
    /// Tokens of the prompt; those after it are generated.
    pub(crate) prompt_len: usize,
    /// Tokens the request came with: the prompt and what was generated before.
    pub(crate) request_len: usize,
    /// No token is drawn once there are so many.
    limit: usize,
    /// KV of `tokens[..computed]` is in `blocks`.
    pub(crate) computed: usize,
    pub(crate) blocks: Vec<BlockId>,
    /// Blocks before this one were imported or cached; of a receiving sequence.
    pub(crate) next_import: usize,
    pub(crate) onboarding: Option<Onboarding>,
    pub(crate) started: bool,
    /// Tokens it need not compute that were not told of.
    pub(crate) cached_untold: usize,
    scope: HashScope,
    /// Identities of full blocks, as far as they were needed.
    hashes: Vec<BlockHash>,
    /// Full blocks that the pool knows of.
    registered: usize,
    /// The next prompt token to report a logprob of; the first has none.
    next_scored: usize,
}

impl Sequence {
    /// `max_len` limits prompt and completion together.
    pub(crate) fn new(request: Request, max_len: usize, now: Duration) -> Sequence {
        let prompt_len = request.tokens.len() - request.resumed_tokens;
        Sequence {
            id: request.id,
            priority: request.priority,
            arrival: 0,
            arrived: now,
            state: State::Waiting,
            kv: request.kv,
            purpose: request.purpose,
            limit: prompt_len
                .saturating_add(request.sampling.max_tokens)
                .min(max_len),
            sampling: request.sampling,
            constraint: request.constraint,
            pool: match request.purpose {
                Purpose::Embed(pooling) => Some(Pool::new(pooling)),
                Purpose::Generate | Purpose::HandOver => None,
            },
            prompt_len,
            request_len: request.tokens.len(),
            tokens: request.tokens,
            computed: 0,
            blocks: Vec::new(),
            next_import: 0,
            onboarding: None,
            started: false,
            cached_untold: 0,
            scope: request.scope,
            hashes: request.hashes,
            registered: 0,
            next_scored: 1,
        }
    }

    /// Number of generated tokens, those before this engine counted in.
    pub(crate) fn generated(&self) -> usize {
        self.tokens.len() - self.prompt_len
    }

    /// Tokens whose KV is not there.
    pub(crate) fn remaining(&self) -> usize {
        self.tokens.len() - self.computed
    }

    /// Whether a token follows the last one.
    pub(crate) fn wants_token(&self) -> bool {
        self.tokens.len() < self.limit
    }

    /// Prompt tokens, or tokens to recompute, between here and the next draw.
    pub(crate) fn queued_prefill(&self) -> usize {
        let receives = self.kv == KvSource::Receive;
        let decodes = self.remaining() == 1 && self.computed >= self.request_len;
        match self.state {
            State::Waiting if !receives => self.tokens.len(),
            State::Running if !decodes => self.remaining(),
            State::Onboarding => self.remaining(),
            _ => 0,
        }
    }

    /// Why the sequence ends with its last generated token, if it does.
    pub(crate) fn finish(&self, eos: &[u32]) -> Option<Finish> {
        let last = self.tokens[self.prompt_len..].last()?;
        let stops = (eos.contains(last) && !self.sampling.ignore_eos)
            || self.sampling.stop_token_ids.contains(last);
        if stops && self.generated() > self.sampling.min_tokens {
            return Some(Finish::Stop);
        }
        (!self.wants_token()).then_some(Finish::Length)
    }

    /// Tokens from the first whose KV may be another's: the last token is always
    /// computed, for its logits, and so is every prompt token before one whose
    /// logprob is due.
    fn reusable(&self) -> usize {
        let scores = self.sampling.prompt_logprobs.is_some() && self.next_scored < self.prompt_len;
        match &self.pool {
            Some(pool) => pool.cacheable(self.tokens.len()),
            None if scores => self.next_scored - 1,
            None => self.tokens.len() - 1,
        }
    }

    /// Identities of the full blocks that may be taken from the cache.
    pub(crate) fn cacheable(&mut self, block_size: usize) -> &[BlockHash] {
        let blocks = self.reusable() / block_size;
        self.hash_blocks(blocks, block_size);
        &self.hashes[..blocks]
    }

    /// Takes the blocks it was given, whose first `cached` are filled.
    pub(crate) fn place(&mut self, blocks: Vec<BlockId>, cached: usize, block_size: usize) {
        self.blocks = blocks;
        self.computed = cached * block_size;
        self.registered = cached;
        self.next_import = cached;
        self.cached_untold = self.computed;
    }

    /// Goes on with cached blocks, in place of its own, as far as there are.
    pub(crate) fn adopt(&mut self, pool: &mut BlockPool) {
        let block_size = pool.block_size();
        let next = self.computed / block_size;
        let hashes = self.cacheable(block_size);
        let known = |hash: &BlockHash| pool.find(*hash).is_some();
        if !hashes.get(next).is_some_and(known) {
            return;
        }
        let hashes = hashes[next..].to_vec();
        let parent = next.checked_sub(1).map(|parent| self.blocks[parent]);
        let found = pool.reuse(parent, &hashes);
        let own = self
            .blocks
            .splice(next..next + found.len(), found.iter().copied());
        pool.release(&own.collect::<Vec<_>>());
        let computed = (next + found.len()) * block_size;
        self.cached_untold += computed - self.computed;
        self.computed = computed;
        self.registered = next + found.len();
    }

    /// Identity of the block it computes next, if others may use it.
    pub(crate) fn next_block(&mut self, block_size: usize) -> Option<BlockHash> {
        let next = self.computed / block_size;
        self.cacheable(block_size).get(next).copied()
    }

    /// Identity of the tokens in its last block, if only these remain to be
    /// computed, and all but one of them may be another's.
    pub(crate) fn end(&mut self, block_size: usize) -> Option<BlockHash> {
        let last = self.tokens.len() - 1;
        let due = self.computed >= last / block_size * block_size && self.computed < last;
        (due && self.reusable() == last).then(|| self.end_of(self.tokens.len(), block_size))
    }

    /// Identity of the last ones of the first `len` tokens, those in one block.
    fn end_of(&mut self, len: usize, block_size: usize) -> BlockHash {
        let blocks = (len - 1) / block_size;
        self.hash_blocks(blocks, block_size);
        let parent = match blocks {
            0 => BlockHash::ROOT,
            _ => self.hashes[blocks - 1],
        };
        let tokens = &self.tokens[blocks * block_size..len];
        self.scope.chain(parent, tokens)
    }

    /// Goes on with a copy of a block that begins as its last one does, if there
    /// is one: only the last token remains to be computed.
    pub(crate) fn copy_end(&mut self, pool: &BlockPool) -> Option<BlockCopy> {
        let end = self.end(pool.block_size())?;
        let from = pool.find_end(end)?;
        let to = *self.blocks.get(self.computed / pool.block_size())?;
        self.cached_untold += self.remaining() - 1;
        self.computed = self.tokens.len() - 1;
        (from != to).then_some(BlockCopy { from, to })
    }

    /// KV of `tokens[..computed]` is there: makes its full blocks known, and the
    /// last one of its prompt.
    pub(crate) fn set_computed(&mut self, computed: usize, pool: &mut BlockPool) {
        self.computed = computed;
        self.register_full(pool);
        if computed == self.request_len {
            let end = self.end_of(computed, pool.block_size());
            pool.register_end(self.blocks[(computed - 1) / pool.block_size()], end);
        }
    }

    fn register_full(&mut self, pool: &mut BlockPool) {
        let computed = self.computed;
        let full = computed / pool.block_size();
        if full <= self.registered {
            return;
        }
        self.hash_blocks(full, pool.block_size());
        for index in self.registered..full {
            let parent = match index {
                0 => BlockHash::ROOT,
                _ => self.hashes[index - 1],
            };
            let hash = self.hashes[index];
            let content = Content { parent, hash };
            self.blocks[index] = pool.register(self.blocks[index], content);
        }
        self.registered = full;
    }

    /// Gives up all blocks; the tokens stay.
    pub(crate) fn take_blocks(&mut self) -> Vec<BlockId> {
        self.computed = 0;
        self.onboarding = None;
        std::mem::take(&mut self.blocks)
    }

    /// Which of `start..end` count for its embedding.
    pub(crate) fn pooled(&self, start: usize, end: usize) -> Range<usize> {
        let pool = self.pool.as_ref();
        pool.map_or(end..end, |pool| pool.wanted(start, end, self.tokens.len()))
    }

    /// Whether computing up to `end` gives logprobs of prompt tokens that were
    /// not reported.
    pub(crate) fn scores_prompt(&self, end: usize) -> bool {
        self.sampling.prompt_logprobs.is_some()
            && self.next_scored < self.prompt_len
            && end >= self.next_scored
    }

    /// Of the logprobs of prompt tokens from `from` on, those not reported
    /// before, with the index of the first.
    pub(crate) fn unreported(
        &mut self,
        from: usize,
        mut tokens: Vec<Sampled>,
    ) -> (usize, Vec<Sampled>) {
        let index = self.next_scored;
        tokens.drain(..index.saturating_sub(from).min(tokens.len()));
        self.next_scored += tokens.len();
        (index, tokens)
    }

    fn hash_blocks(&mut self, count: usize, block_size: usize) {
        for index in self.hashes.len()..count {
            let parent = self.hashes.last().copied().unwrap_or(BlockHash::ROOT);
            let tokens = &self.tokens[index * block_size..(index + 1) * block_size];
            self.hashes.push(self.scope.chain(parent, tokens));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{NOW, prompt, request};

    #[test]
    fn the_cache_is_read_up_to_the_last_token_or_the_first_logprob_due() {
        // Prompt tokens computed and scored before a preemption, of 16, and
        // blocks of 4 that may come from the cache afterwards.
        let table = [
            (None, 3),
            (Some(0), 0),
            (Some(3), 0),
            (Some(4), 1),
            (Some(11), 2),
            (Some(12), 3),
            (Some(15), 3),
        ];
        for (scored, blocks) in table {
            let mut request = request(1, prompt(1, 16), 1);
            request.sampling.prompt_logprobs = scored.map(|_| 0);
            let mut sequence = Sequence::new(request, 100, NOW);
            let token = |token| Sampled {
                token,
                logprob: None,
                top: Vec::new(),
            };
            let scored = scored.unwrap_or_default();
            sequence.unreported(1, (0..scored).map(token).collect());
            assert_eq!(sequence.cacheable(4).len(), blocks, "{scored} scored");
        }
    }
}
