//! `/v1/models`.

use std::sync::Arc;

use axum::response::{IntoResponse, Response};
use http::HeaderValue;
use http::header::CONTENT_TYPE;
use proto::ErrorCode;

use super::reply::write_json;
use crate::error::ApiError;
use crate::openai::{ModelList, ModelObject};
use crate::tokenize::Model;

/// `GET /v1/models`: all of `served`.
pub fn models(served: &[Arc<Model>]) -> Response {
    json(&ModelList {
        object: "list",
        data: served.iter().map(|model| object(model)).collect(),
    })
}

/// `GET /v1/models/{id}`: the one of `served` with that id.
pub fn model(served: &[Arc<Model>], id: &str) -> Result<Response, ApiError> {
    match served.iter().find(|model| model.name() == id) {
        Some(model) => Ok(json(&object(model))),
        None => Err(ApiError {
            param: Some("model".to_owned()),
            ..ApiError::new(
                ErrorCode::ModelNotFound,
                format!("the model `{id}` is not served here; GET /v1/models lists those that are"),
            )
        }),
    }
}

fn object(model: &Model) -> ModelObject<'_> {
    ModelObject {
        id: model.name(),
        object: "model",
        created: model.created(),
        owned_by: "kvasir",
        max_model_len: model.max_model_len(),
    }
}

fn json(value: &impl serde::Serialize) -> Response {
    let mut body = Vec::new();
    write_json(&mut body, value);
    let content_type = HeaderValue::from_static("application/json");
    ([(CONTENT_TYPE, content_type)], body).into_response()
}
