use std::collections::BTreeSet;

use kvcache_index::KvEvent;

use super::*;
use crate::fixtures::*;
use crate::request::{Finish, Purpose, Request};
use crate::schedule::EngineConfig;

const ID: SequenceId = SequenceId(1);
const ALL: usize = usize::MAX;

fn exporting(tokens: Vec<u32>, max_tokens: usize) -> Request {
    Request {
        purpose: Purpose::HandOver,
        ..request(1, tokens, max_tokens)
    }
}

fn importing(tokens: Vec<u32>, max_tokens: usize) -> Request {
    Request {
        kv: KvSource::Receive,
        ..request(1, tokens, max_tokens)
    }
}

/// An engine that holds the computed prompt.
fn exporter(tokens: Vec<u32>, max_tokens: usize) -> (Engine, Transcript) {
    let mut engine = engine(64);
    engine.add(exporting(tokens, max_tokens), NOW).unwrap();
    let mut transcripts = run(&mut engine);
    (engine, transcripts.pop_first().unwrap().1)
}

/// An engine that waits for the prompt's KV.
fn importer(tokens: Vec<u32>, max_tokens: usize) -> (Engine, Transcripts) {
    let mut engine = engine(64);
    let mut transcripts = Transcripts::new();
    engine.add(importing(tokens, max_tokens), NOW).unwrap();
    step(&mut engine, &mut transcripts);
    (engine, transcripts)
}

fn blocks(engine: &Engine, from_block: usize, max_bytes: usize) -> (Vec<Bytes>, bool) {
    match engine.export(ID, from_block, max_bytes) {
        Export::Blocks {
            first_block,
            blocks,
            done,
        } => {
            assert_eq!(first_block, from_block);
            (blocks, done)
        }
        other => panic!("{other:?}"),
    }
}

fn token(token: u32) -> Option<Sampled> {
    Some(Sampled {
        token,
        logprob: None,
        top: Vec::new(),
    })
}

#[test]
fn a_sequence_goes_on_in_another_engine() {
    for len in [1, 3, 4, 5, 16, 17] {
        let expected = alone(request(1, prompt(1, len), 6));
        let (from, first) = exporter(prompt(1, len), 6);
        assert!(first.handed_over);
        assert_eq!((first.finish, from.held()), (None, 1));
        let (mut to, mut transcripts) = importer(prompt(1, len), 6);
        assert!(!to.has_work());
        to.import(ID, 0, &blocks(&from, 0, ALL).0).unwrap();
        let outputs = to.import_done(ID, token(first.tokens[0])).unwrap();
        record(&mut transcripts, outputs);
        run_on(&mut to, &mut transcripts);
        assert_eq!(transcripts[&ID].tokens, expected.tokens, "{len} tokens");
        assert_empty(&to);
    }
}

#[test]
fn without_a_first_token_the_last_prompt_token_is_computed_again() {
    for len in [1, 4, 7] {
        let expected = alone(request(1, prompt(1, len), 6));
        let (from, _) = exporter(prompt(1, len), 6);
        let (mut to, mut transcripts) = importer(prompt(1, len), 6);
        to.import(ID, 0, &blocks(&from, 0, ALL).0).unwrap();
        assert!(to.import_done(ID, None).unwrap().is_empty());
        assert_eq!(step(&mut to, &mut transcripts).prefill_tokens, 1);
        run_on(&mut to, &mut transcripts);
        assert_eq!(transcripts[&ID].tokens, expected.tokens);
        assert_empty(&to);
    }
}

#[test]
fn blocks_are_exported_while_the_prompt_still_runs() {
    let config = EngineConfig {
        max_batch_tokens: 6,
        ..EngineConfig::default()
    };
    let mut engine = engine_with(64, config);
    assert!(matches!(engine.export(ID, 0, ALL), Export::Gone));
    engine.add(exporting(prompt(1, 14), 3), NOW).unwrap();
    assert!(matches!(engine.export(ID, 0, ALL), Export::NotYet));
    for (ready, done) in [(1, false), (3, false), (4, true)] {
        engine.step(NOW).unwrap();
        let (all, end) = blocks(&engine, 0, ALL);
        assert_eq!((all.len(), end), (ready, done));
        match done {
            true => assert_eq!(blocks(&engine, ready, ALL), (vec![], true)),
            false => assert!(matches!(engine.export(ID, ready, ALL), Export::NotYet)),
        }
    }
    let block_bytes = engine.shape().kv.block_bytes;
    let (two, done) = blocks(&engine, 1, 2 * block_bytes + 1);
    assert_eq!((two.len(), done), (2, false));
    assert_eq!(blocks(&engine, 1, 0).0.len(), 1);
    assert_eq!(blocks(&engine, 3, 0).0.len(), 1);
    engine.abort(ID);
    assert!(matches!(engine.export(ID, 0, ALL), Export::Gone));
    assert_empty(&engine);
}

