//! What a client is told when its request fails.

use proto::ErrorCode;

/// A failed request: the code decides status and type, the message says what to
/// do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    pub code: ErrorCode,
    pub message: String,
    /// The request's field at fault, as OpenAI's `param`.
    pub param: Option<String>,
    /// Seconds after which to try again, if that may help.
    pub retry_after: Option<u64>,
}

impl ApiError {
    pub fn new(code: ErrorCode, message: impl Into<String>) -> ApiError {
        ApiError {
            code,
            message: message.into(),
            param: None,
            retry_after: None,
        }
    }

    /// A field with the wrong type or value.
    pub fn invalid(param: &str, message: impl Into<String>) -> ApiError {
        ApiError {
            param: Some(param.to_owned()),
            ..ApiError::new(ErrorCode::InvalidRequest, message)
        }
    }
}
