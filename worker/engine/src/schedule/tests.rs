use kvcache_index::KvEvent;

use super::*;
use crate::fixtures::{BLOCK_SIZE, NOW, prompt, request};
use crate::request::{KvSource, Output, Request};

const MAX_LEN: usize = 256;

/// A scheduler whose steps draw token 7 and take no device.
struct Bench {
    scheduler: Scheduler,
}

impl Bench {
    fn new(blocks: usize, config: EngineConfig) -> Bench {
        Bench {
            scheduler: Scheduler::new(config, BlockPool::new(blocks, BLOCK_SIZE)),
        }
    }

    fn add(&mut self, request: Request) {
        self.scheduler.add(Sequence::new(request, MAX_LEN, NOW));
    }

    /// One step, as (sequence, tokens) for each chunk.
    fn step(&mut self) -> (Vec<(u64, usize)>, Plan) {
        let plan = self.scheduler.schedule(NOW);
        for chunk in &plan.chunks {
            let (sequence, pool) = self.scheduler.get_mut(chunk.id).unwrap();
            assert!(sequence.blocks.len() * BLOCK_SIZE >= chunk.end);
            sequence.set_computed(chunk.end, pool);
            if chunk.sample {
                sequence.tokens.push(7);
            }
            if !sequence.wants_token() {
                self.scheduler.remove(chunk.id);
            }
        }
        let chunks = plan.chunks.iter().map(|it| (it.id.0, it.end - it.start));
        (chunks.collect(), plan)
    }

    fn chunks(&mut self) -> Vec<(u64, usize)> {
        self.step().0
    }
}

fn budget(max_batch_tokens: usize) -> EngineConfig {
    EngineConfig {
        max_batch_tokens,
        max_sequences: 8,
        watermark: 0.0,
        ..EngineConfig::default()
    }
}

#[test]
fn a_long_prompt_is_cut_and_does_not_stall_decoding() {
    let mut bench = Bench::new(64, budget(10));
    bench.add(request(1, prompt(1, 4), 9));
    assert_eq!(bench.chunks(), [(1, 4)]);
    bench.add(request(2, prompt(2, 25), 9));
    assert_eq!(bench.chunks(), [(1, 1), (2, 9)]);
    assert_eq!(bench.chunks(), [(1, 1), (2, 9)]);
    assert_eq!(bench.chunks(), [(1, 1), (2, 7)]);
    let (chunks, plan) = bench.step();
    assert_eq!(chunks, [(1, 1), (2, 1)]);
    assert_eq!((plan.prefill_tokens, plan.decode_tokens), (0, 2));
}

#[test]
fn only_the_chunk_that_ends_a_prompt_draws() {
    let mut bench = Bench::new(64, budget(10));
    bench.add(request(1, prompt(1, 15), 2));
    let draws = |plan: &Plan| plan.chunks[0].sample;
    assert!(!draws(&bench.step().1));
    assert!(draws(&bench.step().1));
    assert!(draws(&bench.step().1));
    assert!(bench.chunks().is_empty());
}

#[test]
fn prompts_are_computed_first_come_first_served() {
    let mut bench = Bench::new(64, budget(10));
    for id in 1..=3 {
        bench.add(request(id, prompt(id as u32, 6), 3));
    }
    assert_eq!(bench.chunks(), [(1, 6), (2, 4)]);
    assert_eq!(bench.chunks(), [(1, 1), (2, 2), (3, 6)]);
}

#[test]
fn the_number_of_sequences_is_bounded() {
    let config = EngineConfig {
        max_sequences: 2,
        ..budget(100)
    };
    let mut bench = Bench::new(64, config);
    for id in 1..=3 {
        bench.add(request(id, prompt(id as u32, 4), 2));
    }
    assert_eq!(bench.chunks(), [(1, 4), (2, 4)]);
    assert_eq!(bench.chunks(), [(1, 1), (2, 1)]);
    assert_eq!(bench.chunks(), [(3, 4)]);
}

#[test]
fn more_sequences_than_tokens_in_a_step_have_no_effect() {
    let config = EngineConfig {
        max_sequences: 100,
        ..budget(3)
    };
    assert_eq!(Bench::new(64, config).scheduler.config().max_sequences, 3);
}

