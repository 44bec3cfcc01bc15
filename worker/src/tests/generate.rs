use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

#[tokio::test]
async fn generates_to_the_end_and_frees_all() {
    let worker = Setup::default().start().await;
    let events = worker.generate(prompt(2..40, 20)).await.unwrap();
    let generated = collect(events).await.unwrap();
    assert_eq!(generated.tokens.len(), 20);
    assert_eq!(generated.started.unwrap().cached_tokens, 0);
    assert_eq!(generated.finished.reason(), pb::FinishReason::Length);
    worker.all_blocks_free().await;
}

#[tokio::test]
async fn a_repeated_prompt_is_cached_and_gives_the_same_tokens() {
    let worker = Setup::default().start().await;
    let first = collect(worker.generate(prompt(2..40, 20)).await.unwrap())
        .await
        .unwrap();
    let again = collect(worker.generate(prompt(2..40, 20)).await.unwrap())
        .await
        .unwrap();
    assert_eq!(again.tokens, first.tokens);
    assert_eq!(again.finished.cached_tokens, 37);
}

#[tokio::test]
async fn prompt_logprobs_and_logprobs_are_reported() {
    let worker = Setup::default().start().await;
    let mut prompt = prompt(2..40, 3);
    let sampling = prompt.sampling.as_mut().unwrap();
    (sampling.logprobs, sampling.prompt_logprobs) = (Some(2), Some(0));
    let generated = collect(worker.generate(prompt).await.unwrap())
        .await
        .unwrap();
    assert_eq!(generated.prompt_logprobs, 37);
    worker.all_blocks_free().await;
}

#[tokio::test]
async fn many_streams_do_not_mix() {
    let worker = Setup::default().start().await;
    let call = async |first: u32| {
        let events = worker
            .generate(prompt(first..first + 30, 40))
            .await
            .unwrap();
        collect(events).await.unwrap().tokens
    };
    let together = futures::future::join_all((2..34).map(call)).await;
    for (first, tokens) in (2..34).zip(together) {
        assert_eq!(tokens, call(first).await, "prompt {first}");
    }
    worker.all_blocks_free().await;
}

#[tokio::test]
async fn dropping_the_call_frees_its_blocks() {
    let worker = Setup::slow(Duration::from_millis(2)).start().await;
    let mut events = worker.generate(prompt(2..300, 7000)).await.unwrap();
    next(&mut events).await.unwrap();
    assert!(worker.running.status().free_blocks < worker.running.total_blocks);
    drop(events);
    worker.all_blocks_free().await;
    assert_eq!(worker.running.status().running_sequences, 0);
}

#[tokio::test]
async fn dropping_a_call_in_the_queue_removes_it() {
    let mut setup = Setup::slow(Duration::from_millis(2));
    setup.config.max_sequences = 1;
    let worker = setup.start().await;
    let running = worker.generate(prompt(2..300, 7000)).await.unwrap();
    let waiting = worker.generate(prompt(2..300, 7000)).await.unwrap();
    worker
        .running
        .status_when(|it| it.waiting_sequences == 1)
        .await;
    drop(waiting);
    worker
        .running
        .status_when(|it| it.waiting_sequences == 0)
        .await;
    drop(running);
    worker.all_blocks_free().await;
}

#[tokio::test]
async fn a_full_queue_is_busy() {
    let mut setup = Setup::slow(Duration::from_millis(2));
    setup.config.max_sequences = 1;
    setup.config.max_waiting = 1;
    let worker = setup.start().await;
    let mut running = worker.generate(prompt(2..40, 7000)).await.unwrap();
    next(&mut running).await.unwrap();
    let waiting = worker.generate(prompt(2..40, 10)).await.unwrap();
    let refused = worker.generate(prompt(2..40, 10)).await;
    assert_eq!(code(refused), ErrorCode::WorkerBusy);
    drop(running);
    assert_eq!(collect(waiting).await.unwrap().tokens.len(), 10);
    worker.all_blocks_free().await;
}

