use std::collections::BTreeSet;
use std::sync::Arc;

use super::*;
use crate::fixtures::*;
use crate::request::{KvSource, Pooling, SamplingParams};

mod choices;
mod cluster;

fn puppet(total_blocks: usize, change: impl FnOnce(&mut Puppet)) -> Engine {
    let mut puppet = Puppet::new(total_blocks);
    change(&mut puppet);
    Engine::new(EngineConfig::default(), Box::new(puppet))
}

fn only(engine: &mut Engine) -> Transcript {
    let mut transcripts = run(engine);
    assert_eq!(transcripts.len(), 1);
    transcripts.pop_first().unwrap().1
}

fn with(request: Request, change: impl FnOnce(&mut SamplingParams)) -> Request {
    let mut request = request;
    change(&mut request.sampling);
    request
}

#[test]
fn a_sequence_runs_to_max_tokens() {
    let mut engine = engine(64);
    engine.add(request(1, prompt(1, 10), 5), NOW).unwrap();
    let transcript = only(&mut engine);
    assert_eq!(transcript.tokens.len(), 5);
    assert_eq!(transcript.finish, Some(Finish::Length));
    assert_eq!(transcript.cached_tokens, Some(0));
    assert_empty(&engine);
}

#[test]
fn tokens_do_not_depend_on_batch_budget_or_cache() {
    let config = EngineConfig {
        max_batch_tokens: 3,
        ..EngineConfig::default()
    };
    let mut engine = engine_with(64, config);
    let requests: Vec<Request> = (0..6)
        .map(|id| request(id, prompt(id as u32 % 2, 9 + id as usize), 6))
        .collect();
    for request in &requests {
        engine.add(request.clone(), NOW).unwrap();
    }
    let transcripts = run(&mut engine);
    for request in requests {
        assert_eq!(
            transcripts[&request.id].tokens,
            alone(request.clone()).tokens
        );
    }
    assert_empty(&engine);
}

#[test]
fn the_end_of_a_sequence() {
    let says = [10, EOS, 20, 30, 40, 50];
    type Change = fn(&mut SamplingParams);
    let table: [(Change, usize, Finish); 7] = [
        (|_| (), 2, Finish::Stop),
        (|p| p.ignore_eos = true, 6, Finish::Length),
        (|p| p.stop_token_ids = vec![10], 1, Finish::Stop),
        (|p| p.max_tokens = 1, 1, Finish::Length),
        (|p| p.max_tokens = 2, 2, Finish::Stop),
        (|p| p.min_tokens = 2, 6, Finish::Length),
        (
            |p| (p.min_tokens, p.stop_token_ids) = (2, vec![10, 20]),
            3,
            Finish::Stop,
        ),
    ];
    for (change, tokens, finish) in table {
        let mut engine = puppet(64, |puppet| puppet.says = says.to_vec());
        let request = with(request(1, prompt(1, 5), 6), change);
        engine.add(request.clone(), NOW).unwrap();
        let transcript = only(&mut engine);
        let end = (transcript.tokens.len(), transcript.finish);
        assert_eq!(end, (tokens, Some(finish)), "{:?}", request.sampling);
        assert_eq!(transcript.tokens, says[..tokens]);
        assert_empty(&engine);
    }
}

#[test]
fn the_context_or_the_pool_ends_a_sequence_that_asks_for_more() {
    let mut model = engine(1024);
    let mut pool = engine(5);
    assert_eq!((model.max_model_len(), pool.max_model_len()), (256, 20));
    for (engine, generated) in [(&mut model, 246), (&mut pool, 10)] {
        engine.add(request(1, prompt(1, 10), 5000), NOW).unwrap();
        let transcript = only(engine);
        assert_eq!(transcript.tokens.len(), generated);
        assert_eq!(transcript.finish, Some(Finish::Length));
        assert_empty(engine);
    }
}

