//! What the tests of this crate share: small requests, engines and transcripts.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use kvcache_index::{BlockHash, HashScope, KvEvent, Tier};

use crate::block_pool::{BlockPool, Content};
use crate::sim::{KvCheck, StepCost};
use crate::*;

pub(crate) const BLOCK_SIZE: usize = 4;
pub(crate) const EOS: u32 = 999;
pub(crate) const NOW: Duration = Duration::ZERO;

pub(crate) fn greedy(max_tokens: usize) -> SamplingParams {
    SamplingParams {
        temperature: 0.0,
        top_p: 1.0,
        top_k: 0,
        min_p: 0.0,
        seed: 0,
        repetition_penalty: 1.0,
        presence_penalty: 0.0,
        frequency_penalty: 0.0,
        ignore_eos: false,
        tokens: TokenRules::default(),
        stop_token_ids: Vec::new(),
        logprobs: None,
        prompt_logprobs: None,
        max_tokens,
        min_tokens: 0,
    }
}

/// Tokens of a prompt that shares nothing with those of other `family`.
pub(crate) fn prompt(family: u32, len: usize) -> Vec<u32> {
    (0..len as u32)
        .map(|i| (family * 131 + i * 7 + 1) % EOS)
        .collect()
}

pub(crate) fn request(id: u64, tokens: Vec<u32>, max_tokens: usize) -> Request {
    Request {
        id: SequenceId(id),
        tokens,
        resumed_tokens: 0,
        priority: 0,
        sampling: greedy(max_tokens),
        constraint: None,
        scope: HashScope::new("sim", "", BLOCK_SIZE),
        hashes: Vec::new(),
        kv: KvSource::Compute,
        purpose: Purpose::Generate,
    }
}

/// A small model whose KV is checked whole in every step.
pub(crate) fn sim_config(total_blocks: usize) -> SimConfig {
    SimConfig {
        vocab_size: 1000,
        max_model_len: 256,
        block_size: BLOCK_SIZE,
        total_blocks,
        eos_token_ids: vec![EOS],
        cost: StepCost::FREE,
        check: KvCheck::Every,
        ..SimConfig::default()
    }
}

pub(crate) fn engine(total_blocks: usize) -> Engine {
    engine_with(total_blocks, EngineConfig::default())
}

pub(crate) fn engine_with(total_blocks: usize, config: EngineConfig) -> Engine {
    Engine::new(config, Box::new(SimRunner::new(sim_config(total_blocks))))
}

/// Wants `count` tokens that count up from `from`, and then the end.
#[derive(Debug)]
pub(crate) struct Counting {
    pub(crate) from: u32,
    pub(crate) count: u32,
}

impl Constraint for Counting {
    fn allow(&self, generated: &[u32], mask: &mut TokenMask) -> Result<bool, Violation> {
        let counted = generated.len() as u32;
        if !generated.iter().copied().eq(self.from..self.from + counted) {
            return Err(Violation(format!("{generated:?} does not count")));
        }
        if counted < self.count {
            mask.allow(self.from + counted);
        }
        Ok(counted == self.count)
    }
}

/// Wants `count` tokens whose remainder by 7 depends on all before them, and
/// then the end.
#[derive(Debug)]
pub(crate) struct Winding {
    pub(crate) count: usize,
}

impl Constraint for Winding {
    fn allow(&self, generated: &[u32], mask: &mut TokenMask) -> Result<bool, Violation> {
        let ends = generated.len() >= self.count;
        let turn = |before: u32, token: &u32| (before * 3 + token + 1) % 7;
        let wanted = generated.iter().fold(0, turn);
        for token in (wanted..EOS).step_by(7).take_while(|_| !ends) {
            mask.allow(token);
        }
        Ok(ends)
    }
}

/// The simulator with a will of its own.
pub(crate) struct Puppet {
    pub(crate) sim: SimRunner,
    /// Tokens it draws, by index; the simulator's beyond.
    pub(crate) says: Vec<u32>,
    /// Steps, counted from 1, that fail.
    pub(crate) fails: Vec<usize>,
    pub(crate) steps: usize,
}

