use std::time::Duration;

use super::*;
use crate::fixtures::{BLOCK_SIZE, EOS, greedy, prompt, sim_config};
use crate::request::SequenceId;

struct Lane {
    id: u64,
    tokens: Vec<u32>,
    blocks: Vec<BlockId>,
    sampling: SamplingParams,
}

impl Lane {
    fn new(id: u64, tokens: Vec<u32>, blocks: impl IntoIterator<Item = u32>) -> Lane {
        Lane {
            id,
            tokens,
            blocks: blocks.into_iter().map(BlockId).collect(),
            sampling: greedy(10),
        }
    }

    fn chunk(&self, start: usize, end: usize) -> Chunk<'_> {
        Chunk {
            id: SequenceId(self.id),
            tokens: &self.tokens,
            prompt_len: self.tokens.len(),
            start,
            end,
            blocks: &self.blocks,
            sample: end == self.tokens.len(),
            prompt_logprobs: false,
            sampling: &self.sampling,
            constraint: None,
            pooled: end..end,
        }
    }
}

fn sim() -> SimRunner {
    SimRunner::new(sim_config(16))
}

fn run(sim: &mut SimRunner, chunks: Vec<Chunk<'_>>) -> Result<StepResult, RunError> {
    sim.run(&Step { chunks })
}

fn drawn(sim: &mut SimRunner, lane: &Lane) -> u32 {
    let result = run(sim, vec![lane.chunk(0, lane.tokens.len())]).unwrap();
    result.sampled[0].as_ref().unwrap().token
}

#[test]
fn a_token_depends_on_the_prompt_and_not_on_chunks_or_blocks() {
    let mut sim = sim();
    let whole = drawn(&mut sim, &Lane::new(1, prompt(1, 10), 0..3));
    let cut = Lane::new(2, prompt(1, 10), [9, 4, 7]);
    for (start, end) in [(0, 3), (3, 9)] {
        let result = run(&mut sim, vec![cut.chunk(start, end)]).unwrap();
        assert_eq!(result.sampled, [None]);
    }
    let result = run(&mut sim, vec![cut.chunk(9, 10)]).unwrap();
    assert_eq!(result.sampled[0].as_ref().unwrap().token, whole);
    let other = drawn(&mut sim, &Lane::new(3, prompt(2, 10), 10..13));
    assert_ne!(whole, other);
}

#[test]
fn the_seed_counts_only_at_a_temperature() {
    let mut sim = sim();
    let mut draw = |temperature, seed| {
        let mut lane = Lane::new(1, prompt(1, 5), 0..2);
        lane.sampling.temperature = temperature;
        lane.sampling.seed = seed;
        drawn(&mut sim, &lane)
    };
    assert_eq!(draw(0.0, 1), draw(0.0, 2));
    assert_ne!(draw(1.0, 1), draw(1.0, 2));
}

#[test]
fn end_of_text_comes_at_its_rate_only() {
    let count = |eos_rate, change: fn(&mut SamplingParams)| {
        let mut sim = SimRunner::new(SimConfig {
            eos_rate,
            vocab_size: 10,
            eos_token_ids: vec![3, 4],
            ..sim_config(16)
        });
        let draws = (0..1000).map(|n| {
            let mut lane = Lane::new(1, vec![1, n % 10, n / 10 % 10, n / 100], 0..1);
            change(&mut lane.sampling);
            drawn(&mut sim, &lane)
        });
        draws.filter(|token| [3, 4].contains(token)).count()
    };
    assert_eq!(count(0.0, |_| ()), 0);
    assert!((150..250).contains(&count(0.2, |_| ())));
    assert_eq!(count(1.0, |_| ()), 1000);
    assert_eq!(count(1.0, |params| params.ignore_eos = true), 0);
    assert_eq!(count(1.0, |params| params.min_tokens = 1), 0);
}

#[test]
fn missing_wrong_or_shared_kv_fails_the_step() {
    let lane = Lane::new(1, prompt(1, 10), 0..3);
    let computed = || {
        let mut sim = sim();
        run(&mut sim, vec![lane.chunk(0, 9)]).unwrap();
        sim
    };
    assert!(run(&mut computed(), vec![lane.chunk(9, 10)]).is_ok());
    let other = |blocks: [u32; 3]| Lane::new(2, prompt(1, 10), blocks);
    for wrong in [other([0, 2, 1]), other([0, 5, 2]), other([0, 1, 6])] {
        assert!(run(&mut computed(), vec![wrong.chunk(9, 10)]).is_err());
    }
    let stranger = Lane::new(3, prompt(2, 10), 0..3);
    assert!(run(&mut computed(), vec![stranger.chunk(9, 10)]).is_err());
    let thief = Lane::new(4, prompt(2, 4), [1]);
    let mut sim = computed();
    run(&mut sim, vec![thief.chunk(0, 4)]).unwrap();
    assert!(run(&mut sim, vec![lane.chunk(9, 10)]).is_err());
    let twin = other([0, 1, 2]);
    let twice = run(&mut computed(), vec![lane.chunk(9, 10), twin.chunk(9, 10)]);
    assert!(twice.is_err());
    let homeless = Lane::new(5, prompt(1, 10), 0..2);
    assert!(run(&mut computed(), vec![homeless.chunk(0, 10)]).is_err());
}

