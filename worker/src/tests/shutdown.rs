use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::*;

#[tokio::test]
async fn running_sequences_finish_in_a_drain() {
    let worker = Setup::slow(Duration::from_millis(2)).start().await;
    let mut events = worker.generate(prompt(2..40, 100)).await.unwrap();
    next(&mut events).await.unwrap();
    worker.lifecycle.begin_drain();
    let (finished, tokens) = tokio::join!(worker.lifecycle.finish(PATIENCE), async {
        let mut tokens = 0;
        while let Some(event) = next(&mut events).await.unwrap() {
            if let Some(pb::generate_event::Event::Tokens(more)) = event.event {
                tokens += more.tokens.len();
            }
        }
        tokens
    });
    assert_eq!(tokens, 100);
    assert_eq!(finished, Ok(()));
    worker.all_blocks_free().await;
    let refused = worker.generate(prompt(2..40, 100)).await;
    assert!(code(refused).may_retry());
}

#[tokio::test]
async fn a_sequence_longer_than_the_grace_is_cut_off() {
    let worker = Setup::slow(Duration::from_millis(2)).start().await;
    let mut events = worker.generate(prompt(2..40, 8000)).await.unwrap();
    next(&mut events).await.unwrap();
    let late = worker.lifecycle.finish(Duration::from_millis(20)).await;
    assert!(late.is_err());
    assert!(code(collect_all(events).await).may_retry());
    worker.all_blocks_free().await;
}

async fn collect_all(mut events: Streaming<pb::GenerateEvent>) -> Result<(), Status> {
    while next(&mut events).await?.is_some() {}
    Ok(())
}

#[tokio::test]
async fn subscribers_and_health_watchers_hear_of_the_drain_and_are_let_go() {
    let worker = Setup::default().start().await;
    let request = pb::SubscribeRequest::default();
    let mut events = worker
        .client
        .clone()
        .subscribe(request)
        .await
        .unwrap()
        .into_inner();
    let channel = Channel::from_shared(format!("http://{}", worker.running.address)).unwrap();
    let mut health = HealthClient::new(channel.connect().await.unwrap());
    let watched = HealthCheckRequest::default();
    let mut watch = health.watch(watched).await.unwrap().into_inner();
    next(&mut events).await.unwrap();
    next(&mut watch).await.unwrap();
    worker.lifecycle.begin_drain();
    let mut last_status = None;
    while let Some(event) = next(&mut events).await.unwrap() {
        if let Some(pb::worker_event::Event::Status(status)) = event.event {
            last_status = Some(status);
        }
    }
    assert!(last_status.unwrap().draining);
    let mut last_health = None;
    while let Some(health) = next(&mut watch).await.unwrap() {
        last_health = Some(health.status());
    }
    assert_eq!(last_health, Some(ServingStatus::NotServing));
    assert_eq!(worker.lifecycle.finish(PATIENCE).await, Ok(()));
}

#[tokio::test]
async fn new_work_is_refused_while_draining() {
    use proto::worker::worker_server::Worker;
    let lifecycle = Lifecycle::new();
    let setup = Setup::default();
    let model = model(Box::new(SimRunner::new(setup.sim)));
    let page = runtime::MetricsPage::new();
    let address = "127.0.0.1:9".parse().unwrap();
    let shared = crate::start::assemble(&setup.config, address, model, &page, &lifecycle).unwrap();
    let service = crate::service::WorkerService(shared.into());
    lifecycle.begin_drain();
    let request = pb::GenerateRequest {
        prompt: Some(prompt(2..40, 100)),
        kv: None,
    };
    let refused = service.generate(tonic::Request::new(request)).await;
    assert_eq!(code(refused), ErrorCode::ShuttingDown);
    let request = pb::PrefillRequest {
        prompt: Some(prompt(2..40, 100)),
    };
    let refused = service.prefill(tonic::Request::new(request)).await;
    assert_eq!(code(refused), ErrorCode::ShuttingDown);
    drop(service);
    assert_eq!(lifecycle.finish(PATIENCE).await, Ok(()));
}
