use axum::body::Body;
use http::Request;
use http_body_util::BodyExt;
use proto::ErrorCode;
use serde_json::{Value, json};

use super::*;
use crate::error::ApiError;
use crate::tokenize::{MaxTokens, Options, Prompt};

/// A valid chat with `extra` fields instead of, or besides, its own.
fn chat_body(extra: Value) -> Vec<u8> {
    let mut body = json!({"model": "tiny", "messages": [{"role": "user", "content": "Hi"}]});
    merge(&mut body, extra)
}

fn completion_body(extra: Value) -> Vec<u8> {
    merge(&mut json!({"model": "tiny", "prompt": "Hi"}), extra)
}

fn merge(body: &mut Value, extra: Value) -> Vec<u8> {
    let fields = body.as_object_mut().unwrap();
    fields.extend(extra.as_object().unwrap().clone());
    serde_json::to_vec(body).unwrap()
}

fn chat(extra: Value) -> ChatRequest {
    ChatRequest::parse(&chat_body(extra)).unwrap()
}

fn completion(extra: Value) -> CompletionRequest {
    CompletionRequest::parse(&completion_body(extra)).unwrap()
}

#[track_caller]
fn assert_refused<T>(
    result: Result<T, ApiError>,
    code: ErrorCode,
    param: Option<&str>,
    input: &str,
) {
    let Err(error) = result else {
        panic!("accepted: {input}");
    };
    assert_eq!(
        (error.code, error.param.as_deref()),
        (code, param),
        "{input}: {}",
        error.message
    );
    assert!(!error.message.is_empty());
}