#[test]
fn writing_a_position_voids_those_after_it_in_the_block() {
    let lane = Lane::new(1, prompt(1, 10), 0..3);
    let mut sim = sim();
    run(&mut sim, vec![lane.chunk(0, 8)]).unwrap();
    run(&mut sim, vec![lane.chunk(4, 5)]).unwrap();
    assert!(run(&mut sim, vec![lane.chunk(8, 9)]).is_err());
}

#[test]
fn the_cheap_check_still_sees_a_wrong_last_token() {
    let mut sim = SimRunner::new(SimConfig {
        check: KvCheck::Last,
        ..sim_config(16)
    });
    let lane = Lane::new(1, prompt(1, 10), 0..3);
    run(&mut sim, vec![lane.chunk(0, 9)]).unwrap();
    let stranger = Lane::new(2, prompt(2, 10), 0..3);
    assert!(run(&mut sim, vec![stranger.chunk(9, 10)]).is_err());
    assert!(run(&mut sim, vec![lane.chunk(9, 10)]).is_ok());
}

#[test]
fn a_block_travels_as_its_image() {
    let mut from = sim();
    let lane = Lane::new(1, prompt(1, 6), 0..2);
    run(&mut from, vec![lane.chunk(0, 5)]).unwrap();
    let mut to = sim();
    for (block, target) in [(0, 8), (1, 9)] {
        let mut bytes = Vec::new();
        from.export_block(BlockId(block), &mut bytes).unwrap();
        assert_eq!(bytes.len(), from.shape().kv.block_bytes);
        to.import_block(BlockId(target), &bytes).unwrap();
        bytes[0] ^= 1;
        assert!(to.import_block(BlockId(target), &bytes).is_err());
        assert!(to.import_block(BlockId(target), &bytes[..7]).is_err());
    }
    let moved = Lane::new(2, prompt(1, 6), [8, 9]);
    let result = run(&mut to, vec![moved.chunk(5, 6)]).unwrap();
    let expected = drawn(&mut sim(), &lane);
    assert_eq!(result.sampled[0].as_ref().unwrap().token, expected);
    assert!(from.export_block(BlockId(5), &mut Vec::new()).is_err());
    assert!(from.export_block(BlockId(99), &mut Vec::new()).is_err());
}

#[test]
fn images_are_padded_to_the_size_asked_for() {
    let sim = SimRunner::new(SimConfig {
        kv_block_bytes: 4096,
        ..sim_config(4)
    });
    assert_eq!(sim.shape().kv.block_bytes, 4096);
    assert_eq!(self::sim().shape().kv.block_bytes, (BLOCK_SIZE + 1) * 8);
}

#[test]
fn logprobs_are_reported_as_asked() {
    let mut lane = Lane::new(1, prompt(1, 6), 0..2);
    lane.sampling.logprobs = Some(3);
    lane.sampling.prompt_logprobs = Some(0);
    let chunk = |start, end| Chunk {
        prompt_logprobs: true,
        ..lane.chunk(start, end)
    };
    let mut sim = sim();
    let result = run(&mut sim, vec![chunk(0, 3)]).unwrap();
    let scored: Vec<u32> = result.prompt_logprobs[0]
        .iter()
        .map(|it| it.token)
        .collect();
    assert_eq!(scored, lane.tokens[1..4]);
    let result = run(&mut sim, vec![chunk(3, 6)]).unwrap();
    let scored: Vec<u32> = result.prompt_logprobs[0]
        .iter()
        .map(|it| it.token)
        .collect();
    assert_eq!(scored, lane.tokens[4..]);
    let sampled = result.sampled[0].as_ref().unwrap();
    assert_eq!(
        (sampled.top.len(), sampled.top[0].token),
        (3, sampled.token)
    );
    assert_ne!(sampled.token, EOS);
}

#[test]
fn a_step_takes_its_time() {
    let cost = StepCost {
        base: Duration::from_millis(5),
        prefill_tokens_per_second: 1000.0,
        decode_per_sequence: Duration::from_millis(1),
        decode_per_1000_context_tokens: Duration::from_millis(500),
    };
    let prefill = Lane::new(1, prompt(1, 6), 0..2);
    let decode = Lane::new(2, prompt(2, 10), 2..5);
    let decoding = || Chunk {
        prompt_len: 8,
        ..decode.chunk(9, 10)
    };
    let time = |chunks| cost.of(&Step { chunks });
    let ms = Duration::from_millis;
    assert_eq!(time(vec![prefill.chunk(0, 6)]), ms(11));
    assert_eq!(time(vec![decoding()]), ms(11));
    assert_eq!(time(vec![decoding(), prefill.chunk(2, 6)]), ms(15));
    let free = StepCost::FREE.of(&Step {
        chunks: vec![decoding(), prefill.chunk(0, 6)],
    });
    assert_eq!(free, Duration::ZERO);
}
