//! The path of a request, top to bottom.
//!
//! Each step consumes what the step before gives; the reply owns permit and
//! bookings, and releases them when it is dropped.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::Request;
use axum::response::Response;
use tokio::time::Instant;
use tracing::{Instrument, info_span};

use crate::admission::{Admission, Permit};
use crate::caller::Caller;
use crate::cluster::Cluster;
use crate::dispatch::{Dispatch, Planned};
use crate::error::ApiError;
use crate::grpc::{Call, Generate, Generation};
use crate::http::{self as edge, reply};
use crate::metrics::Metrics;
use crate::objectives::{self, Hints, Objectives};
use crate::openai::{ChatRequest, CompletionRequest, EmbeddingRequest, Limits};
use crate::sequence::{Events, Origin, Sequence};
use crate::tokenize::{self, Model, Tokenize};

/// A worker's report of its load counts so long for admission.
const ROOM_LEASE: Duration = Duration::from_secs(1);

/// What every request needs.
#[derive(Debug)]
pub struct Gateway {
    pub limits: Limits,
    pub objectives: objectives::Config,
    pub admission: Admission,
    pub tokenize: Tokenize,
    pub cluster: Arc<Cluster>,
    pub dispatch: Arc<Dispatch>,
    pub metrics: Arc<Metrics>,
}

/// A request for text or embeddings in one of OpenAI's forms, and its reply.
pub trait Completion: Sized {
    /// Reads and checks the body of `request`.
    fn read(
        request: Request,
        limits: &Limits,
    ) -> impl Future<Output = Result<Self, ApiError>> + Send;

    /// What to generate.
    fn generate(&self) -> &tokenize::Request;

    /// `error` in terms of this form's fields.
    fn place(error: ApiError) -> ApiError {
        error
    }

    /// The reply that `runs`, the events of `sequences`, make.
    fn reply(
        &self,
        sequences: &[Sequence],
        runs: Vec<Events>,
    ) -> impl Future<Output = Result<Response, ApiError>> + Send;
}

/// `POST /v1/chat/completions`, `/v1/completions` and `/v1/embeddings`
pub async fn complete<C: Completion>(
    gateway: &Gateway,
    request: Request,
) -> Result<Response, ApiError> {
    let mut caller = Caller::of(&request);
    let headers = Hints::from_headers(request.headers())?;
    let asked = C::read(request, &gateway.limits).await?;
    let generate = asked.generate();
    let origin = caller.origin(gateway.objectives(headers, generate));
    let generation = gateway.run(generate, &origin, |planned| caller.placed(planned));
    let Generation { sequences, runs } = generation.await.map_err(C::place)?;
    let response = asked.reply(&sequences, runs).await?;
    Ok(caller.told(response))
}

/// `POST /explain/v1/chat/completions` and `POST /explain/v1/completions`: where
/// the request's first sequence would go. Nothing is admitted, booked or sent to
/// a worker.
pub async fn explain<C: Completion>(
    gateway: &Gateway,
    request: Request,
) -> Result<Response, ApiError> {
    let caller = Caller::of(&request);
    let headers = Hints::from_headers(request.headers())?;
    let asked = C::read(request, &gateway.limits).await?;
    let generate = asked.generate();
    let origin = caller.origin(gateway.objectives(headers, generate));
    let sequences = gateway.tokenize(generate, &origin).await?;
    let first = sequences.first().ok_or_else(nothing_to_place)?;
    Ok(edge::json(&gateway.cluster.explain(first)?))
}

fn nothing_to_place() -> ApiError {
    ApiError::invalid("prompt", "give at least one prompt")
}

/// `kvasir.v1.Inference/Generate`
impl Generate for Gateway {
    async fn generate(
        &self,
        request: tokenize::Request,
        call: Call,
    ) -> Result<Generation, ApiError> {
        let objectives = self.objectives(call.metadata, &request);
        let origin = Origin::plain(call.request_id, objectives);
        self.run(&request, &origin, |_| ()).await
    }

    fn served_models(&self) -> Vec<Arc<Model>> {
        self.cluster.served_models()
    }
}

impl Gateway {
    /// Lets in only what workers can begin soon, as they report.
    pub async fn follow_room(self: Arc<Self>) {
        let mut room_rx = self.cluster.watch_room();
        // Fails only when the sender is gone, which lives in the cluster.
        while room_rx.changed().await.is_ok() {
            let room = *room_rx.borrow_and_update();
            if let Some(room) = room {
                self.admission.set_room(room, ROOM_LEASE);
            }
        }
    }

    /// What `headers` and the body of `request` come to.
    fn objectives(&self, headers: Hints, request: &tokenize::Request) -> Arc<Objectives> {
        let body = request.hints.clone();
        let now = Instant::now();
        Arc::new(Objectives::new(headers, body, &self.objectives, now))
    }

    /// Admits, tokenises, plans and dispatches; `placed` sees the plan.
    async fn run(
        &self,
        request: &tokenize::Request,
        origin: &Origin,
        placed: impl FnOnce(&[Planned]),
    ) -> Result<Generation, ApiError> {
        let permit = self.admit(request, &origin.objectives).await?;
        let sequences = self.tokenize(request, origin).await?;
        let usage = permit.usage().clone();
        usage.tokenized(&sequences);
        let planned = self.dispatch.plan(&sequences).await?;
        placed(&planned);
        let runs = self.dispatch.run(planned, permit);
        let runs = usage.meter(runs);
        Ok(Generation { sequences, runs })
    }

    async fn admit(
        &self,
        request: &tokenize::Request,
        objectives: &Objectives,
    ) -> Result<Permit, ApiError> {
        let admitted = self.admission.admit(request, objectives);
        admitted.instrument(info_span!("admit")).await
    }

    /// Renders and tokenises with the model that the request names.
    async fn tokenize(
        &self,
        request: &tokenize::Request,
        origin: &Origin,
    ) -> Result<Vec<Sequence>, ApiError> {
        let model = self.cluster.model(&request.model)?;
        let _measured = self.metrics.measure_tokenize();
        self.tokenize
            .sequences(&model, request, origin)
            .instrument(info_span!("tokenize"))
            .await
    }
}

impl Completion for ChatRequest {
    async fn read(request: Request, limits: &Limits) -> Result<ChatRequest, ApiError> {
        ChatRequest::read(request, limits).await
    }

    fn generate(&self) -> &tokenize::Request {
        &self.generate
    }

    async fn reply(&self, sequences: &[Sequence], runs: Vec<Events>) -> Result<Response, ApiError> {
        reply::chat(self, sequences, runs).await
    }
}

impl Completion for CompletionRequest {
    async fn read(request: Request, limits: &Limits) -> Result<CompletionRequest, ApiError> {
        CompletionRequest::read(request, limits).await
    }

    fn generate(&self) -> &tokenize::Request {
        &self.generate
    }

    async fn reply(&self, sequences: &[Sequence], runs: Vec<Events>) -> Result<Response, ApiError> {
        reply::completion(self, sequences, runs).await
    }
}

impl Completion for EmbeddingRequest {
    async fn read(request: Request, limits: &Limits) -> Result<EmbeddingRequest, ApiError> {
        EmbeddingRequest::read(request, limits).await
    }

    fn generate(&self) -> &tokenize::Request {
        &self.generate
    }

    fn place(error: ApiError) -> ApiError {
        EmbeddingRequest::place(error)
    }

    async fn reply(&self, sequences: &[Sequence], runs: Vec<Events>) -> Result<Response, ApiError> {
        reply::embeddings(self, sequences, runs).await
    }
}

#[cfg(test)]
mod tests;
