//! Two engines under random load: shared prefixes, small pools, hand-overs that
//! break half-way, aborts. Whatever happens, a sequence that ends has the tokens
//! it has alone, and nothing leaks.

use kvcache_index::Tier;
use proptest::prelude::*;

use super::*;
use crate::handover::Export;

/// What goes wrong with a job, and after how many rounds.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    Completes,
    /// The client hangs up.
    Aborted {
        after: usize,
    },
    /// The prefill engine loses it.
    PrefillLost {
        after: usize,
    },
    /// The import breaks once so many blocks are there.
    ImportBroken {
        at_block: usize,
    },
    /// No first token comes with the blocks.
    NoFirstToken,
}

/// Which engine computes the prompt, and which decodes.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Place {
    Decode,
    Prefill,
    Split,
}

#[derive(Clone, Debug)]
struct Job {
    request: Request,
    place: Place,
    arrives: usize,
    fate: Fate,
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        4 => Just(Fate::Completes),
        1 => (0..25usize).prop_map(|after| Fate::Aborted { after }),
        1 => (0..12usize).prop_map(|after| Fate::PrefillLost { after }),
        1 => (0..8usize).prop_map(|at_block| Fate::ImportBroken { at_block }),
        1 => Just(Fate::NoFirstToken),
    ]
}

fn place() -> impl Strategy<Value = Place> {
    prop_oneof![
        2 => Just(Place::Split),
        1 => Just(Place::Decode),
        1 => Just(Place::Prefill),
    ]
}

prop_compose! {
    fn job()(
        (family, shared, len) in (0..3u32, 0..20usize, 1..44usize),
        (max_tokens, temperature, seed) in (1..16usize, prop_oneof![Just(0.0f32), Just(1.0)], 0..3u64),
        (scores, resumed) in (prop::bool::weighted(0.15), 0..4usize),
        (place, arrives, priority) in (place(), 0..20usize, -1..2i32),
        own in 0..4u32,
        constraint in prop::option::weighted(0.3, 0..14usize),
        fate in fate(),
    ) -> Job {
        // Prompts of one family share their start.
        let mut tokens = prompt(family, len);
        for token in tokens.iter_mut().skip(shared) {
            *token = (*token + own) % EOS;
        }
        let mut request = request(0, tokens, max_tokens);
        request.sampling.temperature = temperature;
        request.sampling.seed = seed;
        request.constraint = constraint.map(|count| Arc::new(Winding { count }) as _);
        request.priority = priority;
        if scores && place != Place::Split {
            request.sampling.prompt_logprobs = Some(1);
        }
        // Goes on from what it generated before.
        if resumed > 0 && resumed < max_tokens {
            let before = alone(request.clone()).tokens;
            // A constraint may end it earlier.
            let resumed = resumed.min(before.len() - 1);
            request.tokens.extend(&before[..resumed]);
            request.resumed_tokens = resumed;
        }
        Job { request, place, arrives, fate }
    }
}

/// A prefill and a decode engine, and what carries KV between them.
struct Cluster {
    jobs: Vec<Job>,
    prefill: Engine,
    decode: Engine,
    prefilled: Transcripts,
    decoded: Transcripts,
    events: BTreeSet<(Tier, u64)>,
    part_bytes: usize,
}

impl Cluster {
    fn new(jobs: Vec<Job>, config: &EngineConfig, blocks: usize) -> Cluster {
        Cluster {
            jobs,
            prefill: engine_with(blocks, config.clone()),
            decode: engine_with(blocks, config.clone()),
            prefilled: Transcripts::new(),
            decoded: Transcripts::new(),
            events: BTreeSet::new(),
            part_bytes: 2 * 8 * (BLOCK_SIZE + 1),
        }
    }

    /// Gives both engines a tier.
    fn add_tiers(&mut self, (blocks, delay, loses): (usize, usize, Option<u128>)) {
        for engine in [&mut self.prefill, &mut self.decode] {
            let mut tier = SlowTier::new(blocks);
            (tier.delay, tier.loses) = (delay, loses);
            engine.add_tier(Box::new(tier));
        }
    }