impl Puppet {
    pub(crate) fn new(total_blocks: usize) -> Puppet {
        Puppet {
            sim: SimRunner::new(sim_config(total_blocks)),
            says: Vec::new(),
            fails: Vec::new(),
            steps: 0,
        }
    }
}

impl Runner for Puppet {
    fn shape(&self) -> &RunnerShape {
        self.sim.shape()
    }

    fn run(&mut self, step: &Step<'_>) -> Result<StepResult, RunError> {
        self.steps += 1;
        if self.fails.contains(&self.steps) {
            return Err(RunError("out of order".to_owned()));
        }
        let mut result = self.sim.run(step)?;
        for (chunk, sampled) in step.chunks.iter().zip(&mut result.sampled) {
            let said = self.says.get(chunk.end - chunk.prompt_len.min(chunk.end));
            if let (Some(sampled), Some(token)) = (sampled, said) {
                sampled.token = *token;
            }
        }
        Ok(result)
    }

    fn export_block(&self, block: BlockId, out: &mut Vec<u8>) -> Result<(), RunError> {
        self.sim.export_block(block, out)
    }

    fn import_block(&mut self, block: BlockId, bytes: &[u8]) -> Result<(), RunError> {
        self.sim.import_block(block, bytes)
    }
}

/// A tier that thinks a while before each answer, and loses blocks.
pub(crate) struct SlowTier {
    pool: BlockPool,
    bytes: BTreeMap<BlockId, Vec<u8>>,
    asked: VecDeque<(Fetch, Vec<BlockHash>)>,
    /// Calls in vain before an answer.
    pub(crate) delay: usize,
    waited: usize,
    /// Each block with that remainder by 8 is lost when it is asked for.
    pub(crate) loses: Option<u128>,
    pub(crate) seconds_per_block: f64,
}

impl SlowTier {
    pub(crate) fn new(blocks: usize) -> SlowTier {
        SlowTier {
            pool: BlockPool::new(blocks, BLOCK_SIZE).in_tier(Tier::Host),
            bytes: BTreeMap::new(),
            asked: VecDeque::new(),
            delay: 0,
            waited: 0,
            loses: None,
            seconds_per_block: 0.0,
        }
    }

    fn answer(&self, hashes: &[BlockHash]) -> Vec<Bytes> {
        let is_kept = |hash: &&BlockHash| self.loses != Some(hash.0 % 8);
        let kept = hashes.iter().take_while(is_kept);
        let held = kept.map_while(|hash| self.bytes.get(&self.pool.find(*hash)?));
        held.cloned().map(Bytes::from).collect()
    }
}

impl KvTier for SlowTier {
    fn tier(&self) -> Tier {
        Tier::Host
    }

    fn has(&self, hash: BlockHash) -> bool {
        self.pool.find(hash).is_some()
    }

    fn offload(&mut self, content: Content, read: tier::ReadBlock<'_>) {
        let known = self.pool.reuse(None, &[content.hash]);
        let block = match known.first() {
            Some(block) => *block,
            None => {
                let Some(block) = self.pool.allocate() else {
                    return;
                };
                let mut bytes = Vec::new();
                read(&mut bytes).unwrap();
                self.bytes.insert(block, bytes);
                self.pool.register(block, content)
            }
        };
        self.pool.release(&[block]);
    }

    fn fetch(&mut self, fetch: Fetch, hashes: &[BlockHash]) {
        self.asked.push_back((fetch, hashes.to_vec()));
    }

    fn is_ready(&self) -> bool {
        !self.asked.is_empty()
    }

    fn poll(&mut self) -> Option<Fetched> {
        if self.asked.is_empty() {
            return None;
        }
        if self.waited < self.delay {
            self.waited += 1;
            return None;
        }
        self.waited = 0;
        let (fetch, hashes) = self.asked.pop_front()?;
        let blocks = self.answer(&hashes);
        Some(Fetched { fetch, blocks })
    }

