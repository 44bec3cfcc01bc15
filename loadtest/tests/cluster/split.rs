//! Split and undivided clusters give the same, and only what is missing moves.

use crate::harness::{Ask, FAST, assert_idle, reference, router, run, sim_worker, worker};

fn asks() -> Vec<Ask> {
    [1, 15, 16, 17, 100, 333, 700]
        .into_iter()
        .enumerate()
        .map(|(seed, prompt_tokens)| Ask {
            seed: seed as u32,
            prompt_tokens,
            max_tokens: 30,
        })
        .collect()
}

#[test]
fn split_and_undivided_give_identical_tokens_on_the_simulated_device() {
    let prefill = sim_worker("prefill-0", "prefill", FAST);
    let decode = sim_worker("decode-0", "decode", FAST);
    let router = router(&[&prefill, &decode]);
    let expected = reference(&asks());
    for (got, expected) in run(&router, &asks()).iter().zip(&expected) {
        assert_eq!(got.tokens, expected.tokens);
        assert_eq!(got.finish_reason, expected.finish_reason);
    }
    assert!(router.metric("kvasir_router_plans_total") >= 7.0);
    assert!(decode.metric("kvasir_transfer_blocks_total") > 0.0);
    assert_eq!(decode.metric("kvasir_transfer_failures_total"), 0.0);
    assert_idle(&router, &[&prefill, &decode]);
}

#[test]
fn split_and_undivided_give_identical_tokens_on_the_cpu() {
    let cpu = |id, role| worker(&["--model=demo", "--threads=1", "--id", id, "--role", role]);
    let (prefill, decode) = (cpu("prefill-0", "prefill"), cpu("decode-0", "decode"));
    let alone = cpu("alone", "both");
    let split = run(&router(&[&prefill, &decode]), &asks());
    let undivided = run(&router(&[&alone]), &asks());
    for (split, undivided) in split.iter().zip(&undivided) {
        assert_eq!(split.tokens, undivided.tokens);
    }
    assert!(decode.metric("kvasir_transfer_blocks_total") > 0.0);
    assert_eq!(decode.metric("kvasir_transfer_failures_total"), 0.0);
}

#[test]
fn blocks_that_the_decode_worker_has_are_not_sent_again() {
    // Prompts take longer than to send for them.
    let slow = &[
        "--sim-step-time=1ms",
        "--sim-prefill-tokens-per-second=10000",
    ];
    let prefill = sim_worker("prefill-0", "prefill", slow);
    let decode = sim_worker("decode-0", "decode", slow);
    let router = router(&[&prefill, &decode]);
    let ask = Ask {
        seed: 5,
        prompt_tokens: 16 * 20 + 3,
        max_tokens: 4,
    };
    run(&router, &[ask]);
    let first = decode.metric("kvasir_transfer_blocks_total");
    assert_eq!(first, 21.0);
    router.wait_for("kvasir_router_index_blocks", |n| n >= 20.0);
    // By more than the decode worker would compute itself.
    let longer = Ask {
        prompt_tokens: 16 * 80,
        ..ask
    };
    run(&router, &[longer]);
    let second = decode.metric("kvasir_transfer_blocks_total") - first;
    assert!((50.0..=60.0).contains(&second), "{second} blocks were sent");
    assert_eq!(decode.metric("kvasir_transfer_failures_total"), 0.0);
}