#[test]
fn a_cached_prefix_is_not_computed_but_the_last_token_always_is() {
    let mut bench = Bench::new(64, budget(100));
    bench.add(request(1, prompt(1, 12), 1));
    assert_eq!(bench.chunks(), [(1, 12)]);
    // All three blocks are cached; the last token is computed again for its
    // logits, in a copy of its block.
    bench.add(request(2, prompt(1, 12), 1));
    let mut longer = prompt(1, 12);
    longer.extend([500, 501]);
    bench.add(request(3, longer, 1));
    let (chunks, plan) = bench.step();
    assert_eq!(chunks, [(2, 1), (3, 2)]);
    assert_eq!(plan.copies.len(), 1);
    let cached = |id, cached_tokens| Output::Started {
        id: SequenceId(id),
        cached_tokens,
    };
    assert_eq!(plan.outputs, [cached(2, 11), cached(3, 12)]);
}

#[test]
fn nobody_overtakes_the_first_in_the_queue() {
    let mut bench = Bench::new(10, budget(100));
    bench.add(request(1, prompt(1, 24), 8));
    assert_eq!(bench.chunks(), [(1, 24)]);
    bench.add(request(2, prompt(2, 20), 2));
    bench.add(request(3, prompt(3, 2), 2));
    for _ in 0..7 {
        assert_eq!(bench.chunks(), [(1, 1)]);
    }
    assert_eq!(bench.chunks(), [(2, 20), (3, 2)]);
}

#[test]
fn the_latest_arrival_yields_its_blocks_and_comes_back_through_the_cache() {
    let mut bench = Bench::new(7, budget(100));
    bench.add(request(1, prompt(1, 12), 8));
    bench.add(request(2, prompt(2, 10), 8));
    assert_eq!(bench.chunks(), [(1, 12), (2, 10)]);
    // The first takes the last block, the second still has room in its own.
    assert_eq!(bench.chunks(), [(1, 1), (2, 1)]);
    assert_eq!(bench.chunks(), [(1, 1), (2, 1)]);
    let (chunks, plan) = bench.step();
    assert_eq!((chunks, plan.preempted), (vec![(1, 1)], 1));
    assert_eq!(bench.scheduler.preemptions(), 1);
    let second = bench.scheduler.get(SequenceId(2)).unwrap();
    assert_eq!((second.state, second.tokens.len()), (State::Waiting, 13));
    let mut recomputed = None;
    for _ in 0..20 {
        let chunks = bench.chunks();
        let second = chunks.iter().find(|(id, _)| *id == 2);
        recomputed = recomputed.or(second.copied());
    }
    // Of 13 tokens it had three full blocks; two at least survived.
    assert!(matches!(recomputed, Some((2, 1..=5))), "{recomputed:?}");
    assert_eq!(bench.scheduler.pool.free(), 7);
}

#[test]
fn admission_leaves_room_for_those_that_run() {
    let config = EngineConfig {
        watermark: 0.3,
        ..budget(100)
    };
    let mut bench = Bench::new(10, config);
    // Alone it may take everything.
    bench.add(request(1, prompt(1, 38), 2));
    assert_eq!(bench.chunks(), [(1, 38)]);
    assert_eq!(bench.chunks(), [(1, 1)]);
    bench.add(request(2, prompt(2, 16), 2));
    bench.add(request(3, prompt(3, 16), 2));
    assert_eq!(bench.chunks(), [(2, 16)]);
    assert_eq!(bench.chunks(), [(2, 1)]);
    assert_eq!(bench.chunks(), [(3, 16)]);
}

#[test]
fn kv_is_received_even_when_the_budget_is_spent() {
    let mut bench = Bench::new(64, budget(4));
    bench.add(request(1, prompt(1, 9), 2));
    let mut receiving = request(2, prompt(2, 9), 2);
    receiving.kv = KvSource::Receive;
    bench.add(receiving);
    bench.add(request(3, prompt(3, 9), 2));
    let (chunks, plan) = bench.step();
    assert_eq!(chunks, [(1, 4)]);
    let receiving = Output::Receiving {
        id: SequenceId(2),
        first_block: 0,
    };
    assert!(plan.outputs.contains(&receiving));
    assert_eq!(bench.scheduler.count(State::Waiting), 1);
}

