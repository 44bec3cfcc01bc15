//! Logs for people, JSON logs for machines, and traces over OTLP when an
//! endpoint is configured.
//!
//! Logs go to standard error. Spans at level `info` and above are exported
//! whatever the log level. A span named [`PART`] marks the logs of one part of
//! the process and is not exported: it lasts as long as the part does and would
//! tie all requests into one trace.

pub mod propagation;

use std::io::IsTerminal;
use std::time::Duration;

use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};
use tracing::{Level, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{EnvFilter, filter_fn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

/// Name of the span around one part of a process.
pub const PART: &str = "part";

/// Longest wait for a collector at shutdown.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);

/// Logs and traces of a process.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Telemetry")]
pub struct TelemetryConfig {
    /// What is logged: error, warn, info, debug or trace; or part by part, as
    /// in info,router=debug
    #[arg(long, value_name = "LEVEL", default_value = "info", value_parser = log_filter)]
    pub log_level: String,

    /// How it is logged, to standard error
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub log_format: LogFormat,

    /// Send traces to this OTLP collector (gRPC), such as http://localhost:4317;
    /// without it no traces are taken
    #[arg(long, value_name = "URL", value_parser = endpoint)]
    pub otlp_endpoint: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

/// Telemetry could not be started.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    #[error("can't export traces: {0}")]
    Exporter(#[from] opentelemetry_otlp::ExporterBuildError),
    #[error("logs are set up twice in one process: {0}")]
    Twice(#[from] tracing_subscriber::util::TryInitError),
}

/// Running telemetry; flush it before the process ends.
#[must_use = "flush it at the end, or the last traces are lost"]
pub struct Telemetry {
    traces: Option<SdkTracerProvider>,
}

/// Starts logs and traces of this process. Call it within the tokio runtime.
pub fn init(config: &TelemetryConfig, service_name: &str) -> Result<Telemetry, TelemetryError> {
    let (subscriber, telemetry) = build(config, service_name)?;
    subscriber.try_init()?;
    Ok(telemetry)
}

impl Telemetry {
    /// Sends the traces that are still here; waits for the collector at most
    /// 5 s.
    pub async fn flush(self) {
        let Some(traces) = self.traces else { return };
        // The exporter blocks its caller.
        let flushed =
            tokio::task::spawn_blocking(move || traces.shutdown_with_timeout(FLUSH_TIMEOUT));
        match flushed.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the last traces are lost"),
            Err(error) => tracing::warn!(%error, "the last traces are lost"),
        }
    }
}

fn build(
    config: &TelemetryConfig,
    service_name: &str,
) -> Result<(impl Subscriber + Send + Sync + 'static, Telemetry), TelemetryError> {
    let traces = match &config.otlp_endpoint {
        Some(endpoint) => Some(tracer_provider(endpoint, service_name)?),
        None => None,
    };
    let export = traces.as_ref().map(|provider| {
        tracing_opentelemetry::layer()
            .with_tracer(provider.tracer("kvasir"))
            .with_filter(filter_fn(is_exported))
    });
    let log_filter = EnvFilter::builder().parse_lossy(&config.log_level);
    let subscriber = tracing_subscriber::registry()
        .with(export)
        .with(log_layer(config.log_format).with_filter(log_filter));
    Ok((subscriber, Telemetry { traces }))
}

type BoxedLayer<S> = Box<dyn Layer<S> + Send + Sync>;

fn log_layer<S>(format: LogFormat) -> BoxedLayer<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    match format {
        LogFormat::Json => layer
            .json()
            .flatten_event(true)
            .with_span_list(true)
            .boxed(),
        LogFormat::Text if std::io::stderr().is_terminal() => {
            layer.compact().with_target(false).boxed()
        }
        LogFormat::Text => layer.compact().with_target(false).with_ansi(false).boxed(),
    }
}

fn tracer_provider(endpoint: &str, service: &str) -> Result<SdkTracerProvider, TelemetryError> {
    let exporter = SpanExporter::builder()
        .with_tonic()
        .with_endpoint(endpoint)
        .build()?;
    let resource = Resource::builder()
        .with_service_name(service.to_owned())
        .build();
    Ok(SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_resource(resource)
        .with_sampler(Sampler::ParentBased(Box::new(Sampler::AlwaysOn)))
        .build())
}

fn is_exported(metadata: &Metadata<'_>) -> bool {
    // Spans of the transport would be made by the export itself, without end.
    const TRANSPORT: [&str; 5] = ["h2", "hyper", "tonic", "tower", "opentelemetry"];
    let of_transport = |target: &str| TRANSPORT.iter().any(|prefix| target.starts_with(prefix));
    *metadata.level() <= Level::INFO && metadata.name() != PART && !of_transport(metadata.target())
}

fn log_filter(text: &str) -> Result<String, String> {
    match EnvFilter::builder().parse(text) {
        Ok(_) if !text.trim().is_empty() => Ok(text.to_owned()),
        _ => Err("allowed are error, warn, info, debug and trace, \
                  and lists such as info,router=debug"
            .to_owned()),
    }
}

fn endpoint(text: &str) -> Result<String, String> {
    let uri: http::Uri = text.parse().map_err(|error| format!("no URL: {error}"))?;
    match uri.scheme_str() {
        Some("http") => Ok(text.to_owned()),
        Some("https") => Err(
            "TLS to the collector is not supported; run one beside Kvasir \
                              and use http://HOST:PORT"
                .to_owned(),
        ),
        _ => Err("allowed is http://HOST:PORT".to_owned()),
    }
}

#[cfg(test)]
mod tests;
