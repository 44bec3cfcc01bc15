use crate::fixtures::*;
use crate::request::SequenceId;
use crate::{EngineConfig, Finish, Onboarded};

const FLOOD: std::ops::Range<u64> = 100..104;

/// An engine of 12 blocks that has computed a prompt of 6 and forgotten it.
fn after_a_flood(tier: SlowTier) -> crate::Engine {
    let mut engine = engine_with(12, EngineConfig::default());
    engine.add_tier(Box::new(tier));
    engine.add(request(1, prompt(1, 25), 1), NOW).unwrap();
    run(&mut engine);
    for id in FLOOD {
        engine
            .add(request(id, prompt(id as u32, 30), 1), NOW)
            .unwrap();
        run(&mut engine);
    }
    engine
}

fn again(engine: &mut crate::Engine) -> Transcript {
    engine.add(request(2, prompt(1, 25), 4), NOW).unwrap();
    run(engine).remove(&SequenceId(2)).unwrap()
}

#[test]
fn evicted_blocks_come_back() {
    let mut engine = after_a_flood(SlowTier::new(100));
    let transcript = again(&mut engine);
    assert_eq!(transcript.cached_tokens, Some(24));
    assert_eq!(
        transcript.tokens,
        alone(request(2, prompt(1, 25), 4)).tokens
    );
    assert_empty(&engine);
}

#[test]
fn without_room_in_the_tier_they_are_computed() {
    let mut engine = after_a_flood(SlowTier::new(0));
    assert_eq!(again(&mut engine).cached_tokens, Some(0));
}

#[test]
fn from_a_lost_block_on_the_prompt_is_computed() {
    let hashes = request(1, prompt(1, 25), 1)
        .scope
        .full_blocks(&prompt(1, 25), BLOCK_SIZE);
    for (lost, hash) in hashes.iter().enumerate() {
        let mut tier = SlowTier::new(100);
        tier.loses = Some(hash.0 % 8);
        let first = hashes.iter().position(|it| it.0 % 8 == hash.0 % 8);
        let mut engine = after_a_flood(tier);
        let transcript = again(&mut engine);
        assert_eq!(
            transcript.cached_tokens,
            first.map(|it| it * BLOCK_SIZE),
            "{lost}"
        );
        assert_eq!(transcript.finish, Some(Finish::Length));
    }
}

#[test]
fn what_is_computed_faster_is_not_brought() {
    let (fast, slow) = (0.9e-3 * BLOCK_SIZE as f64, 1.1e-3 * BLOCK_SIZE as f64);
    for (seconds_per_block, cached) in [(fast, 24), (slow, 0)] {
        let mut tier = SlowTier::new(100);
        tier.seconds_per_block = seconds_per_block;
        let mut engine = after_a_flood(tier);
        engine.add(request(3, prompt(3, 30), 1), NOW).unwrap();
        let report = engine.step(NOW).unwrap();
        // A millisecond a token.
        let time = std::time::Duration::from_millis(report.prefill_tokens as u64);
        engine.record(&report, time);
        run(&mut engine);
        assert_eq!(again(&mut engine).cached_tokens, Some(cached));
    }
}

#[test]
fn other_sequences_run_while_blocks_are_on_their_way() {
    let mut tier = SlowTier::new(100);
    tier.delay = 3;
    let mut engine = after_a_flood(tier);
    engine.add(request(2, prompt(1, 25), 4), NOW).unwrap();
    engine.add(request(3, prompt(9, 5), 2), NOW).unwrap();
    let mut transcripts = Transcripts::new();
    step(&mut engine, &mut transcripts);
    step(&mut engine, &mut transcripts);
    assert_eq!(engine.status().onboarding, 1);
    assert_eq!(transcripts[&SequenceId(3)].finish, Some(Finish::Length));
    run_on(&mut engine, &mut transcripts);
    assert_eq!(transcripts[&SequenceId(2)].cached_tokens, Some(24));
}

#[test]
fn what_is_aborted_on_its_way_leaves_nothing() {
    let mut tier = SlowTier::new(100);
    tier.delay = 3;
    let mut engine = after_a_flood(tier);
    engine.add(request(2, prompt(1, 25), 4), NOW).unwrap();
    step(&mut engine, &mut Transcripts::new());
    engine.abort(SequenceId(2));
    while engine.has_work() {
        assert_eq!(engine.onboard(), Onboarded::default());
        engine.step(NOW).unwrap();
    }
    assert_empty(&engine);
}
