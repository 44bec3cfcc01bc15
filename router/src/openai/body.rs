//! Reads a request's body into a type, or says which field is wrong.

use axum::body::{Body, HttpBody};
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, EXPECT};
use http::{HeaderMap, Request};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use proto::ErrorCode;
use serde::de::DeserializeOwned;

use crate::error::ApiError;

/// The JSON object in the body of `request`.
pub(super) async fn read<T: DeserializeOwned>(
    request: Request<Body>,
    max_bytes: usize,
) -> Result<T, ApiError> {
    check_content_type(request.headers())?;
    let announced = request.body().size_hint().lower();
    // Such a client waits for leave to send; others miss an answer that comes
    // before they have sent all.
    if request.headers().contains_key(EXPECT) && announced > max_bytes as u64 {
        return Err(too_large(max_bytes));
    }
    let body = Limited::new(request.into_body(), max_bytes).collect().await;
    let body = body.map_err(|error| match error.downcast_ref::<LengthLimitError>() {
        Some(_) => too_large(max_bytes),
        None => ApiError::new(ErrorCode::Cancelled, format!("the body broke off: {error}")),
    })?;
    parse(&body.to_bytes())
}

fn too_large(max_bytes: usize) -> ApiError {
    ApiError::new(
        ErrorCode::BodyTooLarge,
        format!("the body is larger than {max_bytes} bytes, the most this server accepts"),
    )
}

/// A client that names no content type is taken to send JSON.
fn check_content_type(headers: &HeaderMap) -> Result<(), ApiError> {
    if let Some(encoding) = headers.get(CONTENT_ENCODING).filter(|it| *it != "identity") {
        let encoding = String::from_utf8_lossy(encoding.as_bytes());
        return Err(ApiError::new(
            ErrorCode::UnsupportedMediaType,
            format!("the content encoding is `{encoding}`; send the JSON as it is"),
        ));
    }
    let Some(given) = headers.get(CONTENT_TYPE) else {
        return Ok(());
    };
    let given = String::from_utf8_lossy(given.as_bytes());
    let essence = given
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    if essence == "application/json" || essence.ends_with("+json") {
        return Ok(());
    }
    Err(ApiError::new(
        ErrorCode::UnsupportedMediaType,
        format!("the content type is `{given}`; send application/json"),
    ))
}

/// Parses once; only a body that fails is parsed again, to find the field.
pub(super) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    let first = body.iter().find(|byte| !byte.is_ascii_whitespace());
    let error = match serde_json::from_slice(body) {
        // Sequences would pass for structs otherwise.
        Ok(value) if first == Some(&b'{') => return Ok(value),
        Ok(_) => return Err(not_an_object()),
        Err(error) => error,
    };
    if !error.is_data() {
        let message = format!("the body is not valid JSON: {error}");
        return Err(ApiError::new(ErrorCode::InvalidRequest, message));
    }
    if first != Some(&b'{') {
        return Err(not_an_object());
    }
    let mut json = serde_json::Deserializer::from_slice(body);
    let path = match serde_path_to_error::deserialize::<_, T>(&mut json) {
        Ok(value) => return Ok(value),
        Err(error) => error.path().to_string(),
    };
    let why = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    let why = why.strip_suffix(&place).unwrap_or(&why);
    if path == "." {
        return Err(ApiError::new(ErrorCode::InvalidRequest, why));
    }
    Err(ApiError::invalid(&path, format!("'{path}': {why}")))
}

fn not_an_object() -> ApiError {
    ApiError::new(ErrorCode::InvalidRequest, "the body must be a JSON object")
}
