//! The worker's port while the model loads: it answers probes, and everybody
//! else that it is not ready. Once the model is there the whole service takes
//! over, on the same connections.

use std::convert::Infallible;
use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::Response;
use axum::routing::get;
use runtime::MetricsPage;
use tonic::service::Routes;
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::{HealthReporter, HealthService};
use tower::ServiceExt;

use crate::failure::Failure;

/// What is served now, and what will be.
#[derive(Clone)]
pub(super) struct Loading {
    meanwhile: Router,
    loaded: Arc<OnceLock<Router>>,
}

impl Loading {
    pub fn new(meanwhile: Router) -> Loading {
        Loading {
            meanwhile,
            loaded: Arc::default(),
        }
    }

    /// Serves what there is.
    pub fn app(&self) -> Router {
        let now = self.clone();
        Router::new().fallback_service(tower::service_fn(move |request| now.clone().call(request)))
    }

    /// `app` is there: it answers from now on.
    pub fn finish(&self, app: Router) {
        // Only the first one would count; there is no second.
        let _ = self.loaded.set(app);
    }

    async fn call(self, request: Request) -> Result<Response, Infallible> {
        let app = self.loaded.get().unwrap_or(&self.meanwhile);
        app.clone().oneshot(request).await
    }
}

/// Alive, not ready.
pub(super) fn routes(reporter: &HealthReporter, page: MetricsPage) -> Router {
    let health = HealthService::from_health_reporter(reporter.clone());
    let probes = Routes::new(HealthServer::new(health));
    Router::new()
        .route("/health", get(async || "ok\n"))
        .route("/metrics", get(async move || page.render()))
        .fallback(refuse)
        .merge(probes.prepare().into_axum_router().reset_fallback())
}

/// In the language of whoever asks.
async fn refuse(request: Request) -> Response {
    let failure = Failure::not_ready();
    let content_type = request.headers().get(CONTENT_TYPE);
    if content_type.is_some_and(|it| it.as_bytes().starts_with(b"application/grpc")) {
        return tonic::Status::from(failure).into_http();
    }
    let mut response = Response::new(format!("{failure}\n").into());
    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    response
}
