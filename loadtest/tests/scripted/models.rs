//! Several models behind one router.

use serde_json::Value;

use crate::client::{complete_on, prompt, router_of};
use crate::logs;
use crate::parts::{Part, get, router_over, until};
use crate::reply::first_tokens;
use crate::worker::{Options, Scripted};

fn worker_of(id: &'static str, model: &'static str, fingerprint: &'static str) -> Scripted {
    Scripted::start(Options {
        id,
        model,
        fingerprint,
        ..Options::default()
    })
}

fn listed(router: &Part) -> Vec<String> {
    let list: Value = serde_json::from_str(&get(router.address, "/v1/models")).expect("JSON");
    let models = list["data"].as_array().expect("a list");
    let ids = models.iter().filter_map(|model| model["id"].as_str());
    ids.map(str::to_owned).collect()
}

#[test]
fn two_models_are_listed_and_each_gets_its_own_requests() {
    let (small, large) = (worker_of("s", "small", "f"), worker_of("l", "large", "g"));
    let mut small = small;
    let router = router_of(&[&small, &large]);
    assert_eq!(listed(&router), ["large", "small"]);
    for (model, worker) in [("small", "s"), ("large", "l"), ("small", "s")] {
        let answer = complete_on(&router, model, &prompt(40), 3);
        assert_eq!(answer.tokens(), first_tokens(3));
        assert_eq!(answer.decode_worker(), worker);
    }
    assert_eq!((small.asked().len(), large.asked().len()), (2, 1));
    let unknown = complete_on(&router, "medium", &prompt(40), 3);
    assert_eq!((unknown.status, unknown.code()), (404, "model_not_found"));

    // A model without workers is missing for now, not unknown.
    small.kill();
    router.wait_for("kvasir_router_connected_workers", |n| n == 1.0);
    assert_eq!(listed(&router), ["large"]);
    let missing = complete_on(&router, "small", &prompt(40), 3);
    assert_eq!((missing.status, missing.code()), (503, "no_worker"));
}

#[test]
fn second_model_of_the_same_name_is_refused() {
    logs::record();
    let first = worker_of("first", "m", "f");
    let mut second = worker_of("second", "m", "g");
    second.hang();
    let router = router_over(&[first.address, second.address]);
    router.wait_for("kvasir_router_connected_workers", |n| n == 1.0);
    second.go_on();
    // Asked again, it is refused again, and said so once.
    until("it to be tried twice", || second.described() >= 3);
    let address = second.address.to_string();
    let refusals = logs::lines_with(&[&address, "another model under the name `m` than first"]);
    assert_eq!(refusals.len(), 1, "{refusals:?}");
    assert_eq!(router.metric("kvasir_router_connected_workers"), 1.0);
    for _ in 0..4 {
        assert_eq!(
            complete_on(&router, "m", &prompt(40), 3).decode_worker(),
            "first"
        );
    }
    assert!(second.asked().is_empty());

    // With the first gone the name is free.
    drop(first);
    until("the second to serve", || {
        complete_on(&router, "m", &prompt(40), 3).status == 200
    });
    assert!(!second.asked().is_empty());
}
