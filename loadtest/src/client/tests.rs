use runtime::Lifecycle;

use super::*;
use crate::null_server::{Fault, Script, ScriptedServer};
use crate::planned::{ChatMessage, Output, PlannedRequest, Prompt};

fn request(number: u64) -> PlannedRequest {
    PlannedRequest {
        number,
        recorded_at: None,
        turn: None,
        prompt: Prompt::Chat(vec![ChatMessage {
            role: "user",
            content: "hi".to_owned(),
        }]),
        prompt_tokens: None,
        output: Output {
            max_tokens: 4,
            exact: true,
        },
        tenant: None,
        priority: None,
    }
}

struct Setup {
    server: ScriptedServer,
    client: Client,
    encoded: Encoded,
    _life: Lifecycle,
}

async fn setup(script: Script, change: impl FnOnce(&mut Target)) -> Setup {
    let life = Lifecycle::new();
    let server = ScriptedServer::start(&life, script).await.unwrap();
    let mut target = Target::new(&server.url(), "null");
    change(&mut target);
    let endpoint = Endpoint::resolve(&target).await.unwrap();
    Setup {
        server,
        client: Client::new(Arc::new(endpoint)),
        encoded: Encoder::new(&target).encode(&request(0)),
        _life: life,
    }
}

impl Setup {
    async fn send(&self) -> (Outcome, Answer) {
        let mut answer = Answer::new(true);
        let outcome = self.client.send(&self.encoded, &mut answer).await;
        (outcome, answer)
    }
}

/// What a fault is called, streamed and not.
async fn check(fault: Fault, streamed: Outcome, whole: Outcome) {
    for (stream, expected) in [(true, streamed), (false, whole)] {
        let script = Script {
            fault: Some(Arc::new(move |_| Some(fault))),
            ..Script::default()
        };
        let setup = setup(script, |it| it.stream = stream).await;
        let (outcome, _) = setup.send().await;
        assert_eq!(outcome, expected, "{fault:?}, stream: {stream}");
    }
}

#[tokio::test]
async fn calls_every_fault_by_its_name() {
    use Outcome as O;
    check(Fault::Status(429), O::Status(429), O::Status(429)).await;
    check(Fault::ErrorEvent { after: 2 }, O::ErrorEvent, O::ErrorEvent).await;
    check(Fault::ErrorEvent { after: 0 }, O::ErrorEvent, O::ErrorEvent).await;
    check(Fault::Cut { after: 0 }, O::CutStream, O::CutStream).await;
    check(Fault::Cut { after: 3 }, O::CutStream, O::CutStream).await;
    check(Fault::NoEndMark { after: 4 }, O::CutStream, O::CutStream).await;
    check(Fault::Disconnect, O::Disconnected, O::Disconnected).await;
    check(Fault::OneShort, O::WrongTokenCount, O::WrongTokenCount).await;
    check(Fault::StopsEarly, O::Truncated, O::Truncated).await;
    check(Fault::NotJson { after: 1 }, O::Malformed, O::Malformed).await;
    check(Fault::NotHttp, O::Malformed, O::Malformed).await;
}

#[tokio::test]
async fn reads_text_chunks_usage_and_worker() {
    for stream in [true, false] {
        let script = Script {
            decode_worker: Some("worker-7".to_owned()),
            ..Script::default()
        };
        let setup = setup(script, |it| it.stream = stream).await;
        let (outcome, answer) = setup.send().await;
        assert_eq!(outcome, Outcome::Complete);
        assert_eq!(answer.text.as_deref(), Some(" token token token token"));
        assert_eq!(answer.chunks.iter().map(|it| it.1).sum::<u32>(), 4);
        assert_eq!(answer.chunks.len(), if stream { 4 } else { 1 });
        assert_eq!(answer.usage.unwrap().completion_tokens, 4);
        assert_eq!(answer.decode_worker.as_deref(), Some("worker-7"));
        let (connected, sent) = (answer.connected.unwrap(), answer.sent.unwrap());
        assert!(connected <= sent && sent <= answer.chunks[0].0);
        assert!(answer.chunks.last().unwrap().0 <= answer.ended.unwrap());
    }
}