#[test]
fn what_can_not_run_is_refused() {
    let config = EngineConfig {
        max_waiting: 2,
        ..EngineConfig::default()
    };
    let mut engine = engine_with(8, config);
    let too_long = |tokens, limit| Rejected::PromptTooLong { tokens, limit };
    let long = request(1, prompt(1, 32), 1);
    assert_eq!(engine.add(long.clone(), NOW), Err(too_long(32, 31)));
    let unscored = with(request(1, prompt(1, 33), 0), |_| ());
    assert_eq!(engine.add(unscored, NOW), Err(too_long(33, 32)));
    let resumed = |resumed_tokens| Request {
        resumed_tokens,
        ..request(1, prompt(1, 4), 9)
    };
    let invalid = [
        request(1, vec![], 1),
        resumed(4),
        request(1, vec![3, 1000], 1),
        Request {
            purpose: Purpose::HandOver,
            ..request(1, prompt(1, 4), 0)
        },
        Request {
            kv: KvSource::Receive,
            ..with(request(1, prompt(1, 4), 1), |p| p.prompt_logprobs = Some(0))
        },
    ];
    for request in invalid {
        let refused = engine.add(request.clone(), NOW);
        assert!(matches!(refused, Err(Rejected::Invalid(_))), "{request:?}");
    }
    for id in 1..=2 {
        engine.add(request(id, prompt(1, 31), 1), NOW).unwrap();
    }
    let twice = engine.add(request(2, prompt(1, 4), 1), NOW);
    assert!(matches!(twice, Err(Rejected::Invalid(_))));
    let busy = Rejected::Busy { waiting: 2 };
    assert_eq!(engine.add(request(3, prompt(1, 4), 1), NOW), Err(busy));
}

#[test]
fn a_resumed_sequence_goes_on_where_it_was() {
    let whole = with(request(1, prompt(1, 10), 8), |p| {
        (p.temperature, p.seed) = (1.0, 5);
    });
    let tokens = alone(whole.clone()).tokens;
    for generated in 1..8 {
        let mut resumed = whole.clone();
        resumed.tokens.extend(&tokens[..generated]);
        resumed.resumed_tokens = generated;
        let transcript = alone(resumed);
        assert_eq!(transcript.first_index, generated);
        assert_eq!(transcript.tokens, tokens[generated..]);
    }
}

#[test]
fn a_resumed_sequence_that_had_ended_only_says_so() {
    let ended = |last: u32, max_tokens| Request {
        resumed_tokens: 1,
        ..request(1, [prompt(1, 6), vec![last]].concat(), max_tokens)
    };
    for (request, finish) in [(ended(EOS, 9), Finish::Stop), (ended(5, 1), Finish::Length)] {
        let mut engine = puppet(16, |puppet| puppet.fails = vec![1]);
        engine.add(request, NOW).unwrap();
        assert!(engine.has_work());
        let transcript = only(&mut engine);
        assert_eq!(transcript.finish, Some(finish));
        assert!(transcript.tokens.is_empty());
        assert_empty(&engine);
    }
}

#[test]
fn a_prompt_is_scored_once_and_without_the_cache() {
    let config = EngineConfig {
        max_batch_tokens: 5,
        ..EngineConfig::default()
    };
    let mut engine = engine_with(64, config);
    engine.add(request(1, prompt(1, 18), 1), NOW).unwrap();
    run(&mut engine);
    for (id, max_tokens) in [(2, 0), (3, 2)] {
        let scoring = with(request(id, prompt(1, 18), max_tokens), |p| {
            p.prompt_logprobs = Some(2);
        });
        engine.add(scoring, NOW).unwrap();
        let transcript = only(&mut engine);
        assert_eq!(transcript.cached_tokens, Some(0));
        assert_eq!(transcript.scored, prompt(1, 18)[1..]);
        assert_eq!(transcript.tokens.len(), max_tokens);
        assert_eq!(transcript.finish, Some(Finish::Length));
    }
    assert_empty(&engine);
}

