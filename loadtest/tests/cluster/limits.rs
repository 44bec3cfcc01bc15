//! Where time is up: of a request, and of a worker that shuts down.

use std::time::Duration;

use crate::harness::{
    Ask, Client, FAST, assert_idle, block_on, post, reference, router, run, sim_worker, until,
};

const SLOW: &[&str] = &[
    "--sim-prefill-tokens-per-second=100000",
    "--sim-step-time=5ms",
];

#[test]
fn request_past_its_time_limit_is_told_so_and_its_blocks_are_free() {
    let prefill = sim_worker("prefill-0", "prefill", SLOW);
    let decode = sim_worker("decode-0", "decode", SLOW);
    let router = router(&[&prefill, &decode]);
    let ask = |max_tokens: u32| {
        let body = format!(
            r#"{{"model":"kvasir-demo","prompt":"Once upon a time there was a block that","max_tokens":{max_tokens},"ignore_eos":true}}"#
        );
        let limit = "x-request-timeout-ms: 300\r\n";
        post(router.address, "/v1/completions", limit, &body)
    };
    let (head, body) = ask(1000);
    assert!(head.starts_with("HTTP/1.1 504"), "{head} {body}");
    let body: serde_json::Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!(body["error"]["code"], "deadline_exceeded");
    assert_eq!(body["error"]["type"], "timeout_error");
    assert_idle(&router, &[&prefill, &decode]);
    let (head, body) = ask(3);
    assert!(head.starts_with("HTTP/1.1 200"), "{head} {body}");
}

#[test]
fn drained_worker_loses_nothing_though_its_grace_time_is_short() {
    let mut first = sim_worker("worker-0", "both", SLOW);
    let router = router(&[&first]);
    let ask = Ask {
        seed: 3,
        prompt_tokens: 100,
        max_tokens: 200,
    };
    let expected = reference(&[ask]).remove(0);
    let listen = first.address;
    let got = std::thread::scope(|scope| {
        let running = scope.spawn(|| {
            block_on(async {
                let mut client = Client::connect(&router).await;
                client.generate(&ask, |_| {}).await
            })
        });
        first.wait_for("kvasir_decode_tokens_total", |n| n >= 10.0);
        // One sequence is late, and cut off.
        assert!(first.finish(Duration::from_millis(50)).is_err());
        // Its successor takes the place while the client still waits.
        let listen = format!("--listen={listen}");
        let again = sim_worker("worker-0", "both", &[FAST, &[&listen]].concat());
        (running.join().expect("an end"), again)
    });
    let (got, again) = (got.0.expect("all tokens"), got.1);
    assert_eq!(got.tokens, expected.tokens);
    assert_eq!(got.usage.completion_tokens, 200);
    until("a new request to be served", || {
        run(&router, &[ask])[0].tokens == expected.tokens
    });
    assert_idle(&router, &[&again]);
}
