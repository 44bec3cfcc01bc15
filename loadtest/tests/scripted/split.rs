//! Workers that fail at their half of a split request.

use proto::worker as pb;
use proto::worker::prefill_event::Event;

use crate::client::{complete, prompt, router_of};
use crate::reply::{Reply, Then, first_tokens, in_turn, resumed, started, token, token_at, whole};
use crate::worker::{Options, Scripted};

fn worker_of(id: &'static str, role: pb::Role) -> Scripted {
    Scripted::start(Options {
        id,
        role,
        ..Options::default()
    })
}

fn ticket() -> pb::PrefillEvent {
    event(Event::Ticket(pb::KvTicket {
        address: "127.0.0.1:9".to_owned(),
        id: "t".to_owned(),
    }))
}

fn event(event: Event) -> pb::PrefillEvent {
    pb::PrefillEvent { event: Some(event) }
}

#[test]
fn busy_prefill_worker_leaves_all_to_the_decode_worker() {
    let prefill = worker_of("p", pb::Role::Prefill);
    let decode = worker_of("d", pb::Role::Decode);
    let router = router_of(&[&prefill, &decode]);
    let answer = complete(&router, &prompt(40), 5);
    assert_eq!(answer.header("x-kvasir-prefill-worker"), Some("p"));
    assert_eq!(answer.tokens(), first_tokens(5));
    let asked = decode.asked();
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].kv, None);
}

#[test]
fn first_token_of_a_prefill_worker_that_dies_is_kept() {
    let prefill = worker_of("p", pb::Role::Prefill);
    prefill.prefills(|_| {
        let began = Event::Started(pb::Started {
            cached_tokens: 16,
            queued_ms: 0.0,
        });
        let first = Event::FirstToken(token(token_at(0)));
        Reply::Stream(vec![ticket(), event(began), event(first)], Then::End)
    });
    let decode = worker_of("d", pb::Role::Decode);
    decode.generates(in_turn([
        (|_| Reply::Stream(vec![started(32)], Then::Silence)) as fn(&_) -> _,
        whole,
    ]));
    let router = router_of(&[&prefill, &decode]);
    let answer = complete(&router, &prompt(40), 5);
    assert_eq!(answer.tokens(), first_tokens(5));
    assert_eq!(answer.usage(), (40, 5));
    let cached = &answer.body["usage"]["prompt_tokens_details"]["cached_tokens"];
    assert_eq!(cached, 16, "what the prefill worker found counts");
    let asked = decode.asked();
    assert_eq!(asked.iter().map(resumed).collect::<Vec<_>>(), [0, 1]);
    assert!(asked[0].kv.is_some() && asked[1].kv.is_none());
}
