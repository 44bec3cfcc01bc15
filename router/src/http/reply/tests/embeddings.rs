//! Embeddings as numbers, as base64, and cut.

use super::*;
use crate::openai::EmbeddingRequest;

async fn embedded(extra: Value, values: &[&[f32]]) -> Result<Value, ApiError> {
    let mut body = json!({"model": "tiny", "input": ["Hi", "You"]});
    let fields = body.as_object_mut().unwrap();
    fields.extend(extra.as_object().unwrap().clone());
    let request = EmbeddingRequest::parse(body.to_string().as_bytes())?;
    let sequences = fixture::sequences(&fixture::byte_level(), &request.generate).await;
    let run = |values: &&[f32]| {
        events(vec![
            started(0),
            Event::Embedding(values.to_vec()),
            finished(FinishReason::Length),
        ])
    };
    let runs = values.iter().map(run).collect();
    let response = super::super::embeddings(&request, &sequences, runs).await?;
    Ok(serde_json::from_slice(&body_of(response).await).unwrap())
}

const VALUES: [&[f32]; 2] = [&[0.6, 0.8], &[1.0, 0.0]];

#[tokio::test]
async fn each_input_has_its_numbers() {
    let body = embedded(json!({}), &VALUES).await.unwrap();
    assert_eq!(body["object"], "list");
    assert_eq!(
        body["data"][1],
        json!({"object": "embedding", "index": 1, "embedding": [1.0, 0.0]})
    );
    let first = body["data"][0]["embedding"][0].as_f64().unwrap();
    assert!((first - 0.6).abs() < 1e-6);
    assert_eq!(
        body["usage"],
        json!({"prompt_tokens": 5, "total_tokens": 5})
    );
    assert_eq!(body["model"], "tiny");
}

#[tokio::test]
async fn base64_holds_the_floats_bytes() {
    let asked = json!({"encoding_format": "base64"});
    let body = embedded(asked, &VALUES).await.unwrap();
    // 1.0 is 0x3f800000.
    assert_eq!(body["data"][1]["embedding"], "AACAPwAAAAA=");
}

#[tokio::test]
async fn what_the_model_does_not_give_is_refused() {
    let refused = async |asked: Value| embedded(asked, &VALUES).await.unwrap_err().param;
    assert_eq!(
        refused(json!({"dimensions": 1})).await.as_deref(),
        Some("dimensions")
    );
    assert_eq!(
        refused(json!({"dimensions": 0})).await.as_deref(),
        Some("dimensions")
    );
    assert_eq!(
        refused(json!({"encoding_format": "hex"})).await.as_deref(),
        Some("encoding_format")
    );
    assert_eq!(
        refused(json!({"input": []})).await.as_deref(),
        Some("input")
    );
    assert!(embedded(json!({"dimensions": 2}), &VALUES).await.is_ok());
}

#[tokio::test]
async fn inputs_take_four_forms() {
    for (input, count) in [
        (json!("Hi"), 1),
        (json!([5, 6]), 1),
        (json!([[5], [6, 7]]), 2),
    ] {
        let body = embedded(json!({"input": input}), &VALUES[..count])
            .await
            .unwrap();
        assert_eq!(body["data"].as_array().unwrap().len(), count, "{input}");
    }
}
