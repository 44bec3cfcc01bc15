//! A real model in two engines under random load: prefixes are shared, pools too
//! small, blocks leave to a tier and come back, prompts are computed in one
//! engine and decoded in the other. Whatever happens to KV, and however it is
//! kept, a sequence has the tokens that it has alone.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use engine::block_pool::Content;
use engine::{
    Engine, EngineConfig, Export, Fetch, Fetched, KvSource, KvTier, Output, Purpose, Request,
    TierStatus,
};
use kvcache_index::{BlockHash, HashScope, KvEvent, Tier};
use models::KvDtype;
use proptest::prelude::*;

use super::*;

const NOW: Duration = Duration::ZERO;
/// Jobs arrive before this round.
const ARRIVALS: usize = 12;

/// A tier that keeps all that it is offered.
#[derive(Default)]
struct Shelf {
    blocks: HashMap<BlockHash, Vec<u8>>,
    asked: VecDeque<(Fetch, Vec<BlockHash>)>,
}

impl KvTier for Shelf {
    fn tier(&self) -> Tier {
        Tier::Host
    }

    fn has(&self, hash: BlockHash) -> bool {
        self.blocks.contains_key(&hash)
    }

    fn offload(&mut self, content: Content, read: engine::tier::ReadBlock<'_>) {
        let mut bytes = Vec::new();
        read(&mut bytes).unwrap();
        self.blocks.insert(content.hash, bytes);
    }

    fn fetch(&mut self, fetch: Fetch, hashes: &[BlockHash]) {
        self.asked.push_back((fetch, hashes.to_vec()));
    }

    fn is_ready(&self) -> bool {
        !self.asked.is_empty()
    }

    fn poll(&mut self) -> Option<Fetched> {
        let (fetch, hashes) = self.asked.pop_front()?;
        let blocks = hashes.iter().map(|hash| self.blocks[hash].clone().into());
        Some(Fetched {
            fetch,
            blocks: blocks.collect(),
        })
    }

    fn seconds_per_block(&self) -> f64 {
        0.0
    }

    fn drain_events(&mut self) -> Vec<KvEvent> {
        Vec::new()
    }

    fn status(&self) -> TierStatus {
        TierStatus::default()
    }
}

#[derive(Clone, Debug)]
struct Job {
    tokens: Vec<u32>,
    sampling: SamplingParams,
    /// The prompt is computed in the prefill engine.
    split: bool,
    arrives: usize,
}

prop_compose! {
    fn job()(
        (family, shared, len) in (0..2u32, 0..60usize, 1..70usize),
        (max_tokens, temperature, seed) in (1..24usize, prop_oneof![Just(0.0f32), Just(1.0)], 0..3u64),
        (split, arrives, own) in (any::<bool>(), 0..ARRIVALS, 0..3u32),
    ) -> Job {
        // Prompts of one family share their start.
        let token = |i: usize| {
            let other = if i < shared { 0 } else { own };
            (family * 31 + i as u32 * (i as u32 + 5) + other) % 128
        };
        Job {
            tokens: (0..len).map(token).collect(),
            sampling: SamplingParams {
                temperature,
                seed,
                max_tokens,
                logprobs: None,
                prompt_logprobs: None,
                ..SAMPLING.clone()
            },
            split,
            arrives,
        }
    }
}

impl Job {
    fn request(&self, id: u64, kv: KvSource, purpose: Purpose) -> Request {
        Request {
            id: SequenceId(id),
            tokens: self.tokens.clone(),
            resumed_tokens: 0,
            priority: 0,
            sampling: self.sampling.clone(),
            constraint: None,
            scope: HashScope::new("m", "", 16),
            hashes: Vec::new(),
            kv,
            purpose,
        }
    }

    /// What it gives in an engine of its own, in one chunk, from blocks in order.
    fn alone(&self, dtype: KvDtype) -> Vec<u32> {
        let mut engine = engine(dtype, 12, EngineConfig::default());
        let request = self.request(0, KvSource::Compute, Purpose::Generate);
        engine.add(request, NOW).unwrap();
        let mut tokens = Tokens::default();
        while engine.has_work() {
            tokens.take(engine.step(NOW).unwrap().outputs);
        }
        tokens.0.remove(&0).unwrap()
    }
}

fn engine(dtype: KvDtype, blocks: usize, config: EngineConfig) -> Engine {
    let runner = ModelRunner::new(model_of(dtype, blocks)).unwrap();
    Engine::new(config, Box::new(runner))
}

/// Of sequences by number.
#[derive(Default)]
struct Tokens(BTreeMap<u64, Vec<u32>>);

impl Tokens {
    /// Returns the sequences that wait for blocks, and from which on.
    fn take(&mut self, outputs: Vec<Output>) -> Vec<(u64, usize)> {
        let mut receiving = Vec::new();
        for output in outputs {
            match output {
                Output::Tokens { id, index, tokens } => {
                    let all = self.0.entry(id.0).or_default();
                    assert_eq!(all.len(), index);
                    all.extend(tokens.iter().map(|it| it.token));
                }
                Output::Receiving { id, first_block } => receiving.push((id.0, first_block)),
                _ => {}
            }
        }
        receiving
    }
}

