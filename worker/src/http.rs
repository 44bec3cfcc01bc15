//! Plain HTTP beside gRPC, for probes and scrapers.

use std::sync::Arc;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use runtime::MetricsPage;

use crate::service::Shared;

/// `/health` fails when only a restart helps, `/ready` also while draining.
pub fn routes(shared: Arc<Shared>, page: MetricsPage) -> Router {
    let ready = shared.clone();
    Router::new()
        .route(
            "/health",
            get(async move || answer(!shared.engine.has_ended())),
        )
        .route("/ready", get(async move || answer(ready.is_ready())))
        .route("/metrics", get(async move || page.render()))
}

fn answer(ok: bool) -> (StatusCode, &'static str) {
    match ok {
        true => (StatusCode::OK, "ok\n"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "not serving\n"),
    }
}