#[tokio::test]
async fn a_long_prompt_leaves_others_streaming_and_their_tokens_right() {
    let mut setup = Setup::default();
    setup.config.max_batch_tokens = 64;
    let worker = setup.start().await;
    let alone = collect(worker.generate(prompt(2..20, 60)).await.unwrap())
        .await
        .unwrap();
    let long = worker
        .generate(prompt((0..6000).map(|i| i % 997 + 2), 5))
        .await
        .unwrap();
    let short = worker.generate(prompt(2..20, 60)).await.unwrap();
    let (long, short) = tokio::join!(collect(long), collect(short));
    assert_eq!(long.unwrap().tokens.len(), 5);
    assert_eq!(short.unwrap().tokens, alone.tokens);
    worker.all_blocks_free().await;
}

#[tokio::test]
async fn bad_requests_are_refused_with_their_code() {
    let worker = Setup::default().start().await;
    let unknown_token = prompt([1000], 5);
    let bad_sampling = {
        let mut prompt = prompt([2], 5);
        prompt.sampling.as_mut().unwrap().top_p = 2.0;
        prompt
    };
    let table = [
        (prompt([], 5), ErrorCode::InvalidRequest),
        (unknown_token, ErrorCode::InvalidRequest),
        (bad_sampling, ErrorCode::InvalidRequest),
        (prompt(vec![2; 8192], 5), ErrorCode::ContextLengthExceeded),
    ];
    for (prompt, expected) in table {
        assert_eq!(code(worker.generate(prompt.clone()).await), expected);
        assert_eq!(code(worker.prefill(prompt).await), expected);
    }
    worker.all_blocks_free().await;
}

#[tokio::test]
async fn describes_itself_and_gives_its_files() {
    let worker = Setup::default().start().await;
    let mut client = worker.client.clone();
    let description = client
        .describe(pb::DescribeRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(description.model, "sim");
    assert_eq!(description.total_blocks, 600);
    assert_eq!(description.block_size, 16);
    assert_eq!(description.role(), pb::Role::Both);
    assert!(description.epoch > 1_700_000_000_000_000);
    let port = worker.running.address.port().to_string();
    assert!(
        description.worker_id.ends_with(&port),
        "{}",
        description.worker_id
    );
    let mut files = client
        .model_files(pb::ModelFilesRequest {})
        .await
        .unwrap()
        .into_inner();
    let file = next(&mut files).await.unwrap().unwrap();
    assert_eq!(
        (file.name.as_str(), file.data.as_ref()),
        ("tokenizer.json", &b"{}"[..])
    );
    assert_eq!(next(&mut files).await.unwrap(), None);
}

#[tokio::test]
async fn answers_probes_and_scrapers() {
    let worker = Setup::default().start().await;
    collect(worker.generate(prompt(2..40, 20)).await.unwrap())
        .await
        .unwrap();
    assert!(
        http_get(&worker, "/health")
            .await
            .starts_with("HTTP/1.1 200")
    );
    assert!(
        http_get(&worker, "/ready")
            .await
            .starts_with("HTTP/1.1 200")
    );
    let page = http_get(&worker, "/metrics").await;
    for line in [
        "kvasir_kv_blocks_total 600",
        "kvasir_kv_block_bytes{dtype=\"sim\"} 136",
        "kvasir_prefill_tokens_total 38",
        "vllm:generation_tokens_total{model_name=\"sim\",engine=\"0\"} 20",
        "vllm:request_success_total{model_name=\"sim\",engine=\"0\",finished_reason=\"length\"} 1",
        "kvasir_worker_stage_seconds_count{stage=\"decode\"} 1",
    ] {
        assert!(page.contains(line), "no {line} in {page}");
    }
}

pub(super) async fn http_get(worker: &TestWorker, path: &str) -> String {
    http_get_at(worker.running.address, path).await
}

pub(super) async fn http_get_at(address: std::net::SocketAddr, path: &str) -> String {
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: w\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}
