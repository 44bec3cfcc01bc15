//! A request on its way through the simulated cluster.

use std::sync::Arc;
use std::time::Duration;

use engine::{KvSource, Purpose, Request, SamplingParams, SequenceId};
use kvcache_index::{BlockHash, HashScope};
use router::admission::queue;
use router::cluster::view::{Excluded, Placed};

use super::prompt;
use super::worker::{Address, Part, Task};
use crate::planned::{Output, PlannedRequest, Turn};
use crate::record::{Chunk, Outcome, Record, Usage};

pub(super) struct Active {
    pub(super) number: u64,
    pub(super) scheduled: Duration,
    pub(super) turn: Option<Turn>,
    pub(super) tenant: Option<Arc<str>>,
    pub(super) priority: Option<i32>,
    output: Output,
    /// Its place among the running.
    pub(super) permit: Option<queue::Turn>,
    /// When it had its turn.
    pub(super) began: Duration,
    pub(super) router: usize,
    prompt_tokens: usize,
    /// Prompt and generated tokens.
    tokens: Vec<u32>,
    /// Of the full blocks of the prompt, and of generated tokens once it had to
    /// be planned again.
    hashes: Vec<BlockHash>,
    /// Of `hashes`, as the index knows them.
    pub(super) short_hashes: Vec<u64>,
    chunks: Vec<Chunk>,
    cached_tokens: Option<u32>,
    pub(super) attempt: u32,
    pub(super) excluded: Excluded,
    pub(super) placed: Option<Placed>,
    /// Where it runs.
    pub(super) prefill: Option<Address>,
    pub(super) decode: Option<Address>,
    /// Workers of the attempt that gave the first token.
    pub(super) served_by: Option<(Option<Arc<str>>, Arc<str>)>,
}

impl Active {
    pub(super) fn new(request: PlannedRequest, scheduled: Duration, router: usize) -> Active {
        let tokens = prompt::tokens(&request.prompt);
        Active {
            number: request.number,
            scheduled,
            turn: request.turn,
            tenant: request.tenant,
            priority: request.priority,
            output: request.output,
            permit: None,
            began: Duration::ZERO,
            router,
            prompt_tokens: tokens.len(),
            tokens,
            hashes: Vec::new(),
            short_hashes: Vec::new(),
            chunks: Vec::with_capacity(request.output.max_tokens as usize),
            cached_tokens: None,
            attempt: 0,
            excluded: Excluded::new(),
            placed: None,
            prefill: None,
            decode: None,
            served_by: None,
        }
    }

    /// Identities of all full blocks there are now.
    pub(super) fn hash(&mut self, scope: &HashScope, block_size: usize) -> &[BlockHash] {
        for block in self.tokens.chunks_exact(block_size).skip(self.hashes.len()) {
            let parent = self.hashes.last().copied().unwrap_or(BlockHash::ROOT);
            let hash = scope.chain(parent, block);
            self.hashes.push(hash);
            self.short_hashes.push(hash.short());
        }
        &self.hashes
    }

    pub(super) fn prompt_tokens(&self) -> usize {
        self.prompt_tokens
    }

    pub(super) fn tokens(&self) -> usize {
        self.tokens.len()
    }

    pub(super) fn generated(&self) -> usize {
        self.tokens.len() - self.prompt_tokens
    }

    pub(super) fn remaining(&self) -> usize {
        (self.output.max_tokens as usize).saturating_sub(self.generated())
    }

    /// In the currency of admission: a generated token counts twice.
    pub(super) fn cost(&self) -> u64 {
        self.prompt_tokens as u64 + 2 * u64::from(self.output.max_tokens)
    }

    pub(super) fn task(&self, part: Part) -> Task {
        Task {
            request: self.number,
            attempt: self.attempt,
            part,
        }
    }

    /// As an engine takes it.
    pub(super) fn request(&self, id: SequenceId, part: Part, scope: &HashScope) -> Request {
        let splits = self.placed.is_some_and(|it| it.prefill.is_some());
        let (kv, purpose) = match part {
            Part::Prefill => (KvSource::Compute, Purpose::HandOver),
            Part::Decode if splits => (KvSource::Receive, Purpose::Generate),
            Part::Decode => (KvSource::Compute, Purpose::Generate),
        };
        Request {
            id,
            tokens: self.tokens.clone(),
            resumed_tokens: self.generated(),
            priority: self.priority.unwrap_or_default(),
            sampling: SamplingParams {
                temperature: 0.0,
                top_p: 1.0,
                top_k: 0,
                min_p: 0.0,
                seed: self.number,
                repetition_penalty: 1.0,
                presence_penalty: 0.0,
                frequency_penalty: 0.0,
                ignore_eos: true,
                tokens: engine::TokenRules::default(),
                stop_token_ids: Vec::new(),
                logprobs: None,
                prompt_logprobs: None,
                max_tokens: self.output.max_tokens as usize,
                min_tokens: 0,
            },
            constraint: None,
            scope: scope.clone(),
            hashes: self.hashes.clone(),
            kv,
            purpose,
        }
    }

    pub(super) fn started(&mut self, cached_tokens: usize) {
        self.cached_tokens.get_or_insert(cached_tokens as u32);
    }

    /// Token `index` came to the client; a token that came before is ignored.
    pub(super) fn token(&mut self, index: usize, token: u32, at: Duration) {
        if index == self.generated() {
            self.tokens.push(token);
            self.chunks.push(Chunk { at, tokens: 1 });
        }
    }

    /// The simulated text.
    pub(super) fn answer(&self) -> String {
        prompt::answer(&self.tokens[self.prompt_tokens..])
    }

    pub(super) fn record(self, ended: Duration, outcome: Outcome, warm_up: bool) -> Record {
        let completion_tokens = self.generated() as u32;
        let (prefill_worker, decode_worker) = match self.served_by {
            Some((prefill, decode)) => (prefill, Some(decode)),
            None => (None, None),
        };
        Record {
            number: self.number,
            scheduled: self.scheduled,
            sent: self.scheduled,
            chunks: self.chunks,
            ended,
            outcome,
            usage: Some(Usage {
                prompt_tokens: self.prompt_tokens as u32,
                completion_tokens,
                cached_tokens: self.cached_tokens,
            }),
            expected_output: self.output.exact.then_some(self.output.max_tokens),
            warm_up,
            tenant: self.tenant,
            priority: self.priority,
            prefill_worker,
            decode_worker,
            turn: self.turn.map(|it| (it.conversation, it.number)),
        }
    }
}
