//! What every Kvasir process needs, whatever it serves.
//!
//! Life and orderly death of tasks, one port for HTTP/1.1 and HTTP/2, a
//! metrics page, logs and traces, layered configuration, and who the workers
//! are. Knows nothing of requests, tokens or models.

pub mod config;
pub mod lifecycle;
pub mod membership;
pub mod metrics_page;
pub mod server;
pub mod telemetry;

pub use lifecycle::{Late, Lifecycle, shutdown_signal};
pub use metrics_page::MetricsPage;
pub use server::{ServeOptions, bind, serve};
pub use telemetry::{Telemetry, TelemetryConfig, propagation};
