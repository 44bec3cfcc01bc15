//! Errors as OpenAI's object, with status and Retry-After.

use axum::response::{IntoResponse, Response};
use http::HeaderValue;
use http::header::{CONTENT_TYPE, RETRY_AFTER};

use super::reply::write_json;
use crate::error::ApiError;
use crate::openai::{ErrorBody, ErrorObject};

impl ApiError {
    /// Appends `{"error": ...}`.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let error = ErrorObject {
            message: &self.message,
            r#type: self.code.openai_type(),
            param: self.param.as_deref(),
            code: self.code.as_str(),
        };
        write_json(out, &ErrorBody { error });
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut body = Vec::new();
        self.write(&mut body);
        let mut response = (self.code.http_status(), body).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(seconds) = self.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}
