//! `POST /v1/embeddings`.

use axum::body::Body;
use serde::Deserialize;
use serde_json::Value;

use super::completion::Prompts;
use super::field::{at_least, refuse};
use super::urgency::Urgency;
use super::{Limits, body};
use crate::error::ApiError;
use crate::tokenize::{MaxTokens, Options, Request};

/// A checked request for embeddings.
#[derive(Clone, Debug, PartialEq)]
pub struct EmbeddingRequest {
    /// What to embed.
    pub generate: Request,
    /// As base64 of little-endian floats, instead of numbers.
    pub is_base64: bool,
    /// Fewer numbers than the model gives.
    pub dimensions: Option<usize>,
}

#[derive(Deserialize)]
struct WireEmbedding {
    model: Option<String>,
    input: Option<Prompts>,
    encoding_format: Option<String>,
    dimensions: Option<i64>,
    cache_salt: Option<String>,
    priority: Option<i64>,
    user: Option<String>,
    truncate_prompt_tokens: Option<Value>,
}

impl EmbeddingRequest {
    /// Reads and checks the body of `request`.
    pub async fn read(
        request: http::Request<Body>,
        limits: &Limits,
    ) -> Result<EmbeddingRequest, ApiError> {
        body::read::<WireEmbedding>(request, limits.max_body_bytes)
            .await?
            .check(limits)
    }

    #[cfg(test)]
    pub(crate) fn parse(body: &[u8]) -> Result<EmbeddingRequest, ApiError> {
        body::parse::<WireEmbedding>(body)?.check(&Limits::default())
    }

    /// What is wrong with a prompt is wrong with the `input`.
    pub(crate) fn place(error: ApiError) -> ApiError {
        let is_prompt = error.param.as_deref() == Some("prompt");
        ApiError {
            param: is_prompt.then(|| "input".to_owned()).or(error.param),
            ..error
        }
    }
}

impl WireEmbedding {
    fn check(self, limits: &Limits) -> Result<EmbeddingRequest, ApiError> {
        refuse(&[("truncate_prompt_tokens", &self.truncate_prompt_tokens)])?;
        let is_base64 = match self.encoding_format.as_deref() {
            None | Some("float") => false,
            Some("base64") => true,
            Some(other) => {
                let message = format!("'encoding_format' must be float or base64, not '{other}'");
                return Err(ApiError::invalid("encoding_format", message));
            }
        };
        let dimensions = self.dimensions;
        let dimensions = dimensions
            .map(|it| at_least("dimensions", it, 1))
            .transpose()?;
        let urgency = Urgency {
            priority: self.priority,
            safety_identifier: None,
            user: self.user,
            nvext: None,
        };
        let generate = Request {
            model: self.model.unwrap_or_default(),
            prompts: self.input.map_or_else(Vec::new, |input| input.0),
            options: Options {
                max_tokens: MaxTokens::Exactly(0),
                embeds: true,
                cache_salt: self.cache_salt.unwrap_or_default().into(),
                ..Options::default()
            },
            hints: urgency.hints(),
        };
        generate
            .check(limits.max_sequences)
            .map_err(EmbeddingRequest::place)?;
        Ok(EmbeddingRequest {
            generate,
            is_base64,
            dimensions,
        })
    }
}
