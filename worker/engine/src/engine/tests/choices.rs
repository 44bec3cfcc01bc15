//! Several completions of one prompt: it is computed once, but for the last
//! token, which each draws from.

use super::*;

/// Completions of a prompt of `len` tokens, with seeds of their own.
fn choices(len: usize, count: u64) -> Vec<Request> {
    let choice = |id| {
        with(request(id, prompt(1, len), 9), |sampling| {
            (sampling.temperature, sampling.seed) = (1.0, id);
        })
    };
    (0..count).map(choice).collect()
}

/// Steps until there is nothing to do; returns the prompt tokens of each step.
fn computed(engine: &mut Engine, transcripts: &mut Transcripts) -> Vec<usize> {
    let mut computed = Vec::new();
    while engine.has_work() {
        computed.push(step(engine, transcripts).prefill_tokens);
    }
    computed.truncate(
        computed
            .iter()
            .rposition(|it| *it > 0)
            .map_or(0, |it| it + 1),
    );
    computed
}

fn check(transcripts: &Transcripts, requests: Vec<Request>) {
    for request in requests {
        let found = &transcripts[&request.id].tokens;
        assert_eq!(found, &alone(request.clone()).tokens, "{:?}", request.id);
    }
}

#[test]
fn a_prompt_is_computed_once_wherever_its_last_block_ends() {
    for len in [2, 3, 4, 5, 8, 21, 22, 23, 24] {
        let mut engine = engine(64);
        let requests = choices(len, 4);
        for request in &requests {
            engine.add(request.clone(), NOW).unwrap();
        }
        let mut transcripts = Transcripts::new();
        let computed = computed(&mut engine, &mut transcripts);
        // The others go on with what the first computed in the step before.
        assert_eq!(computed, [len, 3], "{len}");
        for id in 1..4 {
            assert_eq!(transcripts[&SequenceId(id)].cached_tokens, Some(len - 1));
        }
        check(&transcripts, requests);
        assert_empty(&engine);
    }
}

#[test]
fn a_choice_that_comes_later_copies_what_another_writes_on_in() {
    let mut engine = engine(64);
    let mut requests = choices(7, 2);
    let late = requests.split_off(1);
    engine.add(requests[0].clone(), NOW).unwrap();
    let mut transcripts = Transcripts::new();
    // Its second block is full, and the third begun.
    for _ in 0..4 {
        step(&mut engine, &mut transcripts);
    }
    engine.add(late[0].clone(), NOW).unwrap();
    let report = step(&mut engine, &mut transcripts);
    assert_eq!((report.prefill_tokens, report.decode_tokens), (1, 1));
    run_on(&mut engine, &mut transcripts);
    check(&transcripts, [requests, late].concat());
    assert_empty(&engine);
}

#[test]
fn choices_that_end_with_their_first_token_leave_the_prompt_to_the_others() {
    let mut engine = engine(64);
    for request in choices(7, 4) {
        engine
            .add(with(request, |it| it.max_tokens = 1), NOW)
            .unwrap();
    }
    let computed = computed(&mut engine, &mut Transcripts::new());
    assert_eq!(computed, [7, 3]);
    assert_empty(&engine);
}

#[test]
fn a_prompt_that_comes_again_copies_the_block_in_which_it_ended_if_that_is_cached() {
    // Alone full, filled with what was generated, and not filled.
    for (len, max_tokens, again) in [(8, 1, 1), (7, 9, 1), (6, 1, 2)] {
        let mut engine = engine(64);
        for (request, expected) in choices(len, 2).into_iter().zip([len, again]) {
            let request = with(request, |it| it.max_tokens = max_tokens);
            engine.add(request.clone(), NOW).unwrap();
            let mut transcripts = Transcripts::new();
            assert_eq!(computed(&mut engine, &mut transcripts), [expected], "{len}");
            check(&transcripts, vec![request]);
        }
    }
}

#[test]
fn choices_share_a_prompt_that_is_cut_into_chunks() {
    let config = EngineConfig {
        max_batch_tokens: 5,
        ..EngineConfig::default()
    };
    let mut engine = engine_with(64, config);
    let requests = choices(23, 3);
    for request in &requests {
        engine.add(request.clone(), NOW).unwrap();
    }
    let mut transcripts = Transcripts::new();
    let computed = computed(&mut engine, &mut transcripts);
    assert_eq!(computed.iter().sum::<usize>(), 23 + 2);
    check(&transcripts, requests);
}

#[test]
fn what_counts_row_by_row_is_computed_by_each() {
    let scored = with(request(1, prompt(1, 7), 2), |it| {
        it.prompt_logprobs = Some(0);
    });
    let embedded = Request {
        purpose: Purpose::Embed(Pooling::Mean),
        ..with(request(2, prompt(1, 7), 0), |_| ())
    };
    for own in [scored, embedded] {
        let mut engine = engine(64);
        engine.add(choices(7, 1).remove(0), NOW).unwrap();
        engine.add(own.clone(), NOW).unwrap();
        let mut transcripts = Transcripts::new();
        let computed = computed(&mut engine, &mut transcripts);
        assert_eq!(computed.iter().sum::<usize>(), 14);
        let (found, alone) = (&transcripts[&own.id], alone(own.clone()));
        assert_eq!(found.scored, alone.scored);
        assert_eq!(found.embedding, alone.embedding);
    }
}

#[test]
fn salts_keep_prompts_apart() {
    let mut engine = engine(64);
    let mut requests = choices(7, 2);
    requests[1].scope = kvcache_index::HashScope::new("sim", "salt", BLOCK_SIZE);
    for request in requests {
        engine.add(request, NOW).unwrap();
    }
    let computed = computed(&mut engine, &mut Transcripts::new());
    assert_eq!(computed, [14]);
}
