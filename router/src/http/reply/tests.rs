use futures::stream;
use http_body_util::BodyExt;
use proto::ErrorCode;
use serde_json::{Value, json};

use super::*;
use crate::http::tests::body_of;
use crate::sequence::{Event, FinishReason, Token};
use crate::tokenize::fixture::{self, EOS, bytes, events, finished, started, tokens};

fn stop() -> Event {
    finished(FinishReason::Stop)
}

fn with_logprobs(text: &str) -> Event {
    let ids = bytes(text);
    let token = |id: u32| Token {
        id,
        logprob: Some(-0.5),
        top: vec![(id, -0.5), (id + 1, f32::NEG_INFINITY)],
    };
    Event::Tokens(ids.into_iter().map(token).collect())
}

async fn chat_reply(extra: Value, runs: Vec<Events>) -> Result<Response, ApiError> {
    let mut body = json!({"model": "tiny", "messages": [{"role": "user", "content": "Hi"}]});
    body.as_object_mut()
        .unwrap()
        .extend(extra.as_object().unwrap().clone());
    let request = ChatRequest::parse(body.to_string().as_bytes()).unwrap();
    let sequences = fixture::sequences(&fixture::byte_level(), &request.generate).await;
    chat(&request, &sequences, runs).await
}

async fn completion_reply(extra: Value, runs: Vec<Events>) -> Result<Response, ApiError> {
    let mut body = json!({"model": "tiny", "prompt": "Hi"});
    body.as_object_mut()
        .unwrap()
        .extend(extra.as_object().unwrap().clone());
    let request = CompletionRequest::parse(body.to_string().as_bytes()).unwrap();
    let sequences = fixture::sequences(&fixture::byte_level(), &request.generate).await;
    completion(&request, &sequences, runs).await
}

async fn json_of(response: Response) -> Value {
    assert_eq!(response.headers()["content-type"], "application/json");
    let mut body: Value = serde_json::from_slice(&body_of(response).await).unwrap();
    assert!(body["created"].as_u64().unwrap() > 1_700_000_000);
    body["created"] = json!(0);
    body
}

/// The events of a stream, `created` set to 0.
async fn events_of(response: Response) -> Vec<String> {
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    assert_eq!(response.headers()["cache-control"], "no-cache");
    let text = String::from_utf8(body_of(response).await).unwrap();
    assert!(text.ends_with("\n\n"));
    let event = |event: &str| {
        let data = event.strip_prefix("data: ").unwrap();
        match serde_json::from_str::<Value>(data) {
            Ok(mut json) if json.get("created").is_some() => {
                json["created"] = json!(0);
                json.to_string()
            }
            _ => data.to_owned(),
        }
    };
    text.trim_end().split("\n\n").map(event).collect()
}

const CHUNK: &str = r#"{"id":"chatcmpl-req-1","object":"chat.completion.chunk","created":0,"model":"tiny","system_fingerprint":"fp_0123456789ab","choices":["#;

