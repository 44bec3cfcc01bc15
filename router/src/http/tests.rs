use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::middleware;
use axum::routing::get;
use http::Request;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;

use super::*;
use crate::tokenize::fixture;

pub(super) async fn body_of(response: Response) -> Vec<u8> {
    response
        .into_body()
        .collect()
        .await
        .unwrap()
        .to_bytes()
        .to_vec()
}

async fn json_of(response: Response) -> Value {
    assert_eq!(response.headers()["content-type"], "application/json");
    serde_json::from_slice(&body_of(response).await).unwrap()
}

async fn send(request: http::request::Builder) -> Response {
    let limited = get(|| async {
        ApiError {
            retry_after: Some(2),
            ..ApiError::new(ErrorCode::Overloaded, "later")
        }
    });
    let app = Router::new()
        .route("/health", get(health))
        .route("/limited", limited)
        .route(
            "/id",
            get(|request: axum::extract::Request| async move {
                request
                    .extensions()
                    .get::<RequestId>()
                    .unwrap()
                    .0
                    .to_string()
            }),
        )
        .method_not_allowed_fallback(method_not_allowed)
        .fallback(not_found)
        .layer(middleware::from_fn(name_request));
    app.oneshot(request.body(Body::empty()).unwrap())
        .await
        .unwrap()
}

#[tokio::test]
async fn every_error_has_openais_shape() {
    for &code in ErrorCode::ALL {
        let error = ApiError {
            param: Some("field".to_owned()),
            ..ApiError::new(code, "what to \"do\"")
        };
        let response = error.into_response();
        assert_eq!(response.status(), code.http_status());
        assert!(!response.headers().contains_key("retry-after"));
        let expected = json!({"error": {
            "message": "what to \"do\"", "type": code.openai_type(), "param": "field", "code": code.as_str(),
        }});
        assert_eq!(json_of(response).await, expected);
    }
}

#[tokio::test]
async fn unknown_path_and_method_are_errors_of_the_api() {
    let response = send(Request::get("/v2/nothing")).await;
    assert_eq!(response.status(), StatusCode::NOT_FOUND);
    assert!(response.headers().contains_key("x-request-id"));
    let error = json_of(response).await;
    assert_eq!(error["error"]["code"], "not_found");
    assert_eq!(error["error"]["param"], Value::Null);

    let response = send(Request::delete("/health")).await;
    assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(
        json_of(response).await["error"]["code"],
        "method_not_allowed"
    );
}

#[tokio::test]
async fn retry_after_is_a_header() {
    let response = send(Request::get("/limited")).await;
    assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(response.headers()["retry-after"], "2");
}

#[tokio::test]
async fn sane_request_id_is_kept_and_any_other_replaced() {
    let long = "x".repeat(128);
    for kept in ["abc-123", "!~", long.as_str()] {
        let response = send(Request::get("/id").header("x-request-id", kept)).await;
        assert_eq!(response.headers()["x-request-id"], kept);
        assert_eq!(body_of(response).await, kept.as_bytes());
    }
    let too_long = "x".repeat(129);
    for replaced in ["", "a b", "caf\u{e9}", "tab\t", too_long.as_str()] {
        let request = Request::get("/id").header("x-request-id", replaced.as_bytes());
        let response = send(request).await;
        let id = response.headers()["x-request-id"]
            .to_str()
            .unwrap()
            .to_owned();
        assert_eq!(id.len(), 32, "{replaced:?} gave {id}");
        assert_eq!(body_of(response).await, id.as_bytes());
    }
    let ids = [
        send(Request::get("/id")).await,
        send(Request::get("/id")).await,
    ];
    assert_ne!(
        ids[0].headers()["x-request-id"],
        ids[1].headers()["x-request-id"]
    );
}

#[tokio::test]
async fn models_are_listed_with_their_context() {
    let served = [fixture::byte_level()];
    let object = json!({
        "id": "tiny", "object": "model", "created": served[0].created(), "owned_by": "kvasir",
        "max_model_len": 512,
    });
    assert_eq!(
        json_of(models(&served)).await,
        json!({"object": "list", "data": [object]})
    );
    assert_eq!(json_of(model(&served, "tiny").unwrap()).await, object);
    let none: [Arc<crate::tokenize::Model>; 0] = [];
    assert_eq!(json_of(models(&none)).await["data"], json!([]));
    let error = model(&served, "huge").unwrap_err();
    assert_eq!(
        (error.code, error.param.as_deref()),
        (ErrorCode::ModelNotFound, Some("model"))
    );
}

#[tokio::test]
async fn readiness_says_why_not() {
    assert_eq!(ready(Ok(())).status(), StatusCode::OK);
    let response = ready(Err("no worker is connected".to_owned()));
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(
        json_of(response).await["error"]["message"],
        "no worker is connected"
    );
}