#[test]
fn a_preempted_sequence_repeats_nothing() {
    let mut engine = engine(12);
    let requests: Vec<Request> = (1..=4)
        .map(|id| {
            with(request(id, prompt(id as u32, 9), 14), |p| {
                p.prompt_logprobs = Some(1);
            })
        })
        .collect();
    for request in &requests {
        engine.add(request.clone(), NOW).unwrap();
    }
    // Recording fails on a repeated or missing index.
    let transcripts = run(&mut engine);
    assert!(engine.status().preemptions > 0);
    for request in requests {
        let expected = alone(request.clone());
        let got = &transcripts[&request.id];
        assert_eq!(got.tokens, expected.tokens);
        assert_eq!(got.scored, expected.scored);
    }
    assert_empty(&engine);
}

#[test]
fn a_prompt_preempted_while_scored_goes_on_at_the_first_logprob_due() {
    let config = EngineConfig {
        max_batch_tokens: 5,
        watermark: 0.0,
        ..EngineConfig::default()
    };
    let mut engine = engine_with(9, config);
    engine.add(request(1, prompt(1, 2), 12), NOW).unwrap();
    let scoring = with(request(2, prompt(2, 30), 1), |p| {
        p.prompt_logprobs = Some(0);
    });
    engine.add(scoring, NOW).unwrap();
    let transcripts = run(&mut engine);
    assert!(engine.status().preemptions > 0);
    assert_eq!(transcripts[&SequenceId(2)].scored, prompt(2, 30)[1..]);
    assert_empty(&engine);
}

#[test]
fn a_failed_step_loses_its_sequences_and_nothing_else() {
    let mut engine = puppet(16, |puppet| puppet.fails = vec![2]);
    engine.add(request(1, prompt(1, 8), 9), NOW).unwrap();
    let mut transcripts = Transcripts::new();
    step(&mut engine, &mut transcripts);
    let receiving = Request {
        kv: KvSource::Receive,
        ..request(2, prompt(2, 8), 9)
    };
    engine.add(receiving, NOW).unwrap();
    engine.add(request(3, prompt(3, 60), 2), NOW).unwrap();
    let error = engine.step(NOW).unwrap_err();
    assert_eq!(error.lost, [SequenceId(1)]);
    record(&mut transcripts, error.outputs);
    assert_eq!(transcripts[&SequenceId(2)].first_block, Some(0));
    let status = engine.status();
    assert_eq!((status.receiving, status.waiting), (1, 1));
    assert_eq!(status.free_blocks, 14);
    engine.abort(SequenceId(2));
    run_on(&mut engine, &mut transcripts);
    assert_eq!(transcripts[&SequenceId(3)].tokens.len(), 2);
    assert_empty(&engine);
}

#[test]
fn a_failed_step_does_not_say_that_it_started_what_it_lost() {
    let mut engine = puppet(16, |puppet| puppet.fails = vec![1]);
    engine.add(request(1, prompt(1, 8), 9), NOW).unwrap();
    let error = engine.step(NOW).unwrap_err();
    assert_eq!((error.lost, error.outputs), (vec![SequenceId(1)], vec![]));
}

#[test]
fn nothing_is_told_of_an_aborted_sequence_that_had_ended() {
    let mut engine = engine(16);
    let ended = Request {
        resumed_tokens: 1,
        ..request(1, prompt(1, 6), 1)
    };
    engine.add(ended, NOW).unwrap();
    engine.abort(SequenceId(1));
    assert!(!engine.has_work());
    assert!(engine.step(NOW).unwrap().outputs.is_empty());
}

/// Draws nothing.
struct Mute(crate::SimRunner);

impl Runner for Mute {
    fn shape(&self) -> &RunnerShape {
        self.0.shape()
    }

    fn run(&mut self, _: &crate::Step<'_>) -> Result<StepResult, RunError> {
        Ok(StepResult::default())
    }

    fn export_block(&self, _: crate::BlockId, _: &mut Vec<u8>) -> Result<(), RunError> {
        Ok(())
    }

    fn import_block(&mut self, _: crate::BlockId, _: &[u8]) -> Result<(), RunError> {
        Ok(())
    }
}