#[tokio::test]
async fn chat_stream_says_who_speaks_then_text_then_why_it_ended() {
    let run = events(vec![
        tokens(&bytes("Hel")),
        tokens(&bytes("lo")),
        tokens(&[EOS]),
        stop(),
    ]);
    let events = events_of(
        chat_reply(json!({"stream": true}), vec![run])
            .await
            .unwrap(),
    )
    .await;
    let choice = |delta: &str, reason: &str| {
        format!(
            r#"{CHUNK}{{"index":0,"delta":{delta},"logprobs":null,"finish_reason":{reason}}}]}}"#
        )
    };
    assert_eq!(
        events,
        [
            choice(r#"{"role":"assistant","content":""}"#, "null"),
            choice(r#"{"content":"Hel"}"#, "null"),
            choice(r#"{"content":"lo"}"#, "null"),
            choice("{}", "\"stop\""),
            "[DONE]".to_owned(),
        ]
    );
}

#[tokio::test]
async fn asked_for_usage_comes_last_and_is_null_before() {
    let run = events(vec![
        started(16),
        tokens(&bytes("Hi")),
        tokens(&[EOS]),
        stop(),
    ]);
    let asked = json!({"stream": true, "stream_options": {"include_usage": true}});
    let events = events_of(chat_reply(asked, vec![run]).await.unwrap()).await;
    let [chunks @ .., usage, done] = events.as_slice() else {
        panic!("{events:?}");
    };
    assert_eq!(done, "[DONE]");
    assert!(
        chunks.len() == 3
            && chunks
                .iter()
                .all(|chunk| chunk.ends_with(r#"],"usage":null}"#))
    );
    let usage: Value = serde_json::from_str(usage).unwrap();
    assert_eq!(usage["choices"], json!([]));
    let prompt = usage["usage"]["prompt_tokens"].as_u64().unwrap();
    let expected = json!({
        "prompt_tokens": prompt, "completion_tokens": 3, "total_tokens": prompt + 3,
        "prompt_tokens_details": {"cached_tokens": 16},
    });
    assert_eq!(usage["usage"], expected);
}

#[tokio::test]
async fn whole_chat_is_one_object() {
    let runs = ["one", "two"].map(|text| {
        events(vec![
            started(7),
            tokens(&bytes(text)),
            tokens(&[EOS]),
            stop(),
        ])
    });
    let body = json_of(chat_reply(json!({"n": 2}), runs.into()).await.unwrap()).await;
    let choice = |index: usize, text: &str| {
        json!({
            "index": index, "message": {"role": "assistant", "content": text, "refusal": null},
            "logprobs": null, "finish_reason": "stop",
        })
    };
    let prompt = body["usage"]["prompt_tokens"].as_u64().unwrap();
    assert_eq!(
        body,
        json!({
            "id": "chatcmpl-req-1", "object": "chat.completion", "created": 0, "model": "tiny",
            "system_fingerprint": "fp_0123456789ab", "choices": [choice(0, "one"), choice(1, "two")],
            "usage": {
                "prompt_tokens": prompt, "completion_tokens": 8, "total_tokens": prompt + 8,
                "prompt_tokens_details": {"cached_tokens": 7},
            },
        })
    );
}

#[tokio::test]
async fn chat_logprobs_have_bytes_and_alternatives() {
    let run = events(vec![with_logprobs("é"), finished(FinishReason::Length)]);
    let asked = json!({"logprobs": true, "top_logprobs": 2, "return_token_ids": true});
    let body = json_of(chat_reply(asked, vec![run]).await.unwrap()).await;
    let entry = |byte: u8, next: u8| {
        json!({
            "token": "\u{fffd}", "logprob": -0.5, "bytes": [byte],
            "top_logprobs": [
                {"token": "\u{fffd}", "logprob": -0.5, "bytes": [byte]},
                {"token": "\u{fffd}", "logprob": -9999.0, "bytes": [next]},
            ],
        })
    };
    let choice = &body["choices"][0];
    let expected = json!({"content": [entry(0xc3, 0xc4), entry(0xa9, 0xaa)], "refusal": null});
    assert_eq!(choice["logprobs"], expected);
    assert_eq!(choice["message"]["content"], "é");
    assert_eq!(choice["token_ids"], json!(bytes("é")));
    assert_eq!(body["prompt_token_ids"][0], json!(fixture::IM_START));
}

#[tokio::test]
async fn streamed_and_whole_chats_agree() {
    let run = || events(vec![with_logprobs("a✓"), with_logprobs("b STOP c")]);
    let asked = |stream: bool| json!({"stream": stream, "stop": ["STOP"], "logprobs": true, "top_logprobs": 1});
    let whole = json_of(chat_reply(asked(false), vec![run()]).await.unwrap()).await;
    let events = events_of(chat_reply(asked(true), vec![run()]).await.unwrap()).await;
    let (mut text, mut logprobs) = (String::new(), Vec::new());
    for chunk in &events[..events.len() - 1] {
        let chunk: Value = serde_json::from_str(chunk).unwrap();
        let choice = &chunk["choices"][0];
        text.push_str(choice["delta"]["content"].as_str().unwrap_or_default());
        logprobs.extend(
            choice["logprobs"]["content"]
                .as_array()
                .into_iter()
                .flatten()
                .cloned(),
        );
    }
    let choice = &whole["choices"][0];
    assert_eq!(choice["message"]["content"], "a✓b ");
    assert_eq!(text, "a✓b ");
    assert_eq!(choice["logprobs"]["content"], json!(logprobs));
    assert_eq!(logprobs.len(), 6, "none for the stop string");
    assert_eq!(whole["usage"]["completion_tokens"], 10);
    assert_eq!(choice["finish_reason"], "stop");
}

#[tokio::test]
async fn completion_logprobs_have_offsets_into_the_text() {
    let prompt = [(None, 'H'), (Some(-1.5), 'i')].map(|(logprob, char)| Token {
        id: bytes(&char.to_string())[0],
        logprob,
        top: logprob
            .map(|logprob| vec![(bytes("x")[0], logprob / 2.0)])
            .unwrap_or_default(),
    });
    let run = events(vec![
        Event::PromptLogprobs(prompt.to_vec()),
        with_logprobs("é"),
        finished(FinishReason::Length),
    ]);
    let asked = json!({"echo": true, "logprobs": 1, "max_tokens": 2});
    let body = json_of(completion_reply(asked, vec![run]).await.unwrap()).await;
    let expected = json!({
        "text": "Hié", "index": 0, "finish_reason": "length",
        "logprobs": {
            "tokens": ["H", "i", "bytes:\\xc3", "bytes:\\xa9"],
            "token_logprobs": [null, -1.5, -0.5, -0.5],
            "top_logprobs": [
                null, {"x": -0.75, "i": -1.5},
                {"bytes:\\xc3": -0.5, "bytes:\\xc4": -9999.0}, {"bytes:\\xa9": -0.5, "bytes:\\xaa": -9999.0},
            ],
            "text_offset": [0, 1, 2, 2],
        },
    });
    assert_eq!(body["choices"], json!([expected]));
    assert_eq!(body["object"], "text_completion");
    assert_eq!(body["id"], "cmpl-req-1");
}

#[tokio::test]
async fn scoring_a_prompt_shows_nothing_else() {
    let prompt = |id| Event::PromptLogprobs(vec![fixture::token(id)]);
    let run = || {
        events(vec![
            prompt(5),
            prompt(6),
            tokens(&bytes("x")),
            finished(FinishReason::Length),
        ])
    };
    let asked =
        |stream: bool| json!({"echo": true, "logprobs": 0, "max_tokens": 0, "stream": stream});
    let body = json_of(completion_reply(asked(false), vec![run()]).await.unwrap()).await;
    assert_eq!(body["choices"][0]["text"], "Hi");
    assert_eq!(
        body["choices"][0]["logprobs"]["tokens"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
    assert_eq!(body["usage"]["completion_tokens"], 0);
    let events = events_of(completion_reply(asked(true), vec![run()]).await.unwrap()).await;
    assert_eq!(events.len(), 2);
    assert!(events[0].contains(r#""text":"Hi""#), "{}", events[0]);
}

#[tokio::test]
async fn batch_of_prompts_is_one_list_of_choices() {
    let texts = ["a", "b", "c", "d"];
    let run = |(index, text): (usize, &str)| {
        events(vec![
            started(10 + index),
            tokens(&bytes(text)),
            finished(FinishReason::Length),
        ])
    };
    let runs = texts.into_iter().enumerate().map(run).collect();
    let asked = json!({"prompt": ["x", "yy"], "n": 2, "echo": true, "max_tokens": 1, "return_token_ids": true});
    let body = json_of(completion_reply(asked, runs).await.unwrap()).await;
    let shown: Vec<(&str, u64)> = body["choices"]
        .as_array()
        .unwrap()
        .iter()
        .map(|choice| {
            (
                choice["text"].as_str().unwrap(),
                choice["index"].as_u64().unwrap(),
            )
        })
        .collect();
    assert_eq!(shown, [("xa", 0), ("xb", 1), ("yyc", 2), ("yyd", 3)]);
    assert_eq!(body["choices"][2]["prompt_token_ids"], json!(bytes("yy")));
    assert_eq!(
        body["usage"],
        json!({
            "prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7,
            "prompt_tokens_details": {"cached_tokens": 22},
        })
    );
}

#[tokio::test]
async fn choices_are_merged_as_they_come() {
    let (first_tx, first_rx) = futures::channel::mpsc::unbounded();
    let (second_tx, second_rx) = futures::channel::mpsc::unbounded();
    let runs = vec![first_rx.boxed(), second_rx.boxed()];
    second_tx.unbounded_send(Ok(tokens(&bytes("b")))).unwrap();
    let response = completion_reply(json!({"stream": true, "n": 2}), runs)
        .await
        .unwrap();
    let mut body = response.into_body();
    let mut frame = async || {
        let frame = body.frame().await.unwrap().unwrap().into_data().unwrap();
        String::from_utf8(frame.to_vec()).unwrap()
    };
    assert!(frame().await.contains(r#""text":"b","index":1"#));
    first_tx.unbounded_send(Ok(tokens(&bytes("a")))).unwrap();
    assert!(frame().await.contains(r#""text":"a","index":0"#));
    first_tx.unbounded_send(Ok(stop())).unwrap();
    assert!(frame().await.contains(r#""finish_reason":"stop""#));
    second_tx.unbounded_send(Ok(stop())).unwrap();
    assert!(frame().await.ends_with("data: [DONE]\n\n"));
}

fn failing(before: Vec<Event>) -> Events {
    let error = ApiError::new(ErrorCode::NoWorker, "no worker left");
    stream::iter(before.into_iter().map(Ok).chain([Err(error)])).boxed()
}

#[tokio::test]
async fn failure_before_the_first_token_is_a_status() {
    for stream in [false, true] {
        let result = chat_reply(json!({"stream": stream}), vec![failing(vec![])]).await;
        assert_eq!(result.unwrap_err().code, ErrorCode::NoWorker);
    }
}

#[tokio::test]
async fn failure_in_mid_stream_is_an_event_without_done() {
    let run = failing(vec![tokens(&bytes("Hi"))]);
    let events = events_of(
        chat_reply(json!({"stream": true}), vec![run])
            .await
            .unwrap(),
    )
    .await;
    let error = json!({"error": {
        "message": "no worker left", "type": "service_unavailable_error", "param": null, "code": "no_worker",
    }});
    assert_eq!(events.len(), 3);
    assert_eq!(serde_json::from_str::<Value>(&events[2]).unwrap(), error);
}

#[tokio::test]
async fn hang_up_drops_the_events() {
    let held = Arc::new(());
    let guard = Arc::clone(&held);
    let run = stream::iter([Ok(tokens(&bytes("Hi")))])
        .chain(stream::pending())
        .inspect(move |_| assert!(Arc::strong_count(&guard) > 0))
        .boxed();
    let response = chat_reply(json!({"stream": true}), vec![run])
        .await
        .unwrap();
    assert_eq!(Arc::strong_count(&held), 2);
    drop(response);
    assert_eq!(Arc::strong_count(&held), 1);
}

#[tokio::test(start_paused = true)]
async fn long_prefill_gets_a_status_and_then_comments() {
    let started = tokio::time::Instant::now();
    let silent = stream::pending().boxed();
    // The pool's thread and the paused clock do not mix: no text to encode.
    let asked = json!({"prompt": [5], "stream": true});
    let response = completion_reply(asked, vec![silent]).await.unwrap();
    assert_eq!(started.elapsed(), MAX_SILENCE);
    let mut body = response.into_body();
    for _ in 0..2 {
        let silence = tokio::time::Instant::now();
        let frame = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(&frame[..], b": keep-alive\n\n");
        assert_eq!(silence.elapsed(), Duration::from_secs(15));
    }
}

mod calls;
mod embeddings;
