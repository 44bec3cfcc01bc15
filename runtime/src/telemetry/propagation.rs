//! W3C trace context on its way from process to process, in HTTP headers and
//! gRPC metadata. Without an OTLP endpoint nothing is written.

use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::propagation::{Extractor, Injector, TextMapPropagator};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tonic::metadata::{AsciiMetadataKey, KeyRef, MetadataMap};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// Writes the current span's trace context into HTTP headers.
pub fn inject_http(headers: &mut HeaderMap) {
    inject(&mut Headers(headers));
}

/// Writes the current span's trace context into gRPC metadata.
pub fn inject_grpc(metadata: &mut MetadataMap) {
    inject(&mut Metadata(metadata));
}

/// Makes `span` a child of what the headers name, if they name anything. Call
/// it before the span is entered.
pub fn set_parent_http(span: &Span, headers: &HeaderMap) {
    set_parent(span, &HeadersRef(headers));
}

/// As [`set_parent_http`], from gRPC metadata.
pub fn set_parent_grpc(span: &Span, metadata: &MetadataMap) {
    set_parent(span, &MetadataRef(metadata));
}

fn inject(injector: &mut dyn Injector) {
    TraceContextPropagator::new().inject_context(&Span::current().context(), injector);
}

fn set_parent(span: &Span, extractor: &dyn Extractor) {
    if extractor.get("traceparent").is_none() {
        return;
    }
    let context = TraceContextPropagator::new().extract(extractor);
    // Fails if traces are off or the span is filtered out: nothing to do then.
    let _ = span.set_parent(context);
}

struct Headers<'a>(&'a mut HeaderMap);
struct HeadersRef<'a>(&'a HeaderMap);
struct Metadata<'a>(&'a mut MetadataMap);
struct MetadataRef<'a>(&'a MetadataMap);

impl Injector for Headers<'_> {
    fn set(&mut self, key: &str, value: String) {
        if let (Ok(key), Ok(value)) = (key.parse::<HeaderName>(), value.parse::<HeaderValue>()) {
            self.0.insert(key, value);
        }
    }
}

impl Injector for Metadata<'_> {
    fn set(&mut self, key: &str, value: String) {
        if let (Ok(key), Ok(value)) = (key.parse::<AsciiMetadataKey>(), value.parse()) {
            self.0.insert(key, value);
        }
    }
}

impl Extractor for HeadersRef<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(HeaderName::as_str).collect()
    }
}

impl Extractor for MetadataRef<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        let name = |key| match key {
            KeyRef::Ascii(key) => key.as_str(),
            KeyRef::Binary(key) => key.as_str(),
        };
        self.0.keys().map(name).collect()
    }
}
