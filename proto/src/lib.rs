//! Wire types shared by router and worker, and the one table of error codes.
//!
//! `v1` is the public gRPC API, `worker` the protocol between router, worker
//! and peer workers. These types stop at the edge modules of each crate.

mod codec;
pub mod error_code;
mod grpc_error;

pub use error_code::{ErrorCode, Source};
pub use grpc_error::{code_of, status};

/// The public gRPC API (`kvasir.v1`).
#[allow(missing_docs, clippy::all)]
pub mod v1 {
    tonic::include_proto!("kvasir.v1");
}

/// The protocol of workers (`kvasir.worker.v1`).
#[allow(missing_docs, clippy::all)]
pub mod worker {
    tonic::include_proto!("kvasir.worker.v1");
}

/// Response header of a worker's Generate and Prefill: the sequence's number among
/// those it has taken in, as `Status.accepted_sequences` counts them.
pub const SEQUENCE_NUMBER: &str = "kvasir-sequence-number";

/// Encoded `FileDescriptorSet` of all services, for gRPC reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
