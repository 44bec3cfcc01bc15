use std::sync::Arc;

use super::*;
use crate::sequence::Sampling;
use crate::tokenize::fixture;

/// A prompt of 40 tokens, up to 5 to generate; token 1 ends a text.
fn progress(change: impl FnOnce(&mut Sampling)) -> Progress {
    let mut sampling = Sampling {
        temperature: 0.0,
        top_p: 1.0,
        top_k: 0,
        min_p: 0.0,
        seed: 1,
        repetition_penalty: 1.0,
        presence_penalty: 0.0,
        frequency_penalty: 0.0,
        ignore_eos: false,
        logit_bias: Vec::new(),
        allowed_token_ids: Vec::new(),
        banned: Vec::new(),
        stop_token_ids: vec![99],
        logprobs: None,
        prompt_logprobs: None,
        max_tokens: 5,
        min_tokens: 0,
    };
    change(&mut sampling);
    Progress::new(Sequence {
        request_id: "r".into(),
        objectives: Arc::default(),
        choice: 0,
        model: fixture::byte_level(),
        prompt: Arc::from(vec![10; 40]),
        sampling,
        constraint: None,
        tool_format: crate::tools::ToolFormat::Json,
        pooling: None,
        cache_salt: "".into(),
        session: None,
        is_explained: false,
    })
}

fn token(id: u32) -> Token {
    Token {
        id,
        logprob: None,
        top: Vec::new(),
    }
}

fn tokens(index: usize, ids: &[u32]) -> DecodeEvent {
    DecodeEvent::Tokens {
        index,
        tokens: ids.iter().copied().map(token).collect(),
    }
}

/// The ids that reach the client.
fn ids(event: Result<Option<Event>, ApiError>) -> Vec<u32> {
    match event.expect("in order") {
        Some(Event::Tokens(tokens)) => tokens.iter().map(|token| token.id).collect(),
        None => Vec::new(),
        other => panic!("{other:?}"),
    }
}

fn end_of(progress: &Progress) -> Option<FinishReason> {
    progress.ended().map(|event| match event {
        Event::Finished(reason) => reason,
        other => panic!("{other:?}"),
    })
}

#[test]
fn the_first_token_counts_once_whoever_says_it_first() {
    let mut progress = progress(|_| {});
    assert_eq!(ids(progress.tokens(0, vec![token(7)])), [7]);
    assert_eq!(ids(progress.decode_event(tokens(0, &[7]))), [0u32; 0]);
    assert_eq!(ids(progress.decode_event(tokens(1, &[8, 9]))), [8, 9]);
    assert_eq!(ids(progress.tokens(0, vec![token(7)])), [0u32; 0]);
    assert_eq!(progress.generated(), [7, 8, 9]);
}

#[test]
fn a_message_that_overlaps_gives_its_fresh_part() {
    let mut progress = progress(|_| {});
    assert_eq!(ids(progress.decode_event(tokens(0, &[5, 6]))), [5, 6]);
    assert_eq!(ids(progress.decode_event(tokens(1, &[6, 7]))), [7]);
}

#[test]
fn a_skipped_token_is_the_workers_failure() {
    let mut progress = progress(|_| {});
    let error = progress
        .decode_event(tokens(1, &[5]))
        .expect_err("token 0 is missing");
    assert!(error.code.may_retry());
}

#[test]
fn the_end_follows_from_the_tokens() {
    let ended = |change: fn(&mut Sampling), ids: &[u32]| {
        let mut progress = progress(change);
        progress.decode_event(tokens(0, ids)).expect("in order");
        end_of(&progress)
    };
    assert_eq!(ended(|_| {}, &[4, 5]), None);
    assert_eq!(ended(|_| {}, &[4, 1]), Some(FinishReason::Stop));
    assert_eq!(ended(|_| {}, &[4, 99]), Some(FinishReason::Stop));
    assert_eq!(ended(|it| it.ignore_eos = true, &[4, 1]), None);
    assert_eq!(
        ended(|it| it.ignore_eos = true, &[4, 99]),
        Some(FinishReason::Stop)
    );
    assert_eq!(ended(|_| {}, &[4, 5, 6, 7, 8]), Some(FinishReason::Length));
    assert_eq!(end_of(&progress(|_| {})), None);
}

#[test]
fn cached_tokens_are_those_of_the_attempt_that_began() {
    let mut progress = progress(|_| {});
    let started = |cached_tokens| DecodeEvent::Started { cached_tokens };
    let cached = |event| match event {
        Some(Event::Started { cached_tokens }) => Some(cached_tokens),
        _ => None,
    };
    let first = progress.decode_event(started(32)).expect("counts");
    assert_eq!(cached(first), Some(32));
    progress.decode_event(tokens(0, &[5])).expect("in order");
    // Another worker goes on; its cache is not what the client's prompt got.
    let second = progress.decode_event(started(0)).expect("counts");
    assert_eq!(cached(second), None);
}

#[test]
fn no_more_than_the_prompt_counts_as_cached() {
    let event = progress(|_| {}).started(1000);
    assert_eq!(event, Some(Event::Started { cached_tokens: 40 }));
}

#[test]
fn prompt_logprobs_pass_once() {
    let mut progress = progress(|it| it.prompt_logprobs = Some(0));
    let part = |index, n| DecodeEvent::PromptLogprobs {
        index,
        tokens: vec![token(10); n],
    };
    let count = |event: Option<Event>| match event {
        Some(Event::PromptLogprobs(tokens)) => tokens.len(),
        _ => 0,
    };
    let first = progress.decode_event(part(1, 3)).expect("in order");
    assert_eq!(count(first), 3);
    let again = progress.decode_event(part(1, 5)).expect("in order");
    assert_eq!(count(again), 2);
}