    fn run(&mut self) {
        let last = self.jobs.iter().map(|job| job.arrives).max();
        let last = last.unwrap_or_default();
        for round in 0..4000 {
            let mut carried = false;
            for job in 0..self.jobs.len() {
                self.arrive(job, round);
                self.suffer(job, round);
                carried |= self.carry(job);
            }
            step(&mut self.prefill, &mut self.prefilled);
            step(&mut self.decode, &mut self.decoded);
            self.follow_events();
            if round > last && at_rest(&self.prefill) && at_rest(&self.decode) {
                return;
            }
            if !carried && !self.prefill.has_work() && !self.decode.has_work() {
                self.time_out();
            }
        }
        let status = (self.prefill.status(), self.decode.status());
        panic!("no progress: {status:?}");
    }

    fn arrive(&mut self, job: usize, round: usize) {
        let Job { place, arrives, .. } = self.jobs[job];
        if arrives != round {
            return;
        }
        let request = Request {
            id: SequenceId(job as u64),
            ..self.jobs[job].request.clone()
        };
        match place {
            Place::Decode => self.decode.add(request, NOW).unwrap(),
            Place::Prefill => self.prefill.add(request, NOW).unwrap(),
            Place::Split => {
                let mut prefill = request.clone();
                prefill.purpose = Purpose::HandOver;
                self.prefill.add(prefill, NOW).unwrap();
                let mut decode = request;
                decode.kv = KvSource::Receive;
                self.decode.add(decode, NOW).unwrap();
            }
        }
    }

    fn suffer(&mut self, job: usize, round: usize) {
        let Job {
            place,
            arrives,
            fate,
            ..
        } = self.jobs[job];
        let id = SequenceId(job as u64);
        let age = round.checked_sub(arrives);
        match fate {
            Fate::Aborted { after } if age == Some(after) => {
                self.prefill.abort(id);
                self.decode.abort(id);
            }
            Fate::PrefillLost { after } if age == Some(after) && place == Place::Split => {
                self.prefill.abort(id);
            }
            _ => {}
        }
    }

    /// Moves a part of the job's blocks, if it waits for any.
    fn carry(&mut self, job: usize) -> bool {
        let id = SequenceId(job as u64);
        let Some(next) = self.wanted_block(id) else {
            return false;
        };
        let breaks =
            matches!(self.jobs[job].fate, Fate::ImportBroken { at_block } if at_block <= next);
        match self.prefill.export(id, next, self.part_bytes) {
            _ if breaks => self.give_up(id),
            Export::Blocks {
                first_block,
                blocks,
                done,
            } => {
                self.decode.import(id, first_block, &blocks).unwrap();
                if done {
                    self.complete(job);
                }
            }
            Export::NotYet => return false,
            Export::Gone => self.give_up(id),
            Export::Failed(error) => panic!("{error}"),
        }
        true
    }

    fn wanted_block(&self, id: SequenceId) -> Option<usize> {
        let sequence = self.decode.scheduler.get(id)?;
        (sequence.state == State::Receiving).then_some(sequence.next_import)
    }

    /// Both engines wait for each other's blocks: what is due at a worker when
    /// an import takes too long.
    fn time_out(&mut self) {
        for id in (0..self.jobs.len() as u64).map(SequenceId) {
            if self.wanted_block(id).is_some() {
                self.give_up(id);
            }
        }
    }

    fn give_up(&mut self, id: SequenceId) {
        self.prefill.abort(id);
        self.decode.import_failed(id);
    }

    fn complete(&mut self, job: usize) {
        let id = SequenceId(job as u64);
        let first = Sampled {
            token: self.prefilled[&id].tokens[0],
            logprob: None,
            top: Vec::new(),
        };
        let first = (self.jobs[job].fate != Fate::NoFirstToken).then_some(first);
        let outputs = self.decode.import_done(id, first).unwrap();
        record(&mut self.decoded, outputs);
        self.prefill.abort(id);
    }

    fn follow_events(&mut self) {
        for event in self.decode.drain_events() {
            match event {
                KvEvent::Stored { hashes, tier, .. } => {
                    let stored = |it: &u64| assert!(self.events.insert((tier, *it)));
                    hashes.iter().for_each(stored);
                }
                KvEvent::Removed { hashes, tier } => {
                    let removed = |it: &u64| assert!(self.events.remove(&(tier, *it)));
                    hashes.iter().for_each(removed);
                }
                KvEvent::Cleared => self.events.clear(),
            }
        }
    }

