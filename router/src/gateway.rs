//! The path of a request, top to bottom.
//!
//! Each step consumes what the step before gives; the reply owns permit and
//! bookings, and releases them when it is dropped.

use std::future::Future;
use std::sync::Arc;

use axum::extract::Request;
use axum::response::Response;
use tracing::{Instrument, info_span};

use crate::admission::{Admission, Permit};
use crate::caller::Caller;
use crate::cluster::Cluster;
use crate::dispatch;
use crate::error::ApiError;
use crate::grpc::{Generate, Generation};
use crate::http::reply;
use crate::metrics::Metrics;
use crate::openai::{ChatRequest, CompletionRequest, Limits};
use crate::sequence::{Events, Sequence};
use crate::tokenize::{self, Model, Tokenize};

/// What every request needs.
#[derive(Debug)]
pub struct Gateway {
    pub limits: Limits,
    pub admission: Admission,
    pub tokenize: Tokenize,
    pub cluster: Arc<Cluster>,
    pub metrics: Arc<Metrics>,
}

/// A request to generate text in one of OpenAI's forms, and its reply.
pub trait Completion: Sized {
    /// Reads and checks the body of `request`.
    fn read(
        request: Request,
        limits: &Limits,
    ) -> impl Future<Output = Result<Self, ApiError>> + Send;

    /// What to generate.
    fn generate(&self) -> &tokenize::Request;

    /// The reply that `runs`, the events of `sequences`, make.
    fn reply(
        &self,
        sequences: &[Sequence],
        runs: Vec<Events>,
    ) -> impl Future<Output = Result<Response, ApiError>> + Send;
}

/// `POST /v1/chat/completions` and `POST /v1/completions`
pub async fn complete<C: Completion>(
    gateway: &Gateway,
    request: Request,
) -> Result<Response, ApiError> {
    let mut caller = Caller::of(&request);
    let asked = C::read(request, &gateway.limits).await?;
    let permit = gateway.admit().await?;
    let mut sequences = gateway
        .tokenize(asked.generate(), &caller.request_id)
        .await?;
    caller.mark(&mut sequences);
    let planned = dispatch::plan(&gateway.cluster, &sequences)?;
    caller.placed(&planned);
    let runs = dispatch::run(&gateway.cluster, &gateway.metrics, planned, permit);
    let response = asked.reply(&sequences, runs).await?;
    Ok(caller.told(response))
}

/// `kvasir.v1.Inference/Generate`
impl Generate for Gateway {
    async fn generate(
        &self,
        request: tokenize::Request,
        request_id: Arc<str>,
    ) -> Result<Generation, ApiError> {
        let permit = self.admit().await?;
        let sequences = self.tokenize(&request, &request_id).await?;
        let planned = dispatch::plan(&self.cluster, &sequences)?;
        let runs = dispatch::run(&self.cluster, &self.metrics, planned, permit);
        Ok(Generation { sequences, runs })
    }

    fn served_models(&self) -> Vec<Arc<Model>> {
        self.cluster.served_models()
    }
}

impl Gateway {
    async fn admit(&self) -> Result<Permit, ApiError> {
        self.admission.admit().instrument(info_span!("admit")).await
    }

    /// Renders and tokenises with the model that the request names.
    async fn tokenize(
        &self,
        request: &tokenize::Request,
        request_id: &Arc<str>,
    ) -> Result<Vec<Sequence>, ApiError> {
        let model = self.cluster.model(&request.model)?;
        let _measured = self.metrics.measure_tokenize();
        self.tokenize
            .sequences(&model, request, request_id)
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
