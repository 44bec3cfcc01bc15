//! Which path goes to which function: OpenAI HTTP, gRPC and operations on one
//! port.

use std::sync::Arc;

use axum::Router;
use axum::extract::rejection::PathRejection;
use axum::extract::{MatchedPath, Path, Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http::header::CONTENT_TYPE;
use runtime::{Lifecycle, MetricsPage, propagation};
use tracing::Instrument;

use crate::error::ApiError;
use crate::gateway::{self, Completion, Gateway};
use crate::http as edge;
use crate::metrics::count_request;
use crate::openai::{ChatRequest, CompletionRequest, EmbeddingRequest};

/// What the handlers share.
#[derive(Clone)]
pub struct Shared {
    pub gateway: Arc<Gateway>,
    pub page: MetricsPage,
    pub lifecycle: Lifecycle,
}

/// All routes, with `grpc` beside them.
pub fn routes(shared: Shared, grpc: Router) -> Router {
    let api = Router::new()
        .route("/v1/chat/completions", post(complete::<ChatRequest>))
        .route("/v1/completions", post(complete::<CompletionRequest>))
        .route("/explain/v1/chat/completions", post(explain::<ChatRequest>))
        .route(
            "/explain/v1/completions",
            post(explain::<CompletionRequest>),
        )
        .route("/v1/embeddings", post(complete::<EmbeddingRequest>))
        .route("/v1/models", get(models))
        .route("/v1/models/{*id}", get(model))
        .method_not_allowed_fallback(edge::method_not_allowed)
        .route_layer(middleware::from_fn_with_state(shared.clone(), observed));
    let operations = Router::new()
        .route("/health", get(edge::health))
        .route("/ready", get(ready))
        .route("/metrics", get(metrics))
        .method_not_allowed_fallback(edge::method_not_allowed);
    api.merge(operations)
        .fallback(edge::not_found)
        .with_state(shared.clone())
        .merge(grpc.layer(middleware::from_fn_with_state(shared, observed)))
        .layer(middleware::from_fn(edge::name_request))
}

async fn complete<C: Completion>(
    State(shared): State<Shared>,
    request: Request,
) -> Result<Response, ApiError> {
    gateway::complete::<C>(&shared.gateway, request).await
}

async fn explain<C: Completion>(
    State(shared): State<Shared>,
    request: Request,
) -> Result<Response, ApiError> {
    gateway::explain::<C>(&shared.gateway, request).await
}

async fn models(State(shared): State<Shared>) -> Response {
    edge::models(&shared.gateway.cluster.served_models())
}

async fn model(
    State(shared): State<Shared>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Response, ApiError> {
    let Path(id) = id.map_err(|refused| ApiError::invalid("model", refused.body_text()))?;
    edge::model(&shared.gateway.cluster.served_models(), &id)
}

async fn ready(State(shared): State<Shared>) -> Response {
    edge::ready(if shared.lifecycle.is_draining() {
        Err("the router is shutting down".to_owned())
    } else if shared.gateway.cluster.connected_workers() == 0 {
        Err("no worker is connected".to_owned())
    } else {
        Ok(())
    })
}

async fn metrics(State(shared): State<Shared>) -> Response {
    let content_type = "text/plain; version=0.0.4; charset=utf-8";
    ([(CONTENT_TYPE, content_type)], shared.page.render()).into_response()
}

/// The request's root span, as a child of the client's own trace if it sent
/// one; and its count.
async fn observed(State(shared): State<Shared>, request: Request, next: Next) -> Response {
    let path = request
        .extensions()
        .get::<MatchedPath>()
        .map_or("", MatchedPath::as_str)
        .to_owned();
    let id = edge::RequestId::from_headers(request.headers());
    let span = tracing::info_span!(
        "request",
        path,
        request_id = %request.extensions().get().unwrap_or(&id).0,
        status = tracing::field::Empty
    );
    propagation::set_parent_http(&span, request.headers());
    let response = next.run(request).instrument(span.clone()).await;
    span.record("status", response.status().as_u16());
    shared
        .page
        .record(|| count_request(path, response.status()).increment(1));
    response
}
