//! Why a call to this worker fails.

use proto::ErrorCode;
use tonic::Status;

/// A failed call: the code decides what the caller does, the message says why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    pub code: ErrorCode,
    pub message: String,
}

impl Failure {
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Failure {
        Failure {
            code,
            message: message.into(),
        }
    }

    pub fn invalid(message: impl Into<String>) -> Failure {
        Failure::new(ErrorCode::InvalidRequest, message)
    }

    pub fn engine_failed() -> Failure {
        let message = "the engine stopped; send the request to another worker and restart this one";
        Failure::new(ErrorCode::EngineFailed, message)
    }

    pub fn deadline_exceeded() -> Failure {
        let message = "the caller's deadline passed; the sequence was aborted";
        Failure::new(ErrorCode::DeadlineExceeded, message)
    }

    pub fn not_ready() -> Failure {
        let message = "the model is still loading; try again later";
        Failure::new(ErrorCode::NotReady, message)
    }

    pub fn shutting_down() -> Failure {
        let message = "this worker is shutting down; send the request to another one";
        Failure::new(ErrorCode::ShuttingDown, message)
    }
}

impl From<Failure> for Status {
    fn from(failure: Failure) -> Status {
        proto::status(failure.code, failure.message)
    }
}