#[test]
fn bad_chats_are_refused_by_field() {
    #[track_caller]
    fn check(extra: Value, code: ErrorCode, param: &str) {
        let input = extra.to_string();
        assert_refused(
            ChatRequest::parse(&chat_body(extra)),
            code,
            Some(param),
            &input,
        );
    }
    use ErrorCode::{InvalidRequest, Unsupported};
    check(json!({"model": null}), InvalidRequest, "model");
    check(json!({"model": ""}), InvalidRequest, "model");
    check(json!({"model": 5}), InvalidRequest, "model");
    check(json!({"messages": null}), InvalidRequest, "messages");
    check(json!({"messages": []}), InvalidRequest, "messages");
    check(json!({"messages": "Hi"}), InvalidRequest, "messages");
    check(json!({"messages": ["Hi"]}), InvalidRequest, "messages[0]");
    check(
        json!({"messages": [["user", "Hi"]]}),
        InvalidRequest,
        "messages[0]",
    );
    check(
        json!({"messages": [{"content": "Hi"}]}),
        InvalidRequest,
        "messages[0].role",
    );
    check(
        json!({"messages": [{"role": "boss", "content": "Hi"}]}),
        InvalidRequest,
        "messages[0].role",
    );
    check(
        json!({"messages": [{"role": "user"}]}),
        InvalidRequest,
        "messages[0].content",
    );
    check(
        json!({"messages": [{"role": "assistant", "content": null}]}),
        InvalidRequest,
        "messages[0].content",
    );
    check(
        json!({"messages": [{"role": "user", "content": 5}]}),
        InvalidRequest,
        "messages[0].content",
    );
    check(
        json!({"messages": [{"role": "user", "content": [{"type": "text", "text": 5}]}]}),
        InvalidRequest,
        "messages[0].content[0].text",
    );
    check(
        json!({"messages": [{"role": "user", "content": [{"type": "text"}]}]}),
        InvalidRequest,
        "messages[0].content[0].text",
    );
    check(
        json!({"messages": [{"role": "user", "content": [{"type": "smell"}]}]}),
        InvalidRequest,
        "messages[0].content[0].type",
    );
    check(
        json!({"messages": [{"role": "user", "content": [{"type": "text", "text": ""}, {"type": "image_url", "image_url": {"url": "x"}}]}]}),
        Unsupported,
        "messages[0].content[1]",
    );
    check(json!({"temperature": "hot"}), InvalidRequest, "temperature");
    check(json!({"temperature": 2.1}), InvalidRequest, "temperature");
    check(json!({"temperature": -0.1}), InvalidRequest, "temperature");
    check(json!({"top_p": 0}), InvalidRequest, "top_p");
    check(json!({"top_p": 1.5}), InvalidRequest, "top_p");
    check(json!({"top_k": -2}), InvalidRequest, "top_k");
    check(json!({"min_p": 1.5}), InvalidRequest, "min_p");
    check(
        json!({"presence_penalty": 3}),
        InvalidRequest,
        "presence_penalty",
    );
    check(
        json!({"frequency_penalty": -3}),
        InvalidRequest,
        "frequency_penalty",
    );
    check(
        json!({"repetition_penalty": 0}),
        InvalidRequest,
        "repetition_penalty",
    );
    check(json!({"max_tokens": 0}), InvalidRequest, "max_tokens");
    check(json!({"max_tokens": -1}), InvalidRequest, "max_tokens");
    check(json!({"max_tokens": 1.5}), InvalidRequest, "max_tokens");
    check(
        json!({"max_completion_tokens": 0}),
        InvalidRequest,
        "max_completion_tokens",
    );
    check(
        json!({"max_tokens": 2, "min_tokens": 3}),
        InvalidRequest,
        "min_tokens",
    );
    check(json!({"min_tokens": -1}), InvalidRequest, "min_tokens");
    check(json!({"n": 0}), InvalidRequest, "n");
    check(json!({"n": 129}), InvalidRequest, "n");
    check(json!({"n": "two"}), InvalidRequest, "n");
    check(json!({"seed": 0.5}), InvalidRequest, "seed");
    check(json!({"stop": ""}), InvalidRequest, "stop");
    check(json!({"stop": ["a", ""]}), InvalidRequest, "stop");
    check(json!({"stop": 5}), InvalidRequest, "stop");
    check(json!({"stop": ["a", 5]}), InvalidRequest, "stop[1]");
    check(json!({"stop": vec!["a"; 17]}), InvalidRequest, "stop");
    check(
        json!({"stop_token_ids": [-1]}),
        InvalidRequest,
        "stop_token_ids[0]",
    );
    check(json!({"logprobs": 5}), InvalidRequest, "logprobs");
    check(json!({"top_logprobs": 2}), InvalidRequest, "top_logprobs");
    check(
        json!({"logprobs": true, "top_logprobs": 21}),
        InvalidRequest,
        "top_logprobs",
    );
    check(
        json!({"logprobs": true, "top_logprobs": -1}),
        InvalidRequest,
        "top_logprobs",
    );
    check(json!({"stream": "yes"}), InvalidRequest, "stream");
    check(
        json!({"stream_options": {"include_usage": true}}),
        InvalidRequest,
        "stream_options",
    );
    check(
        json!({"stream": true, "stream_options": {"include_usage": 1}}),
        InvalidRequest,
        "stream_options.include_usage",
    );
    check(
        json!({"stream": true, "stream_options": []}),
        InvalidRequest,
        "stream_options",
    );
    check(
        json!({"chat_template_kwargs": []}),
        InvalidRequest,
        "chat_template_kwargs",
    );
    check(json!({"tools": {}}), InvalidRequest, "tools");
    for (field, value) in [
        ("modalities", json!(["text", "audio"])),
        ("audio", json!({"voice": "alloy"})),
        ("functions", json!([{"name": "f"}])),
        ("chat_template", json!("{{ messages }}")),
        ("continue_final_message", json!(true)),
        ("prompt_logprobs", json!(1)),
    ] {
        check(json!({ field: value }), Unsupported, field);
    }
}