#[test]
fn a_runner_that_leaves_out_tokens_fails_the_step() {
    let mute = Mute(crate::SimRunner::new(sim_config(16)));
    let mut engine = Engine::new(EngineConfig::default(), Box::new(mute));
    engine.add(request(1, prompt(1, 8), 9), NOW).unwrap();
    assert_eq!(engine.step(NOW).unwrap_err().lost, [SequenceId(1)]);
    assert_empty(&engine);
}

#[test]
fn abort_frees_blocks_at_once_in_every_state() {
    let config = EngineConfig {
        max_batch_tokens: 10,
        ..EngineConfig::default()
    };
    let mut engine = engine_with(16, config);
    let decoding = request(1, prompt(1, 4), 50);
    let handed_over = Request {
        purpose: Purpose::HandOver,
        ..request(2, prompt(2, 5), 9)
    };
    let receiving = Request {
        kv: KvSource::Receive,
        ..request(3, prompt(3, 8), 9)
    };
    let requests = [
        decoding,
        handed_over,
        receiving,
        request(4, prompt(4, 20), 9),
        request(5, prompt(5, 40), 9),
    ];
    for request in requests {
        engine.add(request, NOW).unwrap();
    }
    (0..2).for_each(|_| drop(engine.step(NOW).unwrap()));
    let status = engine.status();
    assert_eq!((status.running, status.held), (2, 1));
    assert_eq!((status.receiving, status.waiting), (1, 1));
    let mut free = status.free_blocks;
    for id in [4, 2, 1, 3] {
        engine.abort(SequenceId(id));
        assert!(engine.status().free_blocks > free, "sequence {id}");
        free = engine.status().free_blocks;
    }
    engine.abort(SequenceId(5));
    engine.abort(SequenceId(77));
    assert!(!engine.has_work());
    assert_empty(&engine);
}

#[test]
fn there_is_no_work_while_only_a_release_can_help() {
    let mut engine = engine(4);
    let handed_over = Request {
        purpose: Purpose::HandOver,
        ..request(1, prompt(1, 9), 9)
    };
    engine.add(handed_over, NOW).unwrap();
    run(&mut engine);
    engine.add(request(2, prompt(2, 9), 2), NOW).unwrap();
    assert!(run(&mut engine).is_empty());
    assert_eq!(engine.status().waiting, 1);
    engine.abort(SequenceId(1));
    assert!(engine.has_work());
    assert_eq!(only(&mut engine).tokens.len(), 2);
    assert_empty(&engine);
}

#[test]
fn status_and_report_count_what_is_to_do_and_what_was_done() {
    let config = EngineConfig {
        max_batch_tokens: 8,
        ..EngineConfig::default()
    };
    let mut engine = engine_with(32, config);
    engine.add(request(1, prompt(1, 12), 4), NOW).unwrap();
    engine.add(request(2, prompt(2, 10), 4), NOW).unwrap();
    assert_eq!(engine.status().queued_prefill_tokens, 22);
    let expected = [
        // Prefill, decode, sequences, still queued.
        (8, 0, 1, 14),
        (8, 0, 2, 6),
        (6, 1, 2, 0),
        (0, 2, 2, 0),
    ];
    for (prefill, decode, sequences, queued) in expected {
        let report = engine.step(NOW).unwrap();
        assert_eq!(report.prefill_tokens, prefill);
        assert_eq!(report.decode_tokens, decode);
        assert_eq!(report.sequences, sequences);
        assert_eq!(report.simulated, Some(Duration::ZERO));
        assert_eq!(engine.status().queued_prefill_tokens, queued);
    }
}

#[test]
fn scopes_share_no_blocks() {
    let mut engine = engine(64);
    for (id, salt, cached) in [(1, "a", 0), (2, "b", 0), (3, "a", 11)] {
        let scope = kvcache_index::HashScope::new("sim", salt, BLOCK_SIZE);
        let request = Request {
            scope,
            ..request(id, prompt(1, 12), 1)
        };
        engine.add(request, NOW).unwrap();
        assert_eq!(only(&mut engine).cached_tokens, Some(cached));
    }
    let hashes: BTreeSet<u64> = engine.cached_content().map(|it| it.hash.short()).collect();
    assert_eq!(hashes.len(), 6);
}

