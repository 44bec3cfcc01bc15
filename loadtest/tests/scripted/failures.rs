//! Workers that refuse, fail or lie, and what the client sees of it.

use proto::ErrorCode;
use proto::worker as pb;
use tonic::Status;

use crate::client::{Answer, complete, prompt, router_of};
use crate::parts::{Part, until};
use crate::reply::{
    GenerateReply, Reply, Then, busy, engine_failed, finished, first_tokens, in_turn, resumed,
    started, token_at, tokens, whole,
};
use crate::worker::Scripted;

/// Of the demo model.
const EOS: u32 = 1;

const NAMES: [&str; 6] = ["w0", "w1", "w2", "w3", "w4", "w5"];

/// Workers that are tried in this order.
fn ranked(n: usize) -> Vec<Scripted> {
    let ranked = NAMES.iter().take(n).zip(0..);
    ranked
        .map(|(name, rank)| Scripted::ranked(name, rank))
        .collect()
}

fn router_over_all(workers: &[Scripted]) -> Part {
    router_of(&workers.iter().collect::<Vec<_>>())
}

fn asked(workers: &[Scripted]) -> Vec<usize> {
    workers.iter().map(|worker| worker.asked().len()).collect()
}

/// The client got tokens `0..n`, and nothing is left over.
fn assert_complete(router: &Part, answer: &Answer, n: u32) {
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.tokens(), first_tokens(n));
    assert_eq!(answer.finish_reason(), "length");
    assert_eq!(answer.usage(), (40, u64::from(n)));
    assert_released(router);
}

fn assert_released(router: &Part) {
    router.wait_for("kvasir_router_bookings", |n| n == 0.0);
    router.wait_for("kvasir_router_permits", |n| n == 0.0);
}

#[test]
fn busy_worker_is_passed_over() {
    let workers = ranked(2);
    workers[0].generates(busy);
    let router = router_over_all(&workers);
    assert_complete(&router, &complete(&router, &prompt(40), 5), 5);
    assert_eq!(asked(&workers), [1, 1]);
    assert_eq!(router.metric("kvasir_router_replans_total"), 1.0);
    assert_eq!(router.metric("kvasir_router_migrations_total"), 0.0);
}

#[test]
fn the_only_worker_with_room_is_found_among_many() {
    let workers = ranked(6);
    for full in &workers[..5] {
        full.generates(busy);
    }
    let router = router_over_all(&workers);
    assert_complete(&router, &complete(&router, &prompt(40), 5), 5);
    assert_eq!(asked(&workers), [1; 6]);
}

#[test]
fn with_all_workers_full_the_client_is_told_when_to_come_back() {
    let workers = ranked(6);
    for full in &workers {
        full.generates(busy);
    }
    let router = router_over_all(&workers);
    let answer = complete(&router, &prompt(40), 5);
    assert_eq!((answer.status, answer.code()), (429, "overloaded"));
    assert_eq!(answer.header("retry-after"), Some("1"));
    assert_eq!(asked(&workers), [1; 6]);
    assert_released(&router);
}

#[test]
fn full_worker_may_take_over_later() {
    let workers = ranked(2);
    workers[0].generates(in_turn([busy as fn(&_) -> _, whole]));
    workers[1].generates(|_| {
        let failure = Status::unavailable("as the script says");
        Reply::Stream(vec![tokens(0, &first_tokens(2))], Then::Failure(failure))
    });
    let router = router_over_all(&workers);
    assert_complete(&router, &complete(&router, &prompt(40), 5), 5);
    assert_eq!(asked(&workers), [2, 1]);
}

#[test]
fn request_that_breaks_every_engine_is_given_up() {
    let workers = ranked(6);
    for broken in &workers {
        broken.generates(engine_failed);
    }
    let router = router_over_all(&workers);
    let answer = complete(&router, &prompt(40), 5);
    assert_eq!((answer.status, answer.code()), (500, "engine_failed"));
    assert_eq!(asked(&workers), [1, 1, 1, 1, 0, 0]);
    assert_released(&router);
}

#[test]
fn failed_engines_are_not_missing_workers() {
    let workers = ranked(2);
    for broken in &workers {
        broken.generates(engine_failed);
    }
    let router = router_over_all(&workers);
    let answer = complete(&router, &prompt(40), 5);
    assert_eq!((answer.status, answer.code()), (500, "engine_failed"));
    assert_eq!(asked(&workers), [1, 1]);
}

