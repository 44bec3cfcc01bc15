//! Workers of a real model whose KV is kept in different ways.

use models::KvDtype;

use super::*;
use crate::config::ModelSource;

async fn worker(kv_dtype: KvDtype) -> TestWorker {
    let folder = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/models/tests/fixtures/llama3-gqa-tied-sharded"
    );
    let config = Config {
        listen: "127.0.0.1:0".into(),
        model: ModelSource::Directory(folder.into()),
        threads: Some(1),
        kv_blocks: Some(12),
        kv_dtype,
        ..Config::default()
    };
    let runner = crate::model::load(&config).unwrap().runner;
    start(config, runner).await
}

fn long_prompt() -> pb::Prompt {
    prompt((0..100).map(|i| i * 7 % 120 + 3), 20)
}

/// Splits a prompt over both; returns the tokens and how many prompt tokens'
/// KV was transferred.
async fn split(prefill: &TestWorker, decode: &TestWorker) -> (Vec<u32>, u32) {
    use pb::prefill_event::Event;
    let mut events = prefill.prefill(long_prompt()).await.unwrap();
    let first = next(&mut events).await.unwrap().and_then(|it| it.event);
    let Some(Event::Ticket(ticket)) = first else {
        panic!("the ticket comes first, not {first:?}");
    };
    let decode = decode.generate_from(long_prompt(), Some(ticket));
    let generated = collect(decode.await.unwrap()).await.unwrap();
    (generated.tokens, generated.finished.transferred_tokens)
}

#[tokio::test]
async fn blocks_are_handed_over_however_they_are_kept() {
    for dtype in KvDtype::ALL {
        let (prefill, decode) = (worker(dtype).await, worker(dtype).await);
        let (tokens, transferred) = split(&prefill, &decode).await;
        assert_eq!(transferred, 100, "{dtype}");
        let alone = worker(dtype).await.generate(long_prompt()).await.unwrap();
        assert_eq!(tokens, collect(alone).await.unwrap().tokens, "{dtype}");
    }
}

#[tokio::test]
async fn blocks_that_are_kept_in_another_way_are_not_read() {
    let (prefill, decode) = (worker(KvDtype::Int8).await, worker(KvDtype::F32).await);
    let (tokens, transferred) = split(&prefill, &decode).await;
    assert_eq!(transferred, 0);
    let alone = worker(KvDtype::F32).await;
    let alone = alone.generate(long_prompt()).await.unwrap();
    assert_eq!(tokens, collect(alone).await.unwrap().tokens);
    decode.all_blocks_free().await;
}
