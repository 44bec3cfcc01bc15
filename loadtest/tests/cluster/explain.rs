//! `POST /explain/...`: where a request would go, without running it.

use serde_json::Value;

use crate::harness::{FAST, Part, assert_idle, post, router, sim_worker, until};

const CHAT: &str = "/v1/chat/completions";

fn body() -> String {
    let system = "You answer questions about serving language models. ".repeat(20);
    serde_json::json!({
        "model": "kvasir-demo", "max_tokens": 4,
        "messages": [
            {"role": "system", "content": system},
            {"role": "user", "content": "What is a block?"},
        ],
    })
    .to_string()
}

fn explained(router: &Part, path: &str, body: &str) -> Value {
    let (head, answer) = post(router.address, &format!("/explain{path}"), "", body);
    assert!(head.starts_with("HTTP/1.1 200"), "{head} {answer}");
    serde_json::from_str(&answer).expect("JSON")
}

#[test]
fn it_names_every_option_and_runs_nothing() {
    let prefill = sim_worker("prefill-0", "prefill", FAST);
    let decoders: Vec<Part> = (0..14)
        .map(|number| sim_worker(&format!("decode-{number}"), "decode", FAST))
        .collect();
    let all: Vec<&Part> = decoders.iter().chain([&prefill]).collect();
    let router = router(&all);
    let explanation = explained(&router, CHAT, &body());
    assert_eq!(explanation["prefill"], "prefill-0");
    let workers = explanation["considered"].as_array().expect("a list");
    let options = explanation["options"].as_array().expect("a list");
    assert_eq!((workers.len(), options.len()), (15, 14));
    assert_eq!(options[0]["decode"], explanation["decode"]);
    let cost = |option: &Value| option["cost_ms"].as_f64().expect("a number");
    assert!(options[1..].iter().all(|it| cost(it) >= cost(&options[0])));
    let prompt = r#"{"model":"kvasir-demo","prompt":"Once upon a time"}"#;
    let completion = explained(&router, "/v1/completions", prompt);
    assert!(completion["prompt_tokens"].as_u64() > Some(2));
    for metric in [
        "kvasir_router_admitted_requests_total",
        "kvasir_router_plans_total",
        "kvasir_router_prompt_tokens_total",
        "kvasir_router_index_blocks",
    ] {
        assert_eq!(router.metric(metric), 0.0, "{metric}");
    }
    assert_idle(&router, &all);
    for worker in all {
        assert_eq!(worker.metric("kvasir_kv_blocks_cached"), 0.0);
    }
}

#[test]
fn it_knows_what_is_cached_where() {
    let workers = ["worker-0", "worker-1"].map(|id| sim_worker(id, "both", FAST));
    let router = router(&[&workers[0], &workers[1]]);
    let (head, _) = post(router.address, CHAT, "", &body());
    let holder = head
        .lines()
        .find_map(|line| line.strip_prefix("x-kvasir-decode-worker: "))
        .expect("the header is there");
    until("the prefix to be known", || {
        let explanation = explained(&router, CHAT, &body());
        let workers = explanation["considered"].as_array().expect("a list");
        let of = |worker: &Value| (worker["worker"] == holder, worker["cached_tokens"].as_u64());
        explanation["decode"] == holder
            && workers.iter().map(of).all(|(holds, cached)| match holds {
                true => cached > Some(100),
                false => cached == Some(0),
            })
    });
}

#[test]
fn what_could_not_run_is_refused_likewise() {
    let worker = sim_worker("worker-0", "both", FAST);
    let router = router(&[&worker]);
    let refused = |path: &str, body: &str| {
        let (head, answer) = post(router.address, path, "", body);
        let answer: Value = serde_json::from_str(&answer).expect("JSON");
        let status = head.split(' ').nth(1).map(str::to_owned);
        (status.unwrap_or_default(), answer["error"]["code"].clone())
    };
    let unknown = r#"{"model":"other","prompt":"a"}"#;
    let (status, code) = refused("/explain/v1/completions", unknown);
    assert_eq!((status.as_str(), &code), ("404", &"model_not_found".into()));
    let (status, _) = refused("/explain/v1/completions", "{}");
    assert_eq!(status, "400");
    let (status, code) = refused("/explain/v1/embeddings", unknown);
    assert_eq!((status.as_str(), &code), ("404", &"not_found".into()));
}