#[tokio::test]
async fn an_answered_connection_serves_again() {
    for stream in [true, false] {
        let setup = setup(Script::default(), |it| it.stream = stream).await;
        for _ in 0..5 {
            assert_eq!(setup.send().await.0, Outcome::Complete);
        }
        assert_eq!(setup.server.connections(), 1, "stream: {stream}");
    }
}

#[tokio::test]
async fn a_connection_closed_while_idle_is_replaced_without_an_error() {
    let script = Script {
        answers_per_connection: Some(1),
        ..Script::default()
    };
    let setup = setup(script, |_| ()).await;
    for _ in 0..4 {
        assert_eq!(setup.send().await.0, Outcome::Complete);
    }
    assert_eq!(
        (setup.server.connections(), setup.server.requests()),
        (4, 4)
    );
}

#[tokio::test]
async fn a_reused_connection_that_breaks_is_retried_once_and_a_fresh_one_never() {
    let script = Script {
        fault: Some(Arc::new(|number| (number > 0).then_some(Fault::Disconnect))),
        ..Script::default()
    };
    let setup = setup(script, |_| ()).await;
    assert_eq!(setup.send().await.0, Outcome::Complete);
    assert_eq!(setup.send().await.0, Outcome::Disconnected);
    assert_eq!(
        (setup.server.connections(), setup.server.requests()),
        (2, 3)
    );
    assert_eq!(setup.send().await.0, Outcome::Disconnected);
    assert_eq!(
        (setup.server.connections(), setup.server.requests()),
        (3, 4)
    );
}

#[tokio::test]
async fn nobody_listening_is_a_failed_connection() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let target = Target::new(&url, "null");
    let endpoint = Endpoint::resolve(&target).await.unwrap();
    let refused = endpoint.probe().await.unwrap_err();
    assert!(
        matches!(refused, TargetError::Unreachable { .. }),
        "{refused}"
    );
    let client = Client::new(Arc::new(endpoint));
    let encoded = Encoder::new(&target).encode(&request(0));
    let outcome = client.send(&encoded, &mut Answer::new(false)).await;
    assert_eq!(outcome, Outcome::Connect);
}

#[tokio::test]
async fn a_probe_tells_of_a_wrong_key_or_model() {
    let life = Lifecycle::new();
    let script = Script {
        api_key: Some("secret".to_owned()),
        ..Script::default()
    };
    let server = ScriptedServer::start(&life, script).await.unwrap();
    let probe = async |key: &str, model: &str| {
        let mut target = Target::new(&format!("{}/v1/", server.url()), model);
        target.api_key = Some(key.to_owned());
        Endpoint::resolve(&target).await.unwrap().probe().await
    };
    assert_eq!(probe("secret", "null").await, Ok(()));
    let refused = probe("other", "null").await.unwrap_err();
    assert!(
        matches!(refused, TargetError::Key { status: 401, .. }),
        "{refused}"
    );
    let refused = probe("secret", "other").await.unwrap_err().to_string();
    assert!(
        refused.ends_with("serves no model other; it serves null"),
        "{refused}"
    );
}

#[tokio::test]
async fn refuses_what_is_no_target_in_words() {
    let resolve = async |url: &str| {
        let target = Target::new(url, "null");
        Endpoint::resolve(&target)
            .await
            .map(|_| ())
            .unwrap_err()
            .to_string()
    };
    assert!(
        resolve("localhost:80")
            .await
            .contains("write it as http://host:port")
    );
    assert!(
        resolve("nonsense url")
            .await
            .contains("write it as http://host:port")
    );
    assert!(
        resolve("https://localhost")
            .await
            .contains("https is not supported")
    );
    let mut target = Target::new("http://127.0.0.1:1", "null");
    target.headers.push(("bad name".to_owned(), "x".to_owned()));
    let refused = Endpoint::resolve(&target).await.unwrap_err();
    assert_eq!(refused, TargetError::Header("bad name".to_owned()));
}
