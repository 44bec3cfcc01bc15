//! Many streams at once through the cluster that `kvasir` starts by default.

use crate::harness::{Ask, assert_idle, router, run, worker};

#[test]
fn two_hundred_streams_complete_unmixed_and_leave_nothing_behind() {
    let cpu = |id, role| worker(&["--model=demo", "--threads=1", "--id", id, "--role", role]);
    let (prefill, decode) = (cpu("prefill-0", "prefill"), cpu("decode-0", "decode"));
    let router = router(&[&prefill, &decode]);
    let asks: Vec<Ask> = (0..200)
        .map(|seed| Ask {
            seed,
            prompt_tokens: 20 + seed % 50,
            max_tokens: 10 + seed % 20,
        })
        .collect();
    let together = run(&router, &asks);
    assert_idle(&router, &[&prefill, &decode]);
    for (ask, got) in asks.iter().zip(&together) {
        assert_eq!(got.tokens.len(), ask.max_tokens as usize);
        assert_eq!(got.usage.prompt_tokens, ask.prompt_tokens);
    }
    for ask in asks.iter().step_by(23) {
        let alone = run(&router, &[*ask]);
        assert_eq!(alone[0].tokens, together[ask.seed as usize].tokens);
    }
}
