//! An error code on the wire of gRPC: the code's name travels in the metadata
//! of the status, so that a router tells a busy worker from a lost one.

use tonic::metadata::MetadataValue;
use tonic::{Code, Status};

use crate::ErrorCode;

const METADATA_KEY: &str = "kvasir-error";

/// A gRPC status that says `code`.
pub fn status(code: ErrorCode, message: impl Into<String>) -> Status {
    let mut status = Status::new(code.grpc_code(), message);
    status
        .metadata_mut()
        .insert(METADATA_KEY, MetadataValue::from_static(code.as_str()));
    status
}

/// The code a status says. A status that did not come from our own service
/// (transport failures, proxies) is judged by its gRPC code.
pub fn code_of(status: &Status) -> ErrorCode {
    let named = status
        .metadata()
        .get(METADATA_KEY)
        .and_then(|value| value.to_str().ok())
        .and_then(ErrorCode::from_name);
    named.unwrap_or_else(|| match status.code() {
        Code::InvalidArgument | Code::OutOfRange | Code::FailedPrecondition => {
            ErrorCode::InvalidRequest
        }
        Code::DeadlineExceeded => ErrorCode::DeadlineExceeded,
        Code::ResourceExhausted => ErrorCode::WorkerBusy,
        _ => ErrorCode::WorkerLost,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_survives_the_status() {
        for &code in ErrorCode::ALL {
            assert_eq!(code_of(&status(code, "why")), code);
        }
    }

    #[test]
    fn foreign_status_is_judged_by_its_grpc_code() {
        assert_eq!(code_of(&Status::unavailable("gone")), ErrorCode::WorkerLost);
        assert_eq!(code_of(&Status::unknown("h2")), ErrorCode::WorkerLost);
    }
}
