//! The gateway: takes OpenAI HTTP and gRPC requests, knows which worker holds
//! which KV blocks, and streams tokens back.
//!
//! `gateway` is the path of a request from top to bottom; every other module is
//! one step of it. Workers are known only by the protocol in `proto`; KV bytes
//! never come here.

pub mod admission;
mod caller;
pub mod cluster;
mod config;
pub mod constraint;
pub mod dispatch;
pub mod error;
mod gateway;
mod grpc;
mod http;
mod metrics;
pub mod objectives;
pub mod openai;
pub mod plan;
mod routes;
pub mod sequence;
mod start;
pub mod tokenize;
pub mod tools;

pub use config::Config;
pub use start::{Running, StartError, start};
