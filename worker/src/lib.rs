//! The worker: serves one model to routers and peer workers over gRPC.
//!
//! Tokens in, tokens out; the engine runs on its own thread, KV blocks move
//! from worker to worker, and routers hear of blocks and load as they change.
//! Knows nothing of routers, text or HTTP APIs.

pub mod bench;
mod config;
mod deadline;
mod engine_thread;
mod event_feed;
mod event_log;
mod failure;
mod handover;
mod http;
mod kv_tier;
mod metrics;
mod model;
mod model_runner;
mod service;
mod spans;
mod start;
mod structured;
mod tickets;
mod wire;

pub use config::{Config, Device, ModelSource, Role, SimFlags};
pub use event_feed::WorkerStatus;
pub use hub::Settings as HubSettings;
pub use model::{ModelError, OriginError};
pub use start::{Running, StartError, start};

#[cfg(test)]
mod tests;
