//! The path of a request, top to bottom.
//!
//! Each step consumes what the step before gives; the reply owns permit and
//! bookings, and releases them when it is dropped.

use std::sync::Arc;

use axum::extract::Request;
use axum::response::Response;
use tracing::{Instrument, info_span};

use crate::admission::Admission;
use crate::caller::Caller;
use crate::cluster::Cluster;
use crate::dispatch;
use crate::error::ApiError;
use crate::grpc::{Generate, Generation};
use crate::http::reply;
use crate::metrics::Metrics;
use crate::openai::{ChatRequest, CompletionRequest, Limits};
use crate::sequence::Sequence;
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

/// `POST /v1/chat/completions`
pub async fn chat_completion(gateway: &Gateway, request: Request) -> Result<Response, ApiError> {
    let mut caller = Caller::of(&request);
    let chat = ChatRequest::read(request, &gateway.limits).await?;
    let permit = gateway
        .admission
        .admit()
        .instrument(info_span!("admit"))
        .await?;
    let sequences = gateway
        .sequences(&chat.generate, &caller.request_id)
        .await?;
    let planned = dispatch::plan(&gateway.cluster, &sequences)?;
    caller.placed(&planned);
    let runs = dispatch::run(&gateway.cluster, &gateway.metrics, planned, permit);
    let response = reply::chat(&chat, &sequences, runs).await?;
    Ok(caller.told(response))
}

/// `POST /v1/completions`
pub async fn completion(gateway: &Gateway, request: Request) -> Result<Response, ApiError> {
    let mut caller = Caller::of(&request);
    let completion = CompletionRequest::read(request, &gateway.limits).await?;
    let permit = gateway
        .admission
        .admit()
        .instrument(info_span!("admit"))
        .await?;
    let sequences = gateway
        .sequences(&completion.generate, &caller.request_id)
        .await?;
    let planned = dispatch::plan(&gateway.cluster, &sequences)?;
    caller.placed(&planned);
    let runs = dispatch::run(&gateway.cluster, &gateway.metrics, planned, permit);
    let response = reply::completion(&completion, &sequences, runs).await?;
    Ok(caller.told(response))
}

/// `kvasir.v1.Inference/Generate`
impl Generate for Gateway {
    async fn generate(
        &self,
        request: tokenize::Request,
        request_id: Arc<str>,
    ) -> Result<Generation, ApiError> {
        let permit = self
            .admission
            .admit()
            .instrument(info_span!("admit"))
            .await?;
        let sequences = self.sequences(&request, &request_id).await?;
        let planned = dispatch::plan(&self.cluster, &sequences)?;
        let runs = dispatch::run(&self.cluster, &self.metrics, planned, permit);
        Ok(Generation { sequences, runs })
    }

    fn served_models(&self) -> Vec<Arc<Model>> {
        self.cluster.served_models()
    }
}

impl Gateway {
    /// Renders and tokenises with the model that the request names.
    async fn sequences(
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