#[test]
fn the_queue_says_how_long_its_first_waits() {
    let mut bench = Bench::new(4, budget(100));
    bench.add(request(1, prompt(1, 12), 2));
    bench.scheduler.add(Sequence::new(
        request(2, prompt(2, 12), 2),
        MAX_LEN,
        Duration::from_secs(5),
    ));
    let plan = bench.scheduler.schedule(Duration::from_secs(8));
    assert_eq!(plan.longest_wait, Duration::from_secs(3));
}

#[test]
fn generated_blocks_are_cached_too() {
    let mut bench = Bench::new(16, budget(100));
    bench.add(request(1, prompt(1, 4), 6));
    while !bench.chunks().is_empty() {}
    let stored: usize = bench
        .scheduler
        .pool
        .drain_events()
        .iter()
        .map(|event| match event {
            KvEvent::Stored { hashes, .. } => hashes.len(),
            _ => panic!("{event:?}"),
        })
        .sum();
    // 4 prompt tokens and 5 of the 6 generated ones have KV: two full blocks.
    assert_eq!(stored, 2);
}

fn urgent(id: u64, tokens: usize, max_tokens: usize) -> Request {
    Request {
        priority: 5,
        ..request(id, prompt(id as u32, tokens), max_tokens)
    }
}

#[test]
fn the_most_urgent_goes_first() {
    let mut bench = Bench::new(64, budget(10));
    bench.add(request(1, prompt(1, 8), 3));
    bench.add(request(2, prompt(2, 8), 3));
    bench.add(urgent(3, 8, 3));
    assert_eq!(bench.chunks(), [(3, 8), (1, 2)]);
}

#[test]
fn the_least_urgent_yields_its_blocks() {
    let mut bench = Bench::new(7, budget(100));
    bench.add(urgent(2, 10, 8));
    bench.add(request(1, prompt(1, 12), 8));
    assert_eq!(bench.chunks(), [(2, 10), (1, 12)]);
    let mut preempted = 0;
    let rest: Vec<_> = (0..6)
        .flat_map(|_| {
            let (chunks, plan) = bench.step();
            preempted += plan.preempted;
            chunks
        })
        .collect();
    assert_eq!(preempted, 1);
    assert_eq!(rest.iter().filter(|(id, _)| *id == 2).count(), 6);
}

#[test]
fn running_sequences_yield_to_a_more_urgent_one_that_waits() {
    let mut bench = Bench::new(8, budget(100));
    bench.add(request(1, prompt(1, 12), 8));
    bench.add(request(2, prompt(2, 12), 8));
    assert_eq!(bench.chunks(), [(1, 12), (2, 12)]);
    bench.add(urgent(3, 14, 2));
    let (chunks, plan) = bench.step();
    assert_eq!((chunks, plan.preempted), (vec![(1, 1), (3, 14)], 1));
    let config = EngineConfig {
        max_sequences: 2,
        ..budget(100)
    };
    let mut bench = Bench::new(64, config);
    (1..=2).for_each(|id| bench.add(request(id, prompt(id as u32, 4), 9)));
    bench.chunks();
    bench.add(urgent(3, 4, 2));
    assert_eq!(bench.chunks(), [(1, 1), (3, 4)]);
}

#[test]
fn nobody_yields_in_vain() {
    let mut bench = Bench::new(8, budget(100));
    bench.add(urgent(1, 20, 3));
    bench.add(request(2, prompt(2, 6), 3));
    assert_eq!(bench.chunks(), [(1, 20), (2, 6)]);
    bench.add(urgent(3, 20, 2));
    let (chunks, plan) = bench.step();
    assert_eq!((chunks, plan.preempted), (vec![(1, 1), (2, 1)], 0));
}