fn counting(id: u64, count: u32, max_tokens: usize) -> Request {
    Request {
        constraint: Some(Arc::new(Counting { from: 5, count })),
        ..request(id, prompt(1, 6), max_tokens)
    }
}

#[test]
fn a_constrained_sequence_ends_where_its_constraint_does() {
    let mut engine = engine(64);
    engine.add(counting(1, 3, 9), NOW).unwrap();
    let transcript = only(&mut engine);
    assert_eq!(transcript.tokens, [5, 6, 7, EOS]);
    assert_eq!(transcript.finish, Some(Finish::Stop));
}

#[test]
fn a_resumed_sequence_obeys_its_constraint_from_the_beginning() {
    let mut engine = engine(64);
    let mut request = counting(1, 4, 9);
    request.tokens.extend([5, 6]);
    request.resumed_tokens = 2;
    engine.add(request, NOW).unwrap();
    let transcript = only(&mut engine);
    assert_eq!(
        (transcript.first_index, transcript.tokens),
        (2, vec![7, 8, EOS])
    );
}

#[test]
fn a_violation_fails_its_own_sequence_only() {
    let mut engine = engine(64);
    let mut stuck = counting(1, 4, 9);
    stuck.tokens.extend([9]);
    stuck.resumed_tokens = 1;
    engine.add(stuck, NOW).unwrap();
    engine.add(request(2, prompt(2, 6), 4), NOW).unwrap();
    let transcripts = run(&mut engine);
    let violation = transcripts[&SequenceId(1)].violation.as_ref();
    assert!(violation.is_some_and(|it| it.0.contains("does not count")));
    assert_eq!(transcripts[&SequenceId(2)].tokens.len(), 4);
    assert_eq!(transcripts[&SequenceId(2)].finish, Some(Finish::Length));
    assert_empty(&engine);
}

fn embedding(id: u64, tokens: Vec<u32>, pooling: Pooling) -> Request {
    Request {
        purpose: Purpose::Embed(pooling),
        ..request(id, tokens, 0)
    }
}

#[test]
fn an_embedding_does_not_depend_on_chunks_cache_or_preemption() {
    for pooling in [Pooling::Last, Pooling::Mean] {
        let alone = |id: u64| {
            let mut engine = engine(64);
            engine
                .add(
                    embedding(1, prompt(id as u32 % 3, 9 + id as usize), pooling),
                    NOW,
                )
                .unwrap();
            let transcript = only(&mut engine);
            assert_eq!(transcript.finish, Some(Finish::Length));
            assert!(transcript.tokens.is_empty());
            transcript.embedding.unwrap()
        };
        let config = EngineConfig {
            max_batch_tokens: 5,
            ..EngineConfig::default()
        };
        // Too small for all: whoever generates makes others yield.
        let mut engine = engine_with(16, config);
        for id in 0..8 {
            engine
                .add(request(100 + id, prompt(4, 3), 12), NOW)
                .unwrap();
            let tokens = prompt(id as u32 % 3, 9 + id as usize);
            engine.add(embedding(id, tokens, pooling), NOW).unwrap();
        }
        let transcripts = run(&mut engine);
        for id in 0..8 {
            let together = transcripts[&SequenceId(id)].embedding.as_ref();
            assert_eq!(together, Some(&alone(id)), "{pooling:?} {id}");
        }
        assert_empty(&engine);
    }
}

#[test]
fn an_embedding_has_length_one() {
    let mut engine = engine(64);
    engine
        .add(embedding(1, prompt(1, 30), Pooling::Mean), NOW)
        .unwrap();
    let values = only(&mut engine).embedding.unwrap();
    let length: f32 = values.iter().map(|it| it * it).sum();
    assert!((length - 1.0).abs() < 1e-5, "{values:?}");
    let drawing = with(embedding(2, prompt(1, 3), Pooling::Last), |it| {
        it.max_tokens = 1
    });
    assert!(matches!(
        engine.add(drawing, NOW),
        Err(Rejected::Invalid(_))
    ));
}
