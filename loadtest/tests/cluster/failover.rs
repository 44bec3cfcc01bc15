//! Workers die before, in and after hand-over, mid-stream and in queue. Every
//! client gets the very tokens that an undisturbed cluster gives, with right
//! usage.

use std::sync::atomic::{AtomicUsize, Ordering};

use futures::future::join_all;

use crate::harness::{
    Ask, Client, Generated, Part, assert_idle, block_on, reference, router, sim_worker,
};

/// Slow enough that a test can act in the middle of each stage.
const SLOW_PREFILL: &[&str] = &[
    "--sim-prefill-tokens-per-second=2000",
    "--max-batch-tokens=64",
    "--sim-step-time=1ms",
];
const SLOW_DECODE: &[&str] = &[
    "--sim-prefill-tokens-per-second=100000",
    "--sim-step-time=5ms",
];

fn asks(n: u32, prompt_tokens: u32, max_tokens: u32) -> Vec<Ask> {
    (0..n)
        .map(|seed| Ask {
            seed,
            prompt_tokens: prompt_tokens + 7 * seed,
            max_tokens,
        })
        .collect()
}

/// Runs all requests at once; `disturb` runs beside them, told how many tokens
/// the slowest client has.
fn run_disturbed(
    router: &Part,
    asks: &[Ask],
    disturb: impl FnOnce(&dyn Fn() -> usize) + Send,
) -> Vec<Result<Generated, tonic::Status>> {
    let seen: Vec<AtomicUsize> = asks.iter().map(|_| AtomicUsize::new(0)).collect();
    let slowest = || {
        let counts = seen.iter().map(|n| n.load(Ordering::SeqCst));
        counts.min().unwrap_or(0)
    };
    std::thread::scope(|scope| {
        let running = scope.spawn(|| {
            block_on(async {
                let client = Client::connect(router).await;
                let runs = asks.iter().zip(&seen).map(|(ask, seen)| {
                    let mut client = client.clone();
                    async move {
                        client
                            .generate(ask, |n| seen.store(n, Ordering::SeqCst))
                            .await
                    }
                });
                join_all(runs).await
            })
        });
        disturb(&slowest);
        running.join().expect("clients end")
    })
}

/// Every client got what an undisturbed cluster gives.
fn assert_undisturbed(asks: &[Ask], got: Vec<Result<Generated, tonic::Status>>) {
    let expected = reference(asks);
    for ((ask, got), expected) in asks.iter().zip(got).zip(expected) {
        let got = got.unwrap_or_else(|status| panic!("{ask:?} failed: {status}"));
        assert_eq!(got.tokens, expected.tokens, "{ask:?}");
        assert_eq!(got.tokens.len(), ask.max_tokens as usize, "{ask:?}");
        assert_eq!(got.finish_reason, "length", "{ask:?}");
        assert_eq!(got.usage.prompt_tokens, ask.prompt_tokens, "{ask:?}");
        assert_eq!(got.usage.completion_tokens, ask.max_tokens, "{ask:?}");
        assert!(got.usage.cached_tokens <= ask.prompt_tokens, "{ask:?}");
    }
}

#[test]
fn decode_worker_dies_mid_stream_and_another_goes_on() {
    let prefill = sim_worker("prefill-0", "prefill", SLOW_DECODE);
    let mut decode = sim_worker("decode-0", "decode", SLOW_DECODE);
    let router = router(&[&prefill, &decode]);
    let asks = asks(6, 100, 60);
    let got = run_disturbed(&router, &asks, |slowest| {
        crate::harness::until("every stream to begin", || slowest() >= 5);
        decode.kill();
    });
    assert_undisturbed(&asks, got);
    assert!(router.metric("kvasir_router_migrations_total") >= 1.0);
    assert_idle(&router, &[&prefill]);
}

#[test]
fn prefill_worker_dies_while_it_computes_the_prompt() {
    let mut prefill = sim_worker("prefill-0", "prefill", SLOW_PREFILL);
    let decode = sim_worker("decode-0", "decode", SLOW_PREFILL);
    let router = router(&[&prefill, &decode]);
    let asks = asks(4, 600, 20);
    let got = run_disturbed(&router, &asks, |_| {
        prefill.wait_for("kvasir_prefill_tokens_total", |n| n >= 64.0);
        prefill.kill();
    });
    assert_undisturbed(&asks, got);
    assert_idle(&router, &[&decode]);
}

#[test]
fn prefill_worker_dies_in_hand_over_with_blocks_on_their_way() {
    let mut prefill = sim_worker("prefill-0", "prefill", SLOW_PREFILL);
    let decode = sim_worker("decode-0", "decode", SLOW_PREFILL);
    let router = router(&[&prefill, &decode]);
    let asks = asks(4, 600, 20);
    let got = run_disturbed(&router, &asks, |_| {
        decode.wait_for("kvasir_transfer_blocks_total", |n| n >= 4.0);
        prefill.kill();
    });
    assert_undisturbed(&asks, got);
    assert_idle(&router, &[&decode]);
}

#[test]
fn prefill_worker_dies_after_hand_over_and_nobody_notices() {
    let mut prefill = sim_worker("prefill-0", "prefill", SLOW_DECODE);
    let decode = sim_worker("decode-0", "decode", SLOW_DECODE);
    let router = router(&[&prefill, &decode]);
    let asks = asks(4, 100, 60);
    let got = run_disturbed(&router, &asks, |slowest| {
        crate::harness::until("every stream to begin", || slowest() >= 3);
        prefill.kill();
    });
    assert_undisturbed(&asks, got);
    assert_eq!(router.metric("kvasir_router_migrations_total"), 0.0);
    assert_idle(&router, &[&decode]);
}

