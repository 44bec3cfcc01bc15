//! Embeddings, in the order of their inputs.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use futures::future::try_join_all;
use futures::stream::StreamExt;
use proto::ErrorCode;

use crate::error::ApiError;
use crate::openai::{EmbeddingList, EmbeddingObject, EmbeddingRequest, EmbeddingUsage, Vector};
use crate::sequence::{Event, Events, Sequence};
use crate::tokenize::Model;

/// The body that answers `asked`; `runs` are the events of `sequences`.
pub(super) async fn collect(
    asked: &EmbeddingRequest,
    sequences: &[Sequence],
    runs: Vec<Events>,
) -> Result<Vec<u8>, ApiError> {
    let values = try_join_all(runs.into_iter().map(embedding)).await?;
    let model = sequences.first().map(|first| &first.model);
    let mut data = Vec::with_capacity(values.len());
    for (index, mut values) in values.into_iter().enumerate() {
        if let (Some(dimensions), Some(model)) = (asked.dimensions, model) {
            shorten(&mut values, dimensions, model)?;
        }
        data.push(EmbeddingObject {
            object: "embedding",
            index,
            embedding: match asked.is_base64 {
                true => Vector::Base64(base64(&values)),
                false => Vector::Floats(values),
            },
        });
    }
    let tokens = sequences.iter().map(|sequence| sequence.prompt.len()).sum();
    let request_id = sequences.first().map_or("", |first| &*first.request_id);
    let mut body = Vec::new();
    super::write_json(
        &mut body,
        &EmbeddingList {
            id: format!("embd-{request_id}"),
            object: "list",
            data,
            model: model.map_or("", |model| model.name()),
            usage: EmbeddingUsage {
                prompt_tokens: tokens,
                total_tokens: tokens,
            },
        },
    );
    Ok(body)
}

async fn embedding(mut events: Events) -> Result<Vec<f32>, ApiError> {
    let mut values = None;
    while let Some(event) = events.next().await {
        match event? {
            Event::Embedding(embedding) => values = Some(embedding),
            Event::Finished(_) => break,
            Event::Started { .. } | Event::PromptLogprobs(_) | Event::Tokens(_) => {}
        }
    }
    values.ok_or_else(|| {
        let message = "the worker gave no embedding; is it of an older version?";
        ApiError::new(ErrorCode::WorkerLost, message)
    })
}

/// The first `dimensions` numbers, of length 1 again: for models made for it
/// (Kusupati et al. 2022, Matryoshka representation learning).
fn shorten(values: &mut Vec<f32>, dimensions: usize, model: &Model) -> Result<(), ApiError> {
    if dimensions == values.len() {
        return Ok(());
    }
    if dimensions > values.len() || !model.has_dimensions(dimensions) {
        let message = format!(
            "the model `{}` gives {} dimensions and can't give {dimensions}; leave 'dimensions' out",
            model.name(),
            values.len()
        );
        return Err(ApiError::invalid("dimensions", message));
    }
    values.truncate(dimensions);
    let squares = values.iter().map(|it| f64::from(*it) * f64::from(*it));
    let length = squares.sum::<f64>().sqrt().max(f64::MIN_POSITIVE);
    for value in values {
        *value = (f64::from(*value) / length) as f32;
    }
    Ok(())
}

fn base64(values: &[f32]) -> String {
    let bytes: Vec<u8> = values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect();
    BASE64_STANDARD.encode(bytes)
}
