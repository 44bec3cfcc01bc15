//! The public gRPC face, `kvasir.v1.Inference`: the same requests, defaults and
//! text as over HTTP, in protobuf's shapes.

mod generate;
mod services;

use std::future::Future;
use std::sync::Arc;

use futures::stream::BoxStream;
use proto::v1;
use proto::v1::inference_server::Inference;
use tonic::metadata::MetadataValue;
use tonic::{Request, Response, Status};

pub(crate) use services::services;

use crate::error::ApiError;
use crate::http::RequestId;
use crate::objectives::Hints;
use crate::sequence::{Events, Sequence};
use crate::tokenize::{self, Model};

/// What the service needs of the gateway.
pub trait Generate: Send + Sync + 'static {
    /// Admits, tokenises, plans and dispatches a checked request.
    fn generate(
        &self,
        request: tokenize::Request,
        call: Call,
    ) -> impl Future<Output = Result<Generation, ApiError>> + Send;

    /// The models that some ready worker serves now.
    fn served_models(&self) -> Vec<Arc<Model>>;
}

/// What is particular to one call.
#[derive(Debug)]
pub struct Call {
    pub request_id: Arc<str>,
    /// What its metadata says of its urgency.
    pub metadata: Hints,
}

/// What is being generated.
pub struct Generation {
    pub sequences: Vec<Sequence>,
    /// In the order of `sequences`.
    pub runs: Vec<Events>,
}

/// The service; wrap it in `InferenceServer`.
#[derive(Clone, Debug)]
pub struct InferenceService<G> {
    gateway: Arc<G>,
    max_sequences: usize,
}

impl<G: Generate> InferenceService<G> {
    /// `max_sequences` is [`crate::openai::Limits`]' own.
    pub fn new(gateway: Arc<G>, max_sequences: usize) -> InferenceService<G> {
        InferenceService {
            gateway,
            max_sequences,
        }
    }
}

#[tonic::async_trait]
impl<G: Generate> Inference for InferenceService<G> {
    type GenerateStream = BoxStream<'static, Result<v1::GenerateResponse, Status>>;

    async fn generate(
        &self,
        request: Request<v1::GenerateRequest>,
    ) -> Result<Response<Self::GenerateStream>, Status> {
        let given = request
            .metadata()
            .get("x-request-id")
            .and_then(|id| id.to_str().ok());
        let RequestId(request_id) = RequestId::given(given);
        let metadata = Hints::from_metadata(request.metadata().as_ref()).map_err(status)?;
        let request = generate::read(request.into_inner(), self.max_sequences).map_err(status)?;
        let text = request.options.text.clone();
        let call = Call {
            request_id,
            metadata,
        };
        let generation = self.gateway.generate(request, call).await.map_err(status)?;
        Ok(Response::new(generate::responses(generation, &text)))
    }

    async fn list_models(
        &self,
        _: Request<v1::ListModelsRequest>,
    ) -> Result<Response<v1::ListModelsResponse>, Status> {
        let models = self.gateway.served_models();
        let models = models.iter().map(|model| v1::Model {
            id: model.name().to_owned(),
            max_model_len: u32::try_from(model.max_model_len()).unwrap_or(u32::MAX),
        });
        Ok(Response::new(v1::ListModelsResponse {
            models: models.collect(),
        }))
    }
}

/// When to try again is told as gRPC clients know it: their retry policies obey
/// this metadata.
const RETRY_PUSHBACK: &str = "grpc-retry-pushback-ms";

fn status(error: ApiError) -> Status {
    let mut status = proto::status(error.code, error.message);
    if let Some(seconds) = error.retry_after {
        let milliseconds = MetadataValue::from(seconds.saturating_mul(1000));
        status.metadata_mut().insert(RETRY_PUSHBACK, milliseconds);
    }
    status
}

#[cfg(test)]
mod tests;
