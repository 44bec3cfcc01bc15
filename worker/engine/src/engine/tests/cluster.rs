//! Two engines under random load: shared prefixes, small pools, hand-overs that
//! break half-way, aborts. Whatever happens, a sequence that ends has the tokens
//! it has alone, and nothing leaks.

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
        (place, arrives) in (place(), 0..20usize),
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
    events: BTreeSet<u64>,
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

    fn run(&mut self) {
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
            if round > 20 && at_rest(&self.prefill) && at_rest(&self.decode) {
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
                KvEvent::Stored { hashes, .. } => {
                    hashes
                        .iter()
                        .for_each(|it| assert!(self.events.insert(*it)));
                }
                KvEvent::Removed { hashes, .. } => {
                    hashes.iter().for_each(|it| assert!(self.events.remove(it)));
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
            assert_eq!(got.tokens, expected.tokens, "job {job}");
            assert_eq!(got.scored, expected.scored, "job {job}");
            assert_eq!(
                (got.finish, got.first_index),
                (expected.finish, expected.first_index)
            );
        }
        assert_empty(&self.prefill);
        assert_empty(&self.decode);
        let content: BTreeSet<u64> = self
            .decode
            .cached_content()
            .map(|it| it.hash.short())
            .collect();
        assert_eq!(self.events, content);
        assert_eq!(self.decode.status().cached_blocks, content.len());
    }
}

fn at_rest(engine: &Engine) -> bool {
    let status = engine.status();
    status.waiting + status.running + status.receiving + status.held == 0
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn sequences_end_as_if_they_were_alone(
        jobs in prop::collection::vec(job(), 1..14),
        (blocks, part) in (16..60usize, 0..5usize),
        (max_batch_tokens, max_sequences) in (1..40usize, 1..8usize),
        watermark in prop_oneof![Just(0.0f32), Just(0.1)],
    ) {
        let config = EngineConfig { max_batch_tokens, max_sequences, watermark, max_waiting: 100 };
        let mut cluster = Cluster::new(jobs, &config, blocks);
        cluster.part_bytes = part * 8 * (BLOCK_SIZE + 1);
        cluster.run();
        cluster.check();
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