#[test]
fn bad_completions_are_refused_by_field() {
    #[track_caller]
    fn check(extra: Value, code: ErrorCode, param: &str) {
        let input = extra.to_string();
        assert_refused(
            CompletionRequest::parse(&completion_body(extra)),
            code,
            Some(param),
            &input,
        );
    }
    use ErrorCode::{InvalidRequest, Unsupported};
    check(json!({"prompt": null}), InvalidRequest, "prompt");
    check(json!({"prompt": []}), InvalidRequest, "prompt");
    check(json!({"prompt": 5}), InvalidRequest, "prompt");
    check(json!({"prompt": {"a": 1}}), InvalidRequest, "prompt");
    check(json!({"prompt": [1, -2]}), InvalidRequest, "prompt[1]");
    check(
        json!({"prompt": [5_000_000_000u64]}),
        InvalidRequest,
        "prompt[0]",
    );
    check(
        json!({"prompt": [[1], [2, "x"]]}),
        InvalidRequest,
        "prompt[1][1]",
    );
    check(json!({"prompt": [1, "x"]}), InvalidRequest, "prompt");
    check(json!({"max_tokens": -1}), InvalidRequest, "max_tokens");
    check(json!({"logprobs": 21}), InvalidRequest, "logprobs");
    check(json!({"logprobs": -1}), InvalidRequest, "logprobs");
    check(json!({"logprobs": true}), InvalidRequest, "logprobs");
    check(json!({"echo": "yes"}), InvalidRequest, "echo");
    check(json!({"prompt": vec!["a"; 1025]}), InvalidRequest, "prompt");
    check(json!({"suffix": "end"}), Unsupported, "suffix");
    check(json!({"best_of": 2}), Unsupported, "best_of");
    check(
        json!({"logit_bias": {"1": 101}}),
        InvalidRequest,
        "logit_bias",
    );
}

#[test]
fn bodies_that_are_no_object_are_refused() {
    let check = |body: &str, words: &str| {
        let error = ChatRequest::parse(body.as_bytes()).unwrap_err();
        assert_eq!(
            (error.code, &error.param),
            (ErrorCode::InvalidRequest, &None),
            "{body}"
        );
        assert!(error.message.contains(words), "{body}: {}", error.message);
    };
    check("", "not valid JSON");
    check("{\n \"model\": }", "line 2 column 11");
    check("{\"model\": \"tiny\"", "line 1 column 16");
    check("[]", "must be a JSON object");
    check("5", "must be a JSON object");
    check("null", "must be a JSON object");
    check("{\"model\": \"\\ud800\"}", "not valid JSON");
    check(
        "{\"model\": \"a\", \"model\": \"b\"}",
        "duplicate field `model`",
    );
}

#[test]
fn invalid_utf8_is_refused() {
    let error = ChatRequest::parse(b"{\"model\": \"\xff\"}").unwrap_err();
    assert_eq!(error.code, ErrorCode::InvalidRequest);
}

#[test]
fn chat_fields_reach_the_request() {
    let chat = chat(json!({
        "max_completion_tokens": 9, "temperature": 0, "top_p": 0.5, "top_k": -1, "min_p": 0.1,
        "seed": -1, "stop": "END", "n": 2, "logprobs": true, "top_logprobs": 3, "stream": true,
        "stream_options": {"include_usage": true}, "presence_penalty": 1, "frequency_penalty": -1,
        "repetition_penalty": 1.1, "ignore_eos": true, "stop_token_ids": [5], "min_tokens": 2,
        "cache_salt": "tenant", "skip_special_tokens": false, "include_stop_str_in_output": true,
        "return_token_ids": true,
    }));
    assert!(chat.stream && chat.include_usage && chat.return_token_ids);
    let options = &chat.generate.options;
    assert_eq!(options.max_tokens, MaxTokens::Exactly(9));
    assert_eq!(
        (options.temperature, options.top_p, options.top_k),
        (Some(0.0), Some(0.5), Some(0))
    );
    assert_eq!(
        (options.seed, options.n, options.logprobs),
        (Some(u64::MAX), 2, Some(3))
    );
    assert_eq!(
        (options.presence_penalty, options.frequency_penalty),
        (Some(1.0), Some(-1.0))
    );
    assert_eq!(
        (options.repetition_penalty, options.min_p),
        (Some(1.1), Some(0.1))
    );
    assert!(options.ignore_eos);
    assert_eq!(
        (options.stop_token_ids.as_slice(), options.min_tokens),
        (&[5][..], 2)
    );
    assert_eq!(&*options.cache_salt, "tenant");
    assert_eq!(&options.text.stop[..], ["END"]);
    assert!(options.text.include_stop && !options.text.skip_special_tokens);
}

