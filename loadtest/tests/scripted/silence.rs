//! Workers that fall silent without a word.

use std::net::TcpListener;

use proto::worker as pb;

use crate::client::{complete, prompt, router_of};
use crate::parts::{router_over, until};
use crate::reply::{Reply, Then, first_tokens, in_turn, resumed, started, tokens, whole};
use crate::worker::{Scripted, idle};

const CONNECTED: &str = "kvasir_router_connected_workers";

#[test]
fn worker_that_stops_answering_in_mid_stream_is_left() {
    let (mut first, second) = (Scripted::ranked("a", 0), Scripted::ranked("b", 1));
    first.generates(in_turn([
        (|_| Reply::Stream(vec![started(0), tokens(0, &first_tokens(3))], Then::Silence))
            as fn(&_) -> _,
        whole,
    ]));
    let router = router_of(&[&first, &second]);
    std::thread::scope(|scope| {
        let running = scope.spawn(|| complete(&router, &prompt(40), 6));
        router.wait_for("kvasir_router_generated_tokens_total", |n| n == 3.0);
        first.hang();
        let answer = running.join().expect("an answer");
        assert_eq!(answer.tokens(), first_tokens(6));
        assert_eq!(answer.usage(), (40, 6));
    });
    assert_eq!(resumed(&second.asked()[0]), 3);
    router.wait_for(CONNECTED, |n| n == 1.0);
    assert_eq!(complete(&router, &prompt(40), 6).decode_worker(), "b");

    first.go_on();
    router.wait_for(CONNECTED, |n| n == 2.0);
    until("it to be chosen again", || {
        complete(&router, &prompt(40), 6).decode_worker() == "a"
    });
}

#[test]
fn worker_whose_engine_hangs_is_left_though_its_port_answers() {
    let (first, second) = (Scripted::ranked("a", 0), Scripted::ranked("b", 1));
    first.generates(in_turn([
        (|_| Reply::Stream(vec![started(0), tokens(0, &first_tokens(3))], Then::Silence))
            as fn(&_) -> _,
        whole,
    ]));
    let router = router_of(&[&first, &second]);
    let hangs = pb::Status {
        running_sequences: 1,
        step_age_ms: 31_000,
        longest_step_ms: 20,
        ..idle(0)
    };
    std::thread::scope(|scope| {
        let running = scope.spawn(|| complete(&router, &prompt(40), 6));
        router.wait_for("kvasir_router_generated_tokens_total", |n| n == 3.0);
        first.subscription(0).status(0, hangs);
        let answer = running.join().expect("an answer");
        assert_eq!(answer.tokens(), first_tokens(6));
    });
    assert_eq!(resumed(&second.asked()[0]), 3);
    assert_eq!(router.metric(CONNECTED), 2.0);
    assert_eq!(complete(&router, &prompt(40), 6).decode_worker(), "b");
    first.subscription(0).idle(0);
    until("it to be chosen again", || {
        complete(&router, &prompt(40), 6).decode_worker() == "a"
    });
}

#[test]
fn worker_that_only_accepts_connections_holds_up_nobody_and_is_tried_again() {
    let mute = TcpListener::bind("127.0.0.1:0").expect("a port");
    mute.set_nonblocking(true).expect("a mode that exists");
    let worker = Scripted::ranked("a", 1);
    let router = router_over(&[mute.local_addr().expect("bound"), worker.address]);
    router.wait_for(CONNECTED, |n| n == 1.0);
    for _ in 0..4 {
        assert_eq!(complete(&router, &prompt(40), 3).tokens(), first_tokens(3));
    }
    assert_eq!(worker.asked().len(), 4);
    let mut accepted = Vec::new();
    until("a second connection", || {
        accepted.extend(mute.accept());
        accepted.len() == 2
    });
}