#[test]
fn engines_that_fail_after_each_token_still_make_progress() {
    let workers = ranked(6);
    for weak in &workers[..5] {
        weak.generates(|request| {
            let next = resumed(request);
            let failure = proto::status(ErrorCode::EngineFailed, "as the script says");
            let events = vec![started(0), tokens(next, &[token_at(next)])];
            Reply::Stream(events, Then::Failure(failure))
        });
    }
    let router = router_over_all(&workers);
    assert_complete(&router, &complete(&router, &prompt(40), 9), 9);
    assert_eq!(asked(&workers), [1; 6]);
    let last = workers[5].asked().remove(0).prompt.expect("a prompt");
    assert_eq!(last.resumed_tokens, 5);
    assert_eq!(last.token_ids, [prompt(40), first_tokens(5)].concat());
    assert_eq!(router.metric("kvasir_router_migrations_total"), 5.0);
}

#[test]
fn request_that_a_worker_finds_invalid_is_not_tried_again() {
    let workers = ranked(2);
    workers[0].generates(|_| Reply::refusal(ErrorCode::InvalidRequest));
    let router = router_over_all(&workers);
    let answer = complete(&router, &prompt(40), 5);
    assert_eq!((answer.status, answer.code()), (400, "invalid_request"));
    assert_eq!(asked(&workers), [1, 0]);
    assert_released(&router);
}

#[test]
fn worker_that_skips_a_token_is_left() {
    let workers = ranked(2);
    workers[0].generates(|_| {
        let events = vec![
            tokens(0, &first_tokens(2)),
            tokens(3, &[token_at(3), token_at(4)]),
            finished(pb::FinishReason::Length),
        ];
        Reply::Stream(events, Then::End)
    });
    let router = router_over_all(&workers);
    assert_complete(&router, &complete(&router, &prompt(40), 5), 5);
    let taken_over = workers[1].asked();
    assert_eq!(taken_over.iter().map(resumed).collect::<Vec<_>>(), [2]);
}

#[test]
fn repeated_tokens_are_not_told_twice() {
    let workers = ranked(1);
    workers[0].generates(|_| {
        let events = vec![
            tokens(0, &first_tokens(2)),
            tokens(0, &first_tokens(3)),
            tokens(1, &[token_at(1)]),
            tokens(2, &[token_at(2), token_at(3), token_at(4)]),
            finished(pb::FinishReason::Length),
        ];
        Reply::Stream(events, Then::End)
    });
    let router = router_over_all(&workers);
    assert_complete(&router, &complete(&router, &prompt(40), 5), 5);
    assert_eq!(asked(&workers), [1]);
}

/// All tokens, but not that they are all.
fn dies_before_it_says_so(
    ids: Vec<u32>,
    then: fn() -> Then,
) -> impl Fn(&pb::GenerateRequest) -> GenerateReply {
    move |_| Reply::Stream(vec![started(0), tokens(0, &ids)], then())
}

#[test]
fn worker_that_dies_after_the_last_token_is_not_missed() {
    let ends: [fn() -> Then; 2] = [
        || Then::End,
        || Then::Failure(Status::unavailable("as the script says")),
    ];
    for end in ends {
        let workers = ranked(2);
        workers[0].generates(dies_before_it_says_so(first_tokens(5), end));
        let router = router_over_all(&workers);
        assert_complete(&router, &complete(&router, &prompt(40), 5), 5);
        assert_eq!(asked(&workers), [1, 0]);
        assert_eq!(router.metric("kvasir_router_replans_total"), 0.0);
    }
}

#[test]
fn worker_that_dies_after_the_end_of_text_is_not_missed() {
    let workers = ranked(2);
    let ids = [first_tokens(2), vec![EOS]].concat();
    workers[0].generates(dies_before_it_says_so(ids, || Then::End));
    let router = router_over_all(&workers);
    let answer = complete(&router, &prompt(40), 5);
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.finish_reason(), "stop");
    assert_eq!(answer.usage(), (40, 3));
    assert_eq!(asked(&workers), [1, 0]);
    assert_released(&router);
}

#[test]
fn worker_is_trusted_again_once_it_answers() {
    let (first, second) = (Scripted::ranked("a", 0), Scripted::ranked("b", 1));
    let lost: fn(&_) -> _ = |_| Reply::refusal(ErrorCode::WorkerLost);
    first.generates(in_turn([lost, whole]));
    let router = router_of(&[&first, &second]);
    // Looked after, it fails once more, and its link begins anew.
    first.refuse_describes(1);
    assert_complete(&router, &complete(&router, &prompt(40), 5), 5);
    assert_eq!(second.asked().len(), 1);
    until("it to be chosen again", || {
        complete(&router, &prompt(40), 5).decode_worker() == "a"
    });
}