#[test]
fn sequences_of_one_prompt_compute_it_once() {
    let mut bench = Bench::new(64, budget(10));
    for id in 1..=4 {
        bench.add(request(id, prompt(1, 22), 3));
    }
    // The second and later ones wait for blocks that the first computes.
    assert_eq!(bench.chunks(), [(1, 10)]);
    assert_eq!(bench.chunks(), [(1, 10)]);
    assert_eq!(bench.chunks(), [(1, 2)]);
    let (chunks, plan) = bench.step();
    assert_eq!(chunks, [(1, 1), (2, 1), (3, 1), (4, 1)]);
    assert_eq!((plan.prefill_tokens, plan.copies.len()), (3, 3));
    let started: Vec<usize> = (1..=4)
        .map(|id| bench.scheduler.get(SequenceId(id)).unwrap().blocks.len())
        .collect();
    assert_eq!(started, [6, 6, 6, 6]);
    // Five blocks are everybody's, and the last one each one's own.
    assert_eq!(bench.scheduler.pool.free(), 64 - 5 - 4);
}

#[test]
fn who_waited_for_another_s_block_computes_it_if_that_one_leaves() {
    let mut bench = Bench::new(64, budget(10));
    bench.add(request(1, prompt(1, 30), 3));
    bench.add(request(2, prompt(1, 30), 3));
    assert_eq!(bench.chunks(), [(1, 10)]);
    bench.scheduler.remove(SequenceId(1));
    assert_eq!(bench.chunks(), [(2, 10)]);
}

/// A device on which a step takes 10 ms and 1 ms for each prompt token, and
/// which two streams have kept busy for some steps.
struct PacedBench(Bench);

impl PacedBench {
    fn new(blocks: usize, config: EngineConfig) -> PacedBench {
        let config = EngineConfig {
            target_step: TargetStep::Auto,
            ..config
        };
        let mut bench = PacedBench(Bench::new(blocks, config));
        bench.0.add(request(1, prompt(1, 4), 99));
        bench.0.add(request(2, prompt(2, 4), 99));
        (0..6).for_each(|_| _ = bench.step());
        bench
    }

    /// Prompt tokens of a step.
    fn step(&mut self) -> usize {
        let (_, plan) = self.0.step();
        self.0.scheduler.record(StepTime {
            prefill_tokens: plan.prefill_tokens,
            decode_tokens: plan.decode_tokens,
            cached_tokens: 0,
            left_waiting: 0,
            time: Duration::from_millis(10 + plan.prefill_tokens as u64),
        });
        plan.prefill_tokens
    }
}

#[test]
fn a_step_beside_more_decodes_than_prompts_keeps_to_its_target() {
    let mut bench = PacedBench::new(256, budget(1000));
    bench.0.add(request(3, prompt(3, 200), 2));
    let chunks: Vec<usize> = (0..6).map(|_| bench.step()).collect();
    assert!(chunks.iter().all(|chunk| *chunk <= 9), "{chunks:?}");
    // With one left, as many wait as are held up.
    bench.0.scheduler.remove(SequenceId(1));
    assert!(bench.step() > 100);
}

#[test]
fn prompts_go_first_if_a_step_ends_as_many_as_there_are_decodes() {
    let add = |bench: &mut PacedBench, lens: [usize; 2]| {
        for (id, len) in (3..).zip(lens) {
            bench.0.add(request(id, prompt(id as u32, len), 2));
        }
    };
    let mut bench = PacedBench::new(256, budget(1000));
    add(&mut bench, [200, 150]);
    assert_eq!(bench.step(), 350);
    // One that a step does not end.
    let mut bench = PacedBench::new(256, budget(300));
    add(&mut bench, [200, 150]);
    assert!(bench.step() <= 9);
    // One that is not let in.
    let mut bench = PacedBench::new(
        256,
        EngineConfig {
            max_sequences: 3,
            ..budget(1000)
        },
    );
    add(&mut bench, [200, 150]);
    assert!(bench.step() <= 9);
    // One for which there are no blocks.
    let mut bench = PacedBench::new(350 / BLOCK_SIZE, budget(1000));
    add(&mut bench, [200, 150]);
    assert!(bench.step() <= 9);
}
