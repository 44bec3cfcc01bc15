//! Requests go where their prefix is.

use crate::harness::{Ask, FAST, post, router, run, sim_worker, until};

#[test]
fn a_shared_prefix_is_found_and_reused() {
    let workers: Vec<_> = (0..4)
        .map(|i| sim_worker(&format!("worker-{i}"), "both", FAST))
        .collect();
    let router = router(&workers.iter().collect::<Vec<_>>());
    let ask = Ask {
        seed: 3,
        prompt_tokens: 640,
        max_tokens: 2,
    };
    assert_eq!(run(&router, &[ask])[0].usage.cached_tokens, 0);
    router.wait_for("kvasir_router_index_blocks", |n| n >= 40.0);
    for _ in 0..4 {
        // A worker that still seems busy would be passed over: computing the
        // prompt again takes no time here.
        router.wait_for("kvasir_router_reported_sequences", |n| n == 0.0);
        // The last token is computed again, to draw from it.
        assert_eq!(run(&router, &[ask])[0].usage.cached_tokens, 639);
    }
}

#[test]
fn a_conversation_is_explained_and_its_usage_says_what_was_cached() {
    let prefill = sim_worker("prefill-0", "prefill", FAST);
    let decode = sim_worker("decode-0", "decode", FAST);
    let router = router(&[&prefill, &decode]);
    let system = "You answer questions about serving language models. ".repeat(20);
    let body = format!(
        r#"{{"model":"kvasir-demo","max_tokens":4,"messages":[{{"role":"system","content":"{system}"}},{{"role":"user","content":"What is a block?"}}]}}"#
    );
    let chat = || {
        post(
            router.address,
            "/v1/chat/completions",
            "x-kvasir-explain: 1\r\n",
            &body,
        )
    };
    let (head, first) = chat();
    assert!(head.starts_with("HTTP/1.1 200"), "{head} {first}");
    let explained = head
        .lines()
        .find_map(|line| line.strip_prefix("x-kvasir-explain: "))
        .expect("the header is there");
    let explained: serde_json::Value = serde_json::from_str(explained).expect("JSON");
    assert_eq!(explained["decode"], "decode-0");
    assert_eq!(explained["prefill"], "prefill-0");
    assert_eq!(explained["considered"].as_array().map(Vec::len), Some(2));
    let cached = |answer: &str| {
        let answer: serde_json::Value = serde_json::from_str(answer).expect("JSON");
        answer["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64()
    };
    assert_eq!(cached(&first), Some(0));
    until("the prefix to be known", || cached(&chat().1) > Some(100));
}
