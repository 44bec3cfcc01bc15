use super::*;

/// A request with a deadline.
fn within<T>(time: Duration, message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    // As text: the client's own timer must not be what ends the call.
    let timeout = format!("{}m", time.as_millis()).parse().unwrap();
    request.metadata_mut().insert("grpc-timeout", timeout);
    request
}

#[tokio::test]
async fn a_sequence_ends_at_its_deadline_and_its_blocks_are_free() {
    let worker = Setup::slow(Duration::from_millis(2)).start().await;
    let request = pb::GenerateRequest {
        prompt: Some(prompt(2..40, 8000)),
        kv: None,
    };
    let begun = std::time::Instant::now();
    let limit = Duration::from_millis(200);
    let call = worker.client.clone().generate(within(limit, request)).await;
    let mut events = call.unwrap().into_inner();
    let mut tokens = 0;
    let late = loop {
        match next(&mut events).await {
            Ok(Some(_)) => tokens += 1,
            Ok(None) => panic!("it ended well"),
            Err(late) => break late,
        }
    };
    assert_eq!(code_of(&late), ErrorCode::DeadlineExceeded);
    assert!(tokens > 1 && begun.elapsed() >= limit);
    worker.all_blocks_free().await;
}

#[tokio::test]
async fn a_prompt_that_nobody_pulls_ends_at_the_callers_deadline_not_the_lease() {
    let worker = Setup::default().start().await;
    let request = pb::PrefillRequest {
        prompt: Some(prompt(2..40, 5)),
    };
    let limit = Duration::from_millis(100);
    let call = worker.client.clone().prefill(within(limit, request)).await;
    let mut events = call.unwrap().into_inner();
    let late = loop {
        match next(&mut events).await {
            Ok(event) => assert!(event.is_some(), "it ended well"),
            Err(late) => break late,
        }
    };
    assert_eq!(code_of(&late), ErrorCode::DeadlineExceeded);
    worker.all_blocks_free().await;
}
