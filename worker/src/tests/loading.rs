use tokio::sync::oneshot;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::generate::http_get_at;
use super::*;

#[tokio::test]
async fn the_port_answers_while_the_model_loads() {
    let setup = Setup::default();
    let listener = runtime::bind(&setup.config.listen).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (loaded_tx, loaded_rx) = oneshot::channel();
    let load = async move { Ok(loaded_rx.await.expect("this test loads it")) };
    let lifecycle = Lifecycle::new();
    let serving = lifecycle.spawn(
        "worker",
        serve(setup.config, listener, load, lifecycle.clone()),
    );

    let channel = Channel::from_shared(format!("http://{address}")).unwrap();
    let channel = channel.connect().await.unwrap();
    let mut health = HealthClient::new(channel.clone());
    let mut check = async |service: &str| {
        let service = service.to_owned();
        let checked = health.check(HealthCheckRequest { service }).await;
        checked.unwrap().into_inner().status()
    };
    let worker = "kvasir.worker.v1.Worker";
    assert_eq!(check("").await, ServingStatus::NotServing);
    assert_eq!(check(worker).await, ServingStatus::NotServing);
    for (path, status) in [("/health", 200), ("/ready", 503), ("/metrics", 200)] {
        let answer = http_get_at(address, path).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{path}: {answer}"
        );
    }
    let mut client = WorkerClient::new(channel);
    let describe =
        async |client: &mut WorkerClient<Channel>| client.describe(pb::DescribeRequest {}).await;
    assert_eq!(code(describe(&mut client).await), ErrorCode::NotReady);

    let runner = Box::new(SimRunner::new(setup.sim));
    assert!(loaded_tx.send(model(runner)).is_ok());
    let running = serving.await.unwrap().unwrap();
    assert_eq!(running.address, address);
    assert!(
        describe(&mut client).await.is_ok(),
        "on the same connection"
    );
    while check(worker).await != ServingStatus::Serving {
        tokio::task::yield_now().await;
    }
    let ready = http_get_at(address, "/ready").await;
    assert!(ready.starts_with("HTTP/1.1 200"), "{ready}");
    assert_eq!(lifecycle.finish(PATIENCE).await, Ok(()));
}