#[test]
fn harmless_fields_and_nulls_change_nothing() {
    let plain = chat(json!({}));
    assert_eq!(plain.generate.options, Options::default());
    let ignored = chat(json!({
        "user": null, "priority": null, "nvext": {"annotations": []}, "metadata": {"a": "b"}, "store": true, "service_tier": "auto",
        "parallel_tool_calls": true, "reasoning_effort": "low", "something_new": [1, {"a": 2}],
        "logit_bias": {}, "response_format": {"type": "text"}, "modalities": ["text"],
        "tool_choice": "none", "functions": [], "continue_final_message": false,
        "temperature": null, "max_tokens": null, "stop": null, "n": null, "stream": null,
        "stream_options": null, "logprobs": false, "top_logprobs": null, "tools": null,
    }));
    assert_eq!(ignored, plain);
}

#[test]
fn content_parts_and_tool_calls_are_made_fit_for_templates() {
    let chat = chat(json!({"messages": [
        {"role": "system", "content": [{"type": "text", "text": "Be"}, {"type": "text", "text": "terse."}]},
        {"role": "assistant", "content": null, "tool_calls": [
            {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{\"a\": 1}"}},
        ]},
        {"role": "tool", "content": "2", "tool_call_id": "1"},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}], "tool_calls": []},
    ], "tools": [{"type": "function", "function": {"name": "f"}}], "chat_template_kwargs": {"enable_thinking": false}}));
    let [Prompt::Chat(conversation)] = chat.generate.prompts.as_slice() else {
        panic!("{chat:?}");
    };
    let contents: Vec<&str> = conversation
        .messages
        .iter()
        .map(|message| message.content.as_str())
        .collect();
    assert_eq!(contents, ["Be\nterse.", "", "2", "No."]);
    let call = conversation.messages[1].tool_calls.as_ref().unwrap();
    assert_eq!(call[0]["function"]["arguments"], json!({"a": 1}));
    assert_eq!(conversation.messages[2].tool_call_id.as_deref(), Some("1"));
    assert_eq!(conversation.messages[3].tool_calls, None);
    let tool = json!({"type": "function", "function": {"name": "f"}});
    assert_eq!(conversation.tools, Some(json!([tool])));
    assert_eq!(conversation.variables["enable_thinking"], json!(false));
    assert!(conversation.add_generation_prompt);
}

#[test]
fn tools_are_hidden_from_the_template_if_none_may_be_called() {
    let chat = chat(json!({"tools": [{"type": "function"}], "tool_choice": "none"}));
    let Prompt::Chat(conversation) = &chat.generate.prompts[0] else {
        panic!("{chat:?}");
    };
    assert_eq!(conversation.tools, None);
}

#[test]
fn prompt_takes_four_forms() {
    let check = |prompt: Value, expected: &[Prompt]| {
        assert_eq!(
            completion(json!({"prompt": prompt})).generate.prompts,
            expected
        );
    };
    let text = |text: &str| Prompt::Text(text.into());
    let tokens = |ids: &[u32]| Prompt::Tokens(ids.into());
    check(json!("a"), &[text("a")]);
    check(json!(["a", "b"]), &[text("a"), text("b")]);
    check(json!([1, 2]), &[tokens(&[1, 2])]);
    check(json!([[1], [2, 3]]), &[tokens(&[1]), tokens(&[2, 3])]);
}

#[test]
fn completion_defaults_are_openais() {
    let plain = completion(json!({}));
    assert_eq!(plain.generate.options.max_tokens, MaxTokens::UpTo(16));
    assert_eq!(plain.generate.options.logprobs, None);
    let scored = completion(json!({"echo": true, "logprobs": 0, "max_tokens": 0}));
    assert!(scored.echo);
    let options = &scored.generate.options;
    assert_eq!(
        (options.logprobs, options.prompt_logprobs),
        (Some(0), Some(0))
    );
    assert_eq!(options.max_tokens, MaxTokens::Exactly(0));
    assert_eq!(
        completion(json!({"logprobs": 5}))
            .generate
            .options
            .prompt_logprobs,
        None
    );
    completion(json!({"best_of": 2, "n": 2}));
}