#[test]
fn a_preempted_prompt_is_not_there_until_computed_again() {
    let config = EngineConfig {
        max_batch_tokens: 5,
        watermark: 0.0,
        ..EngineConfig::default()
    };
    let mut engine = engine_with(6, config);
    engine.add(request(9, prompt(9, 2), 9), NOW).unwrap();
    engine.add(exporting(prompt(1, 20), 3), NOW).unwrap();
    (0..3).for_each(|_| drop(engine.step(NOW).unwrap()));
    let before = blocks(&engine, 0, ALL).0;
    assert_eq!(before.len(), 2);
    assert_eq!(engine.step(NOW).unwrap().preempted, 1);
    assert!(matches!(engine.export(ID, 0, ALL), Export::NotYet));
    while engine.has_work() {
        engine.step(NOW).unwrap();
    }
    let after = blocks(&engine, 0, ALL).0;
    assert_eq!((after.len(), &after[..2]), (5, &before[..]));
}

#[test]
fn cached_blocks_are_not_asked_for_but_the_last_always_is() {
    // Prompt length, and the first block wanted when 12 tokens are cached.
    for (len, first_block) in [(3, 0), (4, 0), (8, 1), (12, 2), (13, 3), (20, 3)] {
        let expected = alone(request(1, prompt(1, len), 4));
        let (from, first) = exporter(prompt(1, len), 4);
        let mut to = engine(64);
        to.add(request(7, prompt(1, 12), 1), NOW).unwrap();
        run(&mut to);
        let mut transcripts = Transcripts::new();
        to.add(importing(prompt(1, len), 4), NOW).unwrap();
        step(&mut to, &mut transcripts);
        let cached = Some(first_block * BLOCK_SIZE);
        assert_eq!(transcripts[&ID].first_block, Some(first_block), "{len}");
        assert_eq!(transcripts[&ID].cached_tokens, cached);
        let missing = blocks(&from, first_block, ALL).0;
        to.import(ID, first_block, &missing).unwrap();
        let outputs = to.import_done(ID, token(first.tokens[0])).unwrap();
        record(&mut transcripts, outputs);
        run_on(&mut to, &mut transcripts);
        assert_eq!(transcripts[&ID].tokens, expected.tokens);
        assert_empty(&to);
    }
}

#[test]
fn imported_blocks_are_cached_and_told_at_once() {
    let (from, first) = exporter(prompt(1, 12), 4);
    let (mut to, _) = importer(prompt(1, 12), 4);
    let all = blocks(&from, 0, ALL).0;
    let told = |to: &mut Engine| {
        let events = to.drain_events();
        let hashes = events.into_iter().flat_map(|event| match event {
            KvEvent::Stored { hashes, .. } => hashes,
            other => panic!("{other:?}"),
        });
        hashes.count()
    };
    to.import(ID, 0, &all[..1]).unwrap();
    assert_eq!(told(&mut to), 1);
    to.import(ID, 1, &all[1..]).unwrap();
    assert_eq!(told(&mut to), 1);
    to.import_done(ID, token(first.tokens[0])).unwrap();
    assert_eq!(told(&mut to), 1);
    let expected: BTreeSet<_> = from.cached_content().map(|it| it.hash).collect();
    let got: BTreeSet<_> = to.cached_content().map(|it| it.hash).collect();
    assert_eq!(got, expected);
}