    fn check(&self) {
        for (job, of) in self.jobs.iter().enumerate() {
            let transcripts = match of.place {
                Place::Prefill => &self.prefilled,
                Place::Decode | Place::Split => &self.decoded,
            };
            let transcript = transcripts.get(&SequenceId(job as u64));
            let finish = transcript.and_then(|it| it.finish);
            if finish.is_none() {
                assert!(
                    matches!(of.fate, Fate::Aborted { .. }),
                    "job {job} never ended"
                );
                continue;
            }
            let (got, expected) = (transcript.unwrap(), alone(of.request.clone()));
            assert!(
                got.cached_tokens < Some(of.request.tokens.len()),
                "job {job}"
            );
            assert_eq!(got.tokens, expected.tokens, "job {job}");
            assert_eq!(got.scored, expected.scored, "job {job}");
            assert_eq!(
                (got.finish, got.first_index),
                (expected.finish, expected.first_index)
            );
        }
        assert_empty(&self.prefill);
        assert_empty(&self.decode);
        let content = self.decode.cached_content();
        let content: BTreeSet<_> = content.map(|it| (Tier::Device, it.hash.short())).collect();
        assert_eq!(self.decode.status().cached_blocks, content.len());
        let (device, host): (BTreeSet<_>, BTreeSet<_>) =
            self.events.iter().partition(|it| it.0 == Tier::Device);
        assert_eq!(device, content);
        let kept = self.decode.tiers().map(|(_, status)| status.cached_blocks);
        assert_eq!(host.len(), kept.sum::<usize>());
    }
}

fn at_rest(engine: &Engine) -> bool {
    let status = engine.status();
    let receives = status.receiving + status.onboarding;
    status.waiting + status.running + receives + status.held == 0
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn sequences_end_as_if_they_were_alone(
        jobs in prop::collection::vec(job(), 1..14),
        (blocks, part) in (16..60usize, 0..5usize),
        (max_batch_tokens, max_sequences) in (1..40usize, 1..8usize),
        watermark in prop_oneof![Just(0.0f32), Just(0.1)],
        copies in 1..4u64,
        tier in (0..60usize, 0..4usize, prop::option::of(0..8u128)),
    ) {
        // Several completions of each prompt.
        let jobs = jobs.into_iter().flat_map(|job| (0..copies).map(move |copy| {
            let mut job = job.clone();
            if job.request.resumed_tokens == 0 {
                job.request.sampling.seed += copy;
            }
            job
        }));
        let jobs = jobs.collect();
        let config = EngineConfig { max_batch_tokens, max_sequences, watermark, max_waiting: 100, ..EngineConfig::default() };
        let mut cluster = Cluster::new(jobs, &config, blocks);
        cluster.add_tiers(tier);
        cluster.part_bytes = part * 8 * (BLOCK_SIZE + 1);
        cluster.run();
        cluster.check();
    }
}

/// One prompt after the other comes twice, and not all of them fit the pool.
fn rounds() -> Vec<Job> {
    let jobs = (0..16usize).map(|number| Job {
        request: request(0, prompt(number as u32 % 8, 30), 3),
        place: Place::Decode,
        arrives: number * 8,
        fate: Fate::Completes,
    });
    jobs.collect()
}

#[test]
fn the_property_test_does_bring_blocks_back() {
    let mut cluster = Cluster::new(rounds(), &EngineConfig::default(), 20);
    cluster.add_tiers((100, 2, None));
    cluster.run();
    cluster.check();
    for job in 8..16 {
        assert_eq!(
            cluster.decoded[&SequenceId(job)].cached_tokens,
            Some(28),
            "{job}"
        );
    }
}

#[test]
fn the_property_test_does_preempt() {
    let jobs = (0..8u32).map(|family| Job {
        request: request(0, prompt(family, 10), 15),
        place: match family % 2 {
            0 => Place::Split,
            _ => Place::Decode,
        },
        arrives: 0,
        fate: Fate::Completes,
    });
    let mut cluster = Cluster::new(jobs.collect(), &EngineConfig::default(), 16);
    cluster.run();
    cluster.check();
    assert!(cluster.decode.status().preemptions > 0);
}
