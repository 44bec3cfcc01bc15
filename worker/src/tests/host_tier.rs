//! Prompts whose blocks were evicted come back from host memory.

use runtime::config::ByteSize;

use super::*;

/// Tokens of a prompt of 10 blocks that shares nothing with others.
fn family(number: u32) -> pb::Prompt {
    prompt((0..161).map(|i| (number * 37 + i * 11 + 2) % 1000), 4)
}

async fn cached(worker: &TestWorker, number: u32) -> (u32, Vec<u32>) {
    let events = worker.generate(family(number)).await.unwrap();
    let generated = collect(events).await.unwrap();
    (generated.finished.cached_tokens, generated.tokens)
}

#[tokio::test(flavor = "multi_thread")]
async fn evicted_prompts_come_back_from_host_memory() {
    let mut setup = Setup::default();
    setup.sim.total_blocks = 40;
    setup.config.kv_host_memory = ByteSize(1 << 20);
    let worker = setup.start().await;
    let mut first = Vec::new();
    for number in 0..20 {
        let (cached, tokens) = cached(&worker, number).await;
        assert_eq!(cached, 0);
        first.push(tokens);
    }
    for number in 0..20 {
        let again = cached(&worker, number).await;
        assert_eq!(again, (160, first[number as usize].clone()), "{number}");
    }
    worker.all_blocks_free().await;
}
