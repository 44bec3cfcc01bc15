use axum::Router;
use axum::body::Body;
use clap::Parser;
use http::StatusCode;
use http_body_util::BodyExt;
use runtime::{Lifecycle, MetricsPage};
use serde_json::{Value, json};
use tower::ServiceExt;

use super::*;
use crate::config::Config;
use crate::routes::{Shared, routes};

#[derive(Parser)]
struct CommandLine {
    #[command(flatten)]
    config: Config,
}

/// A router with the defaults, `flags`, and no worker.
fn gateway(flags: &[&str]) -> Arc<Gateway> {
    let worker = ["router", "--worker", "grpc://127.0.0.1:1"];
    let CommandLine { config } = CommandLine::parse_from(worker.iter().chain(flags));
    let metrics = Arc::new(Metrics::unrecorded());
    let health = config.link.health.clone();
    let cluster = Cluster::new(config.policy, usize::MAX, health, metrics.clone());
    Arc::new(Gateway {
        limits: config.limits(),
        objectives: config.objectives.clone(),
        admission: Admission::new(&config.admission, metrics.clone()),
        tokenize: Tokenize::new(&config.tokenize()).unwrap(),
        dispatch: Dispatch::new(config.dispatch.clone(), cluster.clone(), metrics.clone()),
        cluster,
        metrics,
    })
}

fn app(gateway: &Arc<Gateway>) -> Router {
    let shared = Shared {
        gateway: gateway.clone(),
        page: MetricsPage::new(),
        lifecycle: Lifecycle::new(),
    };
    routes(shared, Router::new())
}

fn chat() -> http::request::Builder {
    Request::post("/v1/chat/completions").header("content-type", "application/json")
}

fn body(extra: Value) -> Body {
    let mut body = json!({"model": "tiny", "messages": [{"role": "user", "content": "Hi"}]});
    let fields = body.as_object_mut().unwrap();
    fields.extend(extra.as_object().unwrap().clone());
    Body::from(body.to_string())
}

struct Answer {
    status: StatusCode,
    retry_after: Option<String>,
    error: Value,
}

async fn send(gateway: &Arc<Gateway>, request: Request) -> Answer {
    let response = app(gateway).oneshot(request).await.unwrap();
    let status = response.status();
    let retry_after = response.headers().get("retry-after");
    let retry_after = retry_after.map(|it| it.to_str().unwrap().to_owned());
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let mut json: Value = serde_json::from_slice(&body).unwrap();
    Answer {
        status,
        retry_after,
        error: json["error"].take(),
    }
}

fn plain() -> Request {
    chat().body(body(json!({}))).unwrap()
}

/// A permit that is out.
async fn taken(gateway: &Gateway) -> Permit {
    let request =
        ChatRequest::parse(br#"{"model":"m","messages":[{"role":"user","content":"x"}]}"#);
    let request = request.unwrap().generate;
    let admission = &gateway.admission;
    admission
        .admit(&request, &Objectives::default())
        .await
        .unwrap()
}

const ONE: &[&str] = &[
    "--max-concurrent-requests",
    "1",
    "--max-queued-requests",
    "0",
];

#[tokio::test]
async fn a_full_queue_answers_429_with_retry_after() {
    let gateway = gateway(ONE);
    let permit = taken(&gateway).await;
    let answer = send(&gateway, plain()).await;
    assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(answer.retry_after.as_deref(), Some("1"));
    assert_eq!(answer.error["code"], "overloaded");
    assert_eq!(answer.error["type"], "rate_limit_error");
    drop(permit);
    let answer = send(&gateway, plain()).await;
    assert_eq!(answer.error["code"], "model_not_found", "admitted");
    let answer = send(&gateway, plain()).await;
    assert_eq!(answer.error["code"], "model_not_found", "and released");
}

#[tokio::test(start_paused = true)]
async fn no_capacity_answers_503_with_retry_after() {
    let gateway = gateway(ONE);
    let capacity = |limit| {
        gateway
            .admission
            .set_capacity(limit, std::time::Duration::from_secs(4));
    };
    capacity(0);
    let answer = send(&gateway, plain()).await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.retry_after.as_deref(), Some("4"));
    assert_eq!(answer.error["code"], "no_worker");
}

#[tokio::test(start_paused = true)]
async fn a_time_limit_ends_the_wait_with_504() {
    let gateway = gateway(&["--max-concurrent-requests", "1"]);
    let _permit = taken(&gateway).await;
    let started = Instant::now();
    let request = chat().header("x-request-timeout-ms", "1500");
    let answer = send(&gateway, request.body(body(json!({}))).unwrap()).await;
    assert_eq!(answer.status, StatusCode::GATEWAY_TIMEOUT);
    assert_eq!(answer.error["code"], "deadline_exceeded");
    assert_eq!(started.elapsed(), std::time::Duration::from_millis(1500));
}

#[tokio::test]
async fn bad_headers_and_fields_are_named() {
    let gateway = gateway(&[]);
    let check = async |request: Request, param: &str| {
        let answer = send(&gateway, request).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{param}");
        assert_eq!(answer.error["param"], param);
        assert_eq!(answer.error["type"], "invalid_request_error");
        assert_eq!(answer.retry_after, None);
    };
    for header in [
        "x-dynamo-request-priority",
        "x-llm-d-slo-ttft-ms",
        "x-request-timeout-ms",
    ] {
        let request = chat().header(header, "soon");
        check(request.body(body(json!({}))).unwrap(), header).await;
    }
    for (field, param) in [
        (json!({"priority": "high"}), "priority"),
        (json!({"user": 5}), "user"),
        (json!({"nvext": []}), "nvext"),
        (
            json!({"nvext": {"agent_hints": {"strict_priority": -1}}}),
            "nvext.agent_hints.strict_priority",
        ),
    ] {
        check(chat().body(body(field)).unwrap(), param).await;
    }
}

#[tokio::test]
async fn objectives_of_headers_and_body_reach_the_queue() {
    let gateway = gateway(&["--max-concurrent-requests", "1", "--objective", "batch=-7"]);
    let _permit = taken(&gateway).await;
    let mut waiting = Vec::new();
    let mut wait = |request: Request| {
        let gateway = gateway.clone();
        let mut answer = Box::pin(async move { complete::<ChatRequest>(&gateway, request).await });
        assert!(futures::FutureExt::now_or_never(&mut answer).is_none());
        waiting.push(answer);
    };
    let low = chat()
        .header("x-llm-d-inference-objective", "batch")
        .header("x-llm-d-inference-fairness-id", "team-a");
    wait(low.body(body(json!({"priority": -9}))).unwrap());
    let bodies = [
        json!({"priority": 3, "user": "u"}),
        json!({"priority": 3, "nvext": {"agent_hints": {"priority": 4, "osl": 7}}}),
    ];
    for extra in bodies {
        wait(chat().body(body(extra)).unwrap());
    }
    let positions = gateway.admission.positions();
    let shown: Vec<_> = positions
        .iter()
        .map(|it| (&*it.tenant, it.priority))
        .collect();
    // vLLM's priority has its sign turned; a number wins over a name.
    assert_eq!(shown, [("team-a", 9), ("", 4), ("user:u", -3)]);
    drop(waiting);
    assert!(gateway.admission.positions().is_empty());
}
