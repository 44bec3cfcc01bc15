use http::HeaderMap;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::trace::v1::Span as Exported;
use tokio::sync::mpsc;
use tonic::metadata::MetadataMap;
use tonic::service::Routes;
use tonic::{Request, Response, Status};
use tracing::info_span;

use super::*;
use crate::{Lifecycle, ServeOptions, bind, serve};

/// Receives what is exported.
struct Collector(mpsc::UnboundedSender<ExportTraceServiceRequest>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let _ = self.0.send(request.into_inner());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

fn config(otlp_endpoint: Option<String>) -> TelemetryConfig {
    TelemetryConfig {
        log_level: "off".into(),
        log_format: LogFormat::Text,
        otlp_endpoint,
    }
}

/// All spans that `work` makes, as a collector received them.
async fn exported(work: impl FnOnce()) -> Vec<Exported> {
    let (spans_tx, mut spans_rx) = mpsc::unbounded_channel();
    let listener = bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let app = Routes::new(TraceServiceServer::new(Collector(spans_tx))).into_axum_router();
    let life = Lifecycle::new();
    let serving = life.clone();
    life.spawn("collector", async move {
        serve(listener, app, &serving, ServeOptions::default()).await;
    });

    let (subscriber, telemetry) = build(&config(Some(endpoint)), "kvasir-test").unwrap();
    tracing::subscriber::with_default(subscriber, work);
    telemetry.flush().await;
    let mut spans = Vec::new();
    while let Ok(request) = spans_rx.try_recv() {
        let resources = request.resource_spans.into_iter();
        spans.extend(
            resources
                .flat_map(|it| it.scope_spans)
                .flat_map(|it| it.spans),
        );
    }
    spans
}

fn named<'a>(spans: &'a [Exported], name: &str) -> &'a Exported {
    spans
        .iter()
        .find(|span| span.name == name)
        .unwrap_or_else(|| panic!("{name} not in {spans:?}"))
}

#[tokio::test]
async fn trace_goes_on_across_http_and_grpc() {
    let spans = exported(|| {
        let (mut headers, mut metadata) = (HeaderMap::new(), MetadataMap::new());
        info_span!("client").in_scope(|| propagation::inject_http(&mut headers));
        let router = info_span!("router");
        propagation::set_parent_http(&router, &headers);
        router.in_scope(|| propagation::inject_grpc(&mut metadata));
        let worker = info_span!("worker");
        propagation::set_parent_grpc(&worker, &metadata);
    })
    .await;
    let [client, router, worker] = ["client", "router", "worker"].map(|name| named(&spans, name));
    assert!(client.parent_span_id.is_empty());
    assert_eq!(router.parent_span_id, client.span_id);
    assert_eq!(worker.parent_span_id, router.span_id);
    assert_eq!(worker.trace_id, client.trace_id);
}

#[tokio::test]
async fn part_of_a_process_does_not_tie_its_requests_together() {
    let spans = exported(|| {
        info_span!(PART, name = "router").in_scope(|| {
            info_span!("first").in_scope(|| info_span!("stage").in_scope(|| ()));
            info_span!("second").in_scope(|| ());
        });
    })
    .await;
    assert_eq!(spans.len(), 3, "{spans:?}");
    let [first, second, stage] = ["first", "second", "stage"].map(|name| named(&spans, name));
    assert_ne!(first.trace_id, second.trace_id);
    assert_eq!(stage.parent_span_id, first.span_id);
}

#[tokio::test]
async fn nothing_is_propagated_without_an_endpoint() {
    let (subscriber, telemetry) = build(&config(None), "kvasir-test").unwrap();
    let mut headers = HeaderMap::new();
    tracing::subscriber::with_default(subscriber, || {
        info_span!("client").in_scope(|| propagation::inject_http(&mut headers));
    });
    assert!(headers.is_empty());
    telemetry.flush().await;
}

#[tokio::test]
async fn flush_does_not_wait_for_a_dead_collector() {
    let free = bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", free.local_addr().unwrap());
    drop(free);
    let (subscriber, telemetry) = build(&config(Some(endpoint)), "kvasir-test").unwrap();
    tracing::subscriber::with_default(subscriber, || drop(info_span!("lost")));
    let flushed = tokio::time::timeout(FLUSH_TIMEOUT * 2, telemetry.flush()).await;
    assert!(flushed.is_ok());
}

#[test]
fn values_are_checked() {
    assert!(log_filter("debug").is_ok());
    assert!(log_filter("info,router=debug").is_ok());
    assert!(log_filter("").is_err());
    assert!(log_filter("router=loud").is_err());
    assert!(endpoint("http://localhost:4317").is_ok());
    assert!(
        endpoint("https://localhost:4317")
            .unwrap_err()
            .contains("TLS")
    );
    assert!(endpoint("localhost").is_err());
}