    fn seconds_per_block(&self) -> f64 {
        self.seconds_per_block
    }

    fn drain_events(&mut self) -> Vec<KvEvent> {
        self.pool.drain_events()
    }

    fn status(&self) -> TierStatus {
        TierStatus {
            total_blocks: self.pool.total(),
            cached_blocks: self.pool.cached(),
        }
    }
}

/// All that was told of one sequence. Recording fails on what must not happen:
/// a repeated or missing index, a word after the end.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Transcript {
    pub(crate) cached_tokens: Option<usize>,
    pub(crate) first_block: Option<usize>,
    pub(crate) first_index: usize,
    pub(crate) tokens: Vec<u32>,
    pub(crate) scored: Vec<u32>,
    pub(crate) handed_over: bool,
    pub(crate) finish: Option<Finish>,
    pub(crate) violation: Option<Violation>,
    pub(crate) embedding: Option<Vec<f32>>,
}

impl Transcript {
    fn record(&mut self, output: Output) {
        assert_eq!(self.finish, None, "told after the end: {output:?}");
        let started = matches!(output, Output::Started { .. });
        assert_eq!(started, self.cached_tokens.is_none(), "{output:?}");
        match output {
            Output::Started { cached_tokens, .. } => self.cached_tokens = Some(cached_tokens),
            Output::Receiving { first_block, .. } => self.first_block = Some(first_block),
            Output::Tokens { index, tokens, .. } => {
                if self.tokens.is_empty() {
                    self.first_index = index;
                }
                assert_eq!(index, self.first_index + self.tokens.len());
                self.tokens.extend(tokens.iter().map(|it| it.token));
            }
            Output::PromptLogprobs { index, tokens, .. } => {
                assert_eq!(index, self.scored.len() + 1);
                self.scored.extend(tokens.iter().map(|it| it.token));
            }
            Output::Embedding { values, .. } => {
                assert_eq!(self.embedding.replace(values), None);
            }
            Output::HandOver { .. } => self.handed_over = true,
            Output::Finished { reason, .. } => self.finish = Some(reason),
            Output::Failed { violation, .. } => {
                assert_eq!(self.violation.replace(violation), None);
            }
        }
    }
}

pub(crate) type Transcripts = BTreeMap<SequenceId, Transcript>;

pub(crate) fn record(transcripts: &mut Transcripts, outputs: Vec<Output>) {
    for output in outputs {
        transcripts.entry(output.id()).or_default().record(output);
    }
}

pub(crate) fn step(engine: &mut Engine, transcripts: &mut Transcripts) -> StepReport {
    engine.onboard();
    let mut report = engine.step(NOW).unwrap();
    record(transcripts, std::mem::take(&mut report.outputs));
    report
}

/// Steps until there is nothing to do.
pub(crate) fn run(engine: &mut Engine) -> Transcripts {
    let mut transcripts = Transcripts::new();
    run_on(engine, &mut transcripts);
    transcripts
}

pub(crate) fn run_on(engine: &mut Engine, transcripts: &mut Transcripts) {
    for _ in 0..10_000 {
        if !engine.has_work() {
            return;
        }
        step(engine, transcripts);
    }
    panic!("the engine makes no progress: {:?}", engine.status());
}

/// What `request` gives with an engine of its own that never runs out.
pub(crate) fn alone(request: Request) -> Transcript {
    let mut engine = engine(4096);
    let id = request.id;
    engine.add(request, NOW).unwrap();
    run(&mut engine).remove(&id).unwrap()
}

pub(crate) fn assert_empty(engine: &Engine) {
    let status = engine.status();
    let free = EngineStatus {
        total_blocks: status.total_blocks,
        free_blocks: status.total_blocks,
        cached_blocks: status.cached_blocks,
        preemptions: status.preemptions,
        ..EngineStatus::default()
    };
    assert_eq!(status, free);
}