#[test]
fn decode_worker_dies_in_hand_over() {
    let prefill = sim_worker("prefill-0", "prefill", SLOW_PREFILL);
    let mut decode = sim_worker("decode-0", "decode", SLOW_PREFILL);
    let spare = sim_worker("decode-1", "decode", SLOW_PREFILL);
    let router = router(&[&prefill, &decode, &spare]);
    let asks = asks(4, 600, 20);
    let got = run_disturbed(&router, &asks, |_| {
        decode.wait_for("kvasir_transfer_blocks_total", |n| n >= 4.0);
        decode.kill();
    });
    assert_undisturbed(&asks, got);
    assert_idle(&router, &[&prefill, &spare]);
}

#[test]
fn both_die_mid_stream_and_a_third_goes_on() {
    let mut prefill = sim_worker("prefill-0", "prefill", SLOW_DECODE);
    let mut decode = sim_worker("decode-0", "decode", SLOW_DECODE);
    let spare = sim_worker("prefill-1", "prefill", SLOW_DECODE);
    let router = router(&[&prefill, &decode, &spare]);
    let asks = asks(6, 100, 60);
    let got = run_disturbed(&router, &asks, |slowest| {
        crate::harness::until("every stream to begin", || slowest() >= 5);
        prefill.kill();
        decode.kill();
    });
    assert_undisturbed(&asks, got);
    assert_idle(&router, &[&spare]);
}

#[test]
fn both_die_in_hand_over_and_a_third_goes_on() {
    let mut prefill = sim_worker("prefill-0", "prefill", SLOW_PREFILL);
    let mut decode = sim_worker("decode-0", "decode", SLOW_PREFILL);
    let router_parts = [&prefill, &decode];
    let spare = sim_worker("both-0", "both", SLOW_PREFILL);
    let router = router(&[router_parts[0], router_parts[1], &spare]);
    let asks = asks(6, 600, 20);
    let got = run_disturbed(&router, &asks, |_| {
        decode.wait_for("kvasir_transfer_blocks_total", |n| n >= 4.0);
        prefill.kill();
        decode.kill();
    });
    assert_undisturbed(&asks, got);
    assert_idle(&router, &[&spare]);
}

#[test]
fn a_worker_dies_with_requests_in_its_queue() {
    let narrow = [SLOW_DECODE, &["--max-sequences=2"]].concat();
    let mut first = sim_worker("worker-0", "both", &narrow);
    let second = sim_worker("worker-1", "both", &narrow);
    let router = router(&[&first, &second]);
    let asks = asks(12, 60, 20);
    let got = run_disturbed(&router, &asks, |_| {
        first.wait_for("kvasir_waiting_sequences", |n| n >= 2.0);
        first.kill();
    });
    assert_undisturbed(&asks, got);
    assert_idle(&router, &[&second]);
}

#[test]
fn with_nobody_left_clients_are_told_so() {
    let mut prefill = sim_worker("prefill-0", "prefill", SLOW_DECODE);
    let mut decode = sim_worker("decode-0", "decode", SLOW_DECODE);
    let router = router(&[&prefill, &decode]);
    let asks = asks(3, 100, 60);
    let got = run_disturbed(&router, &asks, |slowest| {
        crate::harness::until("every stream to begin", || slowest() >= 5);
        prefill.kill();
        decode.kill();
    });
    for got in got {
        let status = got.expect_err("nobody can go on");
        assert_eq!(
            proto::code_of(&status),
            proto::ErrorCode::NoWorker,
            "{status}"
        );
    }
    let body = r#"{"model":"kvasir-demo","messages":[{"role":"user","content":"hi"}]}"#;
    let (head, body) = crate::harness::post(router.address, "/v1/chat/completions", "", body);
    assert!(head.starts_with("HTTP/1.1 503"), "{head}");
    assert!(body.contains("no_worker"), "{body}");
    assert_idle(&router, &[]);
}

#[test]
fn a_client_that_leaves_frees_its_blocks() {
    let worker = sim_worker("worker-0", "both", SLOW_DECODE);
    let router = router(&[&worker]);
    let ask = asks(1, 300, 1000)[0];
    block_on(async {
        let mut client = Client::connect(&router).await;
        let mut stream = client.start(&ask).await.expect("starts");
        stream.message().await.expect("a token");
    });
    assert_idle(&router, &[&worker]);
    assert!(worker.metric("kvasir_decode_tokens_total") < 900.0);
}

#[test]
fn a_restarted_worker_serves_again_without_ghosts() {
    let mut worker = sim_worker("worker-0", "both", SLOW_DECODE);
    let router = router(&[&worker]);
    let asks = asks(1, 200, 4);
    assert_undisturbed(
        &asks,
        vec![Ok(crate::harness::run(&router, &asks).remove(0))],
    );
    router.wait_for("kvasir_router_index_blocks", |n| n >= 12.0);
    let listen = format!("--listen={}", worker.address);
    worker.kill();
    router.wait_for("kvasir_router_connected_workers", |n| n == 0.0);
    let flags = ["--device=sim", "--id=worker-0", &listen];
    let again = crate::harness::worker(&flags);
    router.wait_for("kvasir_router_connected_workers", |n| n == 1.0);
    router.wait_for("kvasir_router_index_blocks", |n| n == 0.0);
    let got = crate::harness::run(&router, &asks).remove(0);
    assert_eq!(got.usage.cached_tokens, 0);
    assert_idle(&router, &[&again]);
}