async fn read(
    content_type: Option<&str>,
    body: Vec<u8>,
    max_body_bytes: usize,
) -> Result<ChatRequest, ApiError> {
    let mut request = Request::post("/v1/chat/completions");
    if let Some(content_type) = content_type {
        request = request.header("content-type", content_type);
    }
    let limits = Limits {
        max_body_bytes,
        ..Limits::default()
    };
    ChatRequest::read(request.body(Body::from(body)).unwrap(), &limits).await
}

#[tokio::test]
async fn content_type_must_be_json_or_absent() {
    for accepted in [
        None,
        Some("application/json"),
        Some("Application/JSON; charset=utf-8"),
    ] {
        read(accepted, chat_body(json!({})), 1000).await.unwrap();
    }
    for refused in ["text/plain", "application/x-www-form-urlencoded", ""] {
        let result = read(Some(refused), chat_body(json!({})), 1000).await;
        assert_refused(result, ErrorCode::UnsupportedMediaType, None, refused);
    }
}

#[tokio::test]
async fn compressed_bodies_are_refused() {
    let read = async |encoding| {
        let request = Request::post("/v1/chat/completions").header("content-encoding", encoding);
        let request = request.body(Body::from(chat_body(json!({})))).unwrap();
        ChatRequest::read(request, &Limits::default()).await
    };
    read("identity").await.unwrap();
    assert_refused(
        read("gzip").await,
        ErrorCode::UnsupportedMediaType,
        None,
        "gzip",
    );
}

#[tokio::test]
async fn client_that_asks_before_sending_is_refused_at_once() {
    let body = Body::from(chat_body(json!({})));
    let body = body.inspect_frame(|_| panic!("nobody gave leave to send"));
    let request = Request::post("/v1/chat/completions").header("expect", "100-continue");
    let limits = Limits {
        max_body_bytes: 10,
        ..Limits::default()
    };
    let result = ChatRequest::read(request.body(Body::new(body)).unwrap(), &limits).await;
    assert_refused(result, ErrorCode::BodyTooLarge, None, "announced");
}

#[tokio::test]
async fn body_may_have_the_largest_size_but_no_byte_more() {
    let body = chat_body(json!({}));
    let size = body.len();
    read(None, body.clone(), size).await.unwrap();
    let result = read(None, body, size - 1).await;
    assert_refused(result, ErrorCode::BodyTooLarge, None, "one byte too many");
}

#[test]
fn urgency_is_read_from_the_fields_of_every_api() {
    let hints = |extra: Value| {
        let of_chat = chat(extra.clone()).generate.hints;
        assert_eq!(completion(extra).generate.hints, of_chat);
        of_chat
    };
    let priority = |extra: Value| hints(extra).priority;
    assert_eq!(priority(json!({})), None);
    assert_eq!(
        priority(json!({"priority": 5})),
        Some(-5),
        "vLLM: lower is more urgent"
    );
    assert_eq!(priority(json!({"priority": i64::MIN})), Some(i32::MAX));
    assert_eq!(priority(json!({"priority": i64::MAX})), Some(i32::MIN));
    let agent =
        json!({"priority": 2, "strict_priority": 1, "osl": 300, "latency_sensitivity": 1.5});
    let both = hints(json!({"priority": 5, "nvext": {"agent_hints": agent, "annotations": []}}));
    assert_eq!((both.priority, both.tier), (Some(2), Some(1)));
    assert_eq!(both.output_tokens, Some(300));
    let tenant = |extra: Value| hints(extra).tenant;
    assert_eq!(tenant(json!({"user": "a"})).as_deref(), Some("user:a"));
    let newer = json!({"user": "a", "safety_identifier": "b"});
    assert_eq!(tenant(newer).as_deref(), Some("user:b"));
    assert_eq!(tenant(json!({"user": ""})), None);
}

mod structured;
