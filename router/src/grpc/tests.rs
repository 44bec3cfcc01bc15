use futures::StreamExt;
use proto::ErrorCode;
use proto::v1::generate_request::Prompt as WirePrompt;

use super::*;
use crate::sequence::{Event, FinishReason};
use crate::tokenize::fixture::{self, EOS, bytes, finished, tokens};

/// Answers with prepared events.
struct Fake {
    events: fn() -> Vec<Events>,
}

impl Generate for Fake {
    async fn generate(
        &self,
        request: tokenize::Request,
        call: Call,
    ) -> Result<Generation, ApiError> {
        if &*call.request_id == "refuse" {
            return Err(ApiError {
                retry_after: Some(3),
                ..ApiError::new(ErrorCode::Overloaded, "later")
            });
        }
        Ok(Generation {
            sequences: fixture::sequences(&fixture::byte_level(), &request).await,
            runs: (self.events)(),
        })
    }

    fn served_models(&self) -> Vec<Arc<Model>> {
        vec![fixture::byte_level()]
    }
}

fn hello() -> v1::GenerateRequest {
    v1::GenerateRequest {
        model: "tiny".to_owned(),
        prompt: Some(WirePrompt::Text("hello".to_owned())),
        ..v1::GenerateRequest::default()
    }
}

async fn generate(
    request: v1::GenerateRequest,
    events: fn() -> Vec<Events>,
) -> Result<Vec<Result<v1::GenerateResponse, Status>>, Status> {
    let service = InferenceService::new(Arc::new(Fake { events }), 16);
    let stream = service.generate(Request::new(request)).await?;
    Ok(stream.into_inner().collect().await)
}

#[tokio::test]
async fn messages_carry_text_and_tokens_and_the_last_usage() {
    let request = v1::GenerateRequest { n: 2, ..hello() };
    let responses = generate(request, || {
        ["a", "b"]
            .map(|text| {
                let stop = finished(FinishReason::Stop);
                fixture::events(vec![
                    fixture::started(2),
                    tokens(&bytes(text)),
                    tokens(&[EOS]),
                    stop,
                ])
            })
            .into()
    });
    let responses: Vec<v1::GenerateResponse> = responses
        .await
        .unwrap()
        .into_iter()
        .map(Result::unwrap)
        .collect();
    let text: Vec<(u32, &str)> = responses
        .iter()
        .filter(|response| !response.text.is_empty())
        .map(|response| (response.choice, response.text.as_str()))
        .collect();
    assert_eq!(text.len(), 2);
    assert!(text.contains(&(0, "a")) && text.contains(&(1, "b")));
    let of_first = responses.iter().filter(|response| response.choice == 0);
    let ids: Vec<u32> = of_first
        .flat_map(|response| response.token_ids.clone())
        .collect();
    assert_eq!(ids, [bytes("a")[0], EOS], "with the token that ended it");
    let (last, before) = responses.split_last().unwrap();
    assert!(before.iter().all(|response| response.usage.is_none()));
    assert_eq!(last.finish_reason, "stop");
    let prompt_tokens = 1;
    let usage = v1::Usage {
        prompt_tokens,
        completion_tokens: 4,
        cached_tokens: 2,
    };
    assert_eq!(last.usage, Some(usage), "hello is one token");
}

#[tokio::test]
async fn bad_requests_say_what_is_wrong() {
    let check = async |request: v1::GenerateRequest, code: tonic::Code, words: &str| {
        let status = generate(request, Vec::new).await.unwrap_err();
        assert_eq!(status.code(), code);
        assert!(status.message().contains(words), "{}", status.message());
    };
    use tonic::Code::InvalidArgument;
    check(
        v1::GenerateRequest {
            model: String::new(),
            ..hello()
        },
        InvalidArgument,
        "model",
    )
    .await;
    check(
        v1::GenerateRequest {
            prompt: None,
            ..hello()
        },
        InvalidArgument,
        "prompt",
    )
    .await;
    let empty = Some(WirePrompt::Chat(v1::Chat::default()));
    check(
        v1::GenerateRequest {
            prompt: empty,
            ..hello()
        },
        InvalidArgument,
        "message",
    )
    .await;
    check(
        v1::GenerateRequest { n: 17, ..hello() },
        InvalidArgument,
        "17",
    )
    .await;
    let hot = v1::Sampling {
        temperature: Some(f32::NAN),
        ..v1::Sampling::default()
    };
    check(
        v1::GenerateRequest {
            sampling: Some(hot),
            ..hello()
        },
        InvalidArgument,
        "temperature",
    )
    .await;
}