struct Cluster {
    jobs: Vec<Job>,
    prefill: Engine,
    decode: Engine,
    prefilled: Tokens,
    decoded: Tokens,
    /// The next block of sequences that receive.
    wanted: BTreeMap<u64, usize>,
}

impl Cluster {
    fn new(jobs: Vec<Job>, dtype: KvDtype, (blocks, config): (usize, EngineConfig)) -> Cluster {
        let engine = || {
            let mut engine = engine(dtype, blocks, config.clone());
            engine.add_tier(Box::new(Shelf::default()));
            engine
        };
        Cluster {
            jobs,
            prefill: engine(),
            decode: engine(),
            prefilled: Tokens::default(),
            decoded: Tokens::default(),
            wanted: BTreeMap::new(),
        }
    }

    /// Returns the blocks that came back from tiers.
    fn run(&mut self) -> usize {
        let mut onboarded = 0;
        for round in 0..5000 {
            self.arrive(round);
            let carried = self.carry();
            for engine in [&mut self.prefill, &mut self.decode] {
                onboarded += engine.onboard().blocks;
            }
            self.prefilled.take(self.prefill.step(NOW).unwrap().outputs);
            let receiving = self.decoded.take(self.decode.step(NOW).unwrap().outputs);
            self.wanted.extend(receiving);
            let busy = self.prefill.has_work() || self.decode.has_work();
            if carried || busy {
                continue;
            }
            if self.wanted.is_empty() && round >= ARRIVALS {
                return onboarded;
            }
            // Both wait for each other's blocks.
            for id in std::mem::take(&mut self.wanted).into_keys() {
                self.prefill.abort(SequenceId(id));
                self.decode.import_failed(SequenceId(id));
            }
        }
        panic!("no progress: {:?}", self.decode.status());
    }

    fn arrive(&mut self, round: usize) {
        for (id, job) in (0..).zip(&self.jobs) {
            if job.arrives != round {
                continue;
            }
            let kv = match job.split {
                false => KvSource::Compute,
                true => {
                    let request = job.request(id, KvSource::Compute, Purpose::HandOver);
                    self.prefill.add(request, NOW).unwrap();
                    KvSource::Receive
                }
            };
            let request = job.request(id, kv, Purpose::Generate);
            self.decode.add(request, NOW).unwrap();
        }
    }

    /// Moves a block to each sequence that waits for one; false if there is none.
    fn carry(&mut self) -> bool {
        let mut carried = false;
        for (id, from) in self.wanted.clone() {
            let sequence = SequenceId(id);
            match self.prefill.export(sequence, from, 1) {
                Export::NotYet => continue,
                Export::Blocks { blocks, done, .. } => {
                    self.decode.import(sequence, from, &blocks).unwrap();
                    self.wanted.insert(id, from + blocks.len());
                    if done {
                        self.complete(id);
                    }
                }
                other => panic!("{other:?}"),
            }
            carried = true;
        }
        carried
    }

    fn complete(&mut self, id: u64) {
        self.wanted.remove(&id);
        let first = Sampled {
            token: self.prefilled.0[&id][0],
            logprob: None,
            top: Vec::new(),
        };
        let outputs = self.decode.import_done(SequenceId(id), Some(first));
        self.decoded.take(outputs.unwrap());
        self.prefill.abort(SequenceId(id));
    }
}

fn check(dtype: KvDtype, jobs: &[Job], load: (usize, EngineConfig)) -> (Cluster, usize) {
    let mut cluster = Cluster::new(jobs.to_vec(), dtype, load);
    let onboarded = cluster.run();
    for (id, job) in (0..).zip(jobs) {
        assert_eq!(cluster.decoded.0[&id], job.alone(dtype), "{id} of {dtype}");
    }
    (cluster, onboarded)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn sequences_have_the_tokens_that_they_have_alone(
        jobs in prop::collection::vec(job(), 1..9),
        blocks in 6..20usize,
        (max_batch_tokens, max_sequences) in (1..50usize, 1..6usize),
        dtype in prop::sample::select(&KvDtype::ALL),
    ) {
        let config = EngineConfig { max_batch_tokens, max_sequences, ..EngineConfig::default() };
        check(dtype, &jobs, (blocks, config));
    }
}

#[test]
fn load_preempts_and_brings_blocks_back_however_they_are_kept() {
    let jobs = (0..8u32).map(|number| Job {
        tokens: (0..40).map(|i| (i * 3 + number % 4 * 17) % 128).collect(),
        sampling: SamplingParams {
            max_tokens: 40,
            logprobs: None,
            prompt_logprobs: None,
            ..SAMPLING.clone()
        },
        split: number % 4 == 3,
        arrives: number as usize,
    });
    let jobs: Vec<_> = jobs.collect();
    for dtype in KvDtype::ALL {
        let config = EngineConfig {
            max_sequences: 4,
            ..EngineConfig::default()
        };
        let (cluster, onboarded) = check(dtype, &jobs, (8, config));
        assert!(cluster.decode.status().preemptions > 0);
        assert!(onboarded > 0);
    }
}
