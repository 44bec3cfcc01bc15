//! One request leaves one trace, through the router and both workers.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::trace::v1::Span;
use runtime::telemetry::LogFormat;
use runtime::{Lifecycle, ServeOptions, TelemetryConfig};
use tonic::service::Routes;
use tonic::{Request, Response, Status};

use parts::{FAST, new_runtime, post, router, sim_worker, until};

#[path = "harness/parts.rs"]
#[allow(dead_code, reason = "each test binary uses its share")]
mod parts;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CLIENT: &str = "00f067aa0ba902b7";

/// Every span of a split request, from the client's own downwards. Of the
/// decode worker's `prefill` see [`is_optional`].
const SPANS: &[&str] = &[
    "client/request",
    "client/request/admit",
    "client/request/plan",
    "client/request/sequence",
    "client/request/sequence/decode",
    "client/request/sequence/decode/worker.generate",
    "client/request/sequence/decode/worker.generate/decode",
    "client/request/sequence/decode/worker.generate/queue",
    "client/request/sequence/decode/worker.generate/transfer",
    "client/request/sequence/decode/worker.generate/transfer/worker.pull_kv",
    "client/request/sequence/prefill",
    "client/request/sequence/prefill/worker.prefill",
    "client/request/sequence/prefill/worker.prefill/prefill",
    "client/request/sequence/prefill/worker.prefill/queue",
    "client/request/sequence/prefill/worker.prefill/transfer",
    "client/request/tokenize",
];

/// Before and after the transfer a decode worker may be in this stage.
fn is_optional(path: &str) -> bool {
    path.ends_with("/worker.generate/prefill")
}

#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<Span>>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let resources = request.into_inner().resource_spans.into_iter();
        let scopes = resources.flat_map(|resource| resource.scope_spans);
        let spans = scopes.flat_map(|scope| scope.spans);
        self.0.lock().expect("no panic while locked").extend(spans);
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    async fn serve(&self) -> SocketAddr {
        let listener = runtime::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("it is bound");
        let app = Routes::new(TraceServiceServer::new(self.clone()))
            .prepare()
            .into_axum_router();
        let life = Lifecycle::new();
        let serving = life.clone();
        life.spawn("collector", async move {
            runtime::serve(listener, app, &serving, ServeOptions::default()).await;
        });
        address
    }

    /// Paths of the spans so far, but for optional ones.
    fn paths(&self) -> Vec<String> {
        let spans = self.0.lock().expect("no panic while locked");
        let paths = spans.iter().map(|span| path(&spans, span));
        let mut paths: Vec<String> = paths.filter(|path| !is_optional(path)).collect();
        paths.sort();
        paths
    }
}

/// The names of a span's ancestors and its own. An ancestor that was not
/// exported shows as its id.
fn path(spans: &[Span], span: &Span) -> String {
    let (trace, parent) = (hex(&span.trace_id), hex(&span.parent_span_id));
    let above = match spans.iter().find(|it| it.span_id == span.parent_span_id) {
        Some(parent) => path(spans, parent),
        None if trace == TRACE && parent == CLIENT => "client".to_owned(),
        None => format!("{trace}/{parent}"),
    };
    format!("{above}/{}", span.name)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn split_request_is_one_trace_of_all_its_stages() {
    let collector = Collector::default();
    let telemetry_runtime = new_runtime();
    let telemetry = telemetry_runtime.block_on(async {
        let config = TelemetryConfig {
            log_level: "off".to_owned(),
            log_format: LogFormat::Text,
            otlp_endpoint: Some(format!("http://{}", collector.serve().await)),
        };
        runtime::telemetry::init(&config, "kvasir-test").expect("telemetry starts")
    });
    let prefill = sim_worker("prefill-0", "prefill", FAST);
    let decode = sim_worker("decode-0", "decode", FAST);
    let router = router(&[&prefill, &decode]);
    let question = "Why does a router hold on to its view of the workers? ".repeat(8);
    let body = format!(
        r#"{{"model":"kvasir-demo","max_tokens":4,"messages":[{{"role":"user","content":"{question}"}}]}}"#
    );
    let parent = format!("traceparent: 00-{TRACE}-{CLIENT}-01\r\n");
    let (head, body) = post(router.address, "/v1/chat/completions", &parent, &body);
    assert!(head.starts_with("HTTP/1.1 200"), "{head} {body}");
    assert!(
        head.contains("x-kvasir-prefill-worker: prefill-0"),
        "{head}"
    );

    // Some spans end after the answer, and the exporter sends every few seconds.
    let patience = Instant::now() + Duration::from_secs(30);
    until("all spans", || {
        collector.paths() == SPANS || Instant::now() > patience
    });
    assert_eq!(collector.paths(), SPANS);
    telemetry_runtime.block_on(telemetry.flush());
}