#[test]
fn constraints_and_token_rules_are_read() {
    use v1::constraint::Grammar as Wire;
    let read = |grammar: Option<Wire>, sampling: v1::Sampling| {
        let request = v1::GenerateRequest {
            constraint: Some(v1::Constraint { grammar }),
            sampling: Some(sampling),
            ..hello()
        };
        super::generate::read(request, 1).map(|request| request.options)
    };
    let biased = v1::Sampling {
        logit_bias: [(7, -3.5)].into(),
        ..v1::Sampling::default()
    };
    let options = read(Some(Wire::Regex("a+".into())), biased).unwrap();
    assert_eq!(options.logit_bias, [(7, -3.5)]);
    assert_eq!(options.constraint.unwrap().param, "constraint.regex");
    let worded = v1::Sampling {
        bad_words: vec!["no".into()],
        ..v1::Sampling::default()
    };
    let refused = read(Some(Wire::Lark("start: \"a\"".into())), worded).unwrap_err();
    assert_eq!(refused.param.as_deref(), Some("bad_words"));
    let refused = read(None, v1::Sampling::default()).unwrap_err();
    assert_eq!(refused.param.as_deref(), Some("constraint"));
}

#[test]
fn objectives_are_fields_of_the_request() {
    let read = |objectives: v1::Objectives| {
        let request = v1::GenerateRequest {
            objectives: Some(objectives),
            ..hello()
        };
        super::generate::read(request, 1).map(|request| request.hints)
    };
    let hints = read(v1::Objectives {
        tenant: "team-a".to_owned(),
        priority: Some(-2),
        time_to_first_token_ms: Some(250.0),
        inter_token_latency_ms: Some(12.5),
        output_tokens: Some(9),
    });
    let expected = Hints {
        tenant: Some(Arc::from("team-a")),
        priority: Some(-2),
        time_to_first_token: Some(std::time::Duration::from_millis(250)),
        inter_token_latency: Some(std::time::Duration::from_micros(12_500)),
        output_tokens: Some(9),
        ..Hints::default()
    };
    assert_eq!(hints, Ok(expected));
    assert_eq!(read(v1::Objectives::default()), Ok(Hints::default()));
    for wrong in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        let error = read(v1::Objectives {
            time_to_first_token_ms: Some(wrong),
            ..v1::Objectives::default()
        });
        let param = error.unwrap_err().param;
        assert_eq!(param.as_deref(), Some("time_to_first_token_ms"), "{wrong}");
    }
}

#[tokio::test]
async fn bad_metadata_is_refused_by_name() {
    let service = InferenceService::new(Arc::new(Fake { events: Vec::new }), 16);
    let mut request = Request::new(hello());
    let metadata = request.metadata_mut();
    metadata.insert("x-dynamo-request-priority", "urgent".parse().unwrap());
    let Err(status) = service.generate(request).await else {
        panic!("not refused");
    };
    assert_eq!(proto::code_of(&status), ErrorCode::InvalidRequest);
    assert!(status.message().contains("x-dynamo-request-priority"));
}

#[tokio::test]
async fn error_code_is_in_the_status() {
    let service = InferenceService::new(Arc::new(Fake { events: Vec::new }), 16);
    let mut request = Request::new(hello());
    request
        .metadata_mut()
        .insert("x-request-id", "refuse".parse().unwrap());
    let Err(status) = service.generate(request).await else {
        panic!("not refused");
    };
    assert_eq!(proto::code_of(&status), ErrorCode::Overloaded);
    assert_eq!(status.metadata().get(RETRY_PUSHBACK).unwrap(), "3000");
}

#[tokio::test]
async fn failure_of_one_completion_ends_the_call() {
    let request = v1::GenerateRequest { n: 2, ..hello() };
    let responses = generate(request, || {
        let lost = ApiError::new(ErrorCode::WorkerLost, "gone");
        let failing = futures::stream::iter([Err::<Event, _>(lost)]).boxed();
        vec![failing, futures::stream::pending().boxed()]
    });
    let responses = responses.await.unwrap();
    assert_eq!(responses.len(), 1);
    assert_eq!(
        proto::code_of(responses[0].as_ref().unwrap_err()),
        ErrorCode::WorkerLost
    );
}

#[tokio::test]
async fn models_are_listed() {
    let service = InferenceService::new(Arc::new(Fake { events: Vec::new }), 16);
    let models = service
        .list_models(Request::new(v1::ListModelsRequest {}))
        .await
        .unwrap();
    let tiny = v1::Model {
        id: "tiny".to_owned(),
        max_model_len: 512,
    };
    assert_eq!(models.into_inner().models, [tiny]);
}
