//! The HTTP face: turns errors and generated text into OpenAI's responses,
//! names each request, and answers the simple endpoints. Which request goes to
//! which function is the gateway's business.

mod error;
mod models;
pub mod reply;
mod request_id;

use axum::response::{IntoResponse, Response};
use http::header::CONTENT_TYPE;
use http::{Method, StatusCode, Uri};
use proto::ErrorCode;
use serde::Serialize;

pub use models::{model, models};
pub use request_id::{RequestId, name_request};

use crate::error::ApiError;

/// `GET /health`: the process runs.
pub async fn health() -> StatusCode {
    StatusCode::OK
}

/// `GET /ready`: `Ok` if requests can be served now, else why not.
pub fn ready(ready: Result<(), String>) -> Response {
    match ready {
        Ok(()) => StatusCode::OK.into_response(),
        Err(why) => ApiError::new(ErrorCode::NoWorker, why).into_response(),
    }
}

/// `value` as the whole answer.
pub fn json(value: &impl Serialize) -> Response {
    let mut body = Vec::new();
    reply::write_json(&mut body, value);
    ([(CONTENT_TYPE, "application/json")], body).into_response()
}

/// Answers a path that does not exist.
pub async fn not_found(method: Method, uri: Uri) -> ApiError {
    let message = format!(
        "there is no {method} {}; see /v1/models and the API's paths",
        uri.path()
    );
    ApiError::new(ErrorCode::NotFound, message)
}

/// Answers a path that exists, but not with this method.
pub async fn method_not_allowed(method: Method, uri: Uri) -> ApiError {
    let message = format!("{} does not take {method}; use another method", uri.path());
    ApiError::new(ErrorCode::MethodNotAllowed, message)
}

#[cfg(test)]
mod tests;