#[test]
fn a_broken_import_computes_what_is_missing() {
    for imported in 0..=4 {
        let expected = alone(request(1, prompt(1, 14), 5));
        let (from, _) = exporter(prompt(1, 14), 5);
        let (mut to, mut transcripts) = importer(prompt(1, 14), 5);
        let some = &blocks(&from, 0, ALL).0[..imported];
        to.import(ID, 0, some).unwrap();
        to.import_failed(ID);
        let report = step(&mut to, &mut transcripts);
        let there = (imported * BLOCK_SIZE).min(13);
        assert_eq!(report.prefill_tokens, 14 - there);
        run_on(&mut to, &mut transcripts);
        assert_eq!(transcripts[&ID].tokens, expected.tokens);
        assert_empty(&to);
    }
}

#[test]
fn what_does_not_belong_is_refused() {
    let (from, _) = exporter(prompt(1, 8), 4);
    let (mut to, _) = importer(prompt(1, 8), 4);
    let all = blocks(&from, 0, ALL).0;
    let short = Bytes::from_static(b"short");
    let mut damaged = all[0].to_vec();
    damaged[3] ^= 1;
    let damaged = Bytes::from(damaged);
    let other = to.import(SequenceId(5), 0, &all);
    assert!(matches!(other, Err(ImportError::NotReceiving)));
    let late = to.import(ID, 1, &all);
    assert!(matches!(
        late,
        Err(ImportError::OutOfOrder {
            expected: 0,
            got: 1
        })
    ));
    let sizes = to.import(ID, 0, &[short]);
    assert!(matches!(
        sizes,
        Err(ImportError::WrongSize {
            block: 0,
            got: 5,
            ..
        })
    ));
    let broken = to.import(ID, 0, &[damaged]);
    assert!(matches!(broken, Err(ImportError::Run(_))));
    let early = to.import_done(ID, token(3));
    let none = ImportError::Incomplete { got: 0, blocks: 2 };
    assert_eq!(early.unwrap_err().to_string(), none.to_string());
    to.import(ID, 0, &all).unwrap();
    let more = to.import(ID, 2, &all);
    assert!(matches!(more, Err(ImportError::PastEnd { block: 2, .. })));
    let strange = to.import_done(ID, token(1000));
    assert!(matches!(strange, Err(ImportError::InvalidToken(1000))));
    to.import_done(ID, token(3)).unwrap();
    let again = to.import_done(ID, token(3));
    assert!(matches!(again, Err(ImportError::NotReceiving)));
}

#[test]
fn another_prompts_blocks_fail_the_step_that_reads_them() {
    let (from, _) = exporter(prompt(2, 8), 4);
    let (mut to, _) = importer(prompt(1, 8), 4);
    to.import(ID, 0, &blocks(&from, 0, ALL).0).unwrap();
    to.import_done(ID, token(3)).unwrap();
    assert_eq!(to.step(NOW).unwrap_err().lost, [ID]);
    assert_empty(&to);
}

#[test]
fn a_first_token_that_ends_the_sequence_ends_it_where_it_is_imported() {
    let (from, first) = exporter(prompt(1, 6), 1);
    assert!(first.handed_over);
    assert_eq!(first.finish, None);
    let (mut to, mut transcripts) = importer(prompt(1, 6), 1);
    to.import(ID, 0, &blocks(&from, 0, ALL).0).unwrap();
    let outputs = to.import_done(ID, token(first.tokens[0])).unwrap();
    record(&mut transcripts, outputs);
    assert_eq!(transcripts[&ID].tokens, first.tokens);
    assert_eq!(transcripts[&ID].finish, Some(Finish::Length));
    assert_empty(&to);
}

#[test]
fn an_imported_sequence_survives_preemption() {
    let (from, first) = exporter(prompt(1, 10), 20);
    let expected = alone(request(1, prompt(1, 10), 20));
    let mut to = engine(10);
    to.add(request(0, prompt(3, 8), 20), NOW).unwrap();
    to.add(importing(prompt(1, 10), 20), NOW).unwrap();
    let mut transcripts = Transcripts::new();
    step(&mut to, &mut transcripts);
    to.import(ID, 0, &blocks(&from, 0, ALL).0).unwrap();
    let outputs = to.import_done(ID, token(first.tokens[0])).unwrap();
    record(&mut transcripts, outputs);
    run_on(&mut to, &mut transcripts);
    assert!(to.status().preemptions > 0);
    assert_eq!(transcripts[&ID].tokens, expected.tokens);
    assert_empty(&to);
}
