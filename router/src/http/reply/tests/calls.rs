//! Tool calls in chunks and in one body.

use super::*;

const CALLS: &str = r#"[{"name": "f", "arguments": {"a": "é"}}, {"name": "g", "arguments": {}}]"#;

fn asked(stream: bool) -> Value {
    let tool = |name: &str| json!({"type": "function", "function": {"name": name}});
    json!({"stream": stream, "tools": [tool("f"), tool("g")]})
}

fn run(text: &str, reason: FinishReason) -> Vec<Events> {
    let bytewise = bytes(text).into_iter().map(|byte| tokens(&[byte]));
    vec![events(bytewise.chain([finished(reason)]).collect())]
}

#[tokio::test]
async fn a_whole_reply_has_calls_instead_of_text() {
    let reply = chat_reply(asked(false), run(CALLS, FinishReason::Stop)).await;
    let body = json_of(reply.unwrap()).await;
    let choice = &body["choices"][0];
    assert_eq!(choice["finish_reason"], "tool_calls");
    assert_eq!(choice["message"]["content"], Value::Null);
    let calls = choice["message"]["tool_calls"].as_array().unwrap();
    let function = |call: &Value| (call["type"].clone(), call["function"].clone());
    let expected = |name: &str, arguments: &str| {
        (
            json!("function"),
            json!({"name": name, "arguments": arguments}),
        )
    };
    assert_eq!(function(&calls[0]), expected("f", r#"{"a": "é"}"#));
    assert_eq!(function(&calls[1]), expected("g", "{}"));
    assert!(calls[0]["id"].as_str().unwrap().starts_with("call_"));
    assert_ne!(calls[0]["id"], calls[1]["id"]);
}

#[tokio::test]
async fn streamed_calls_begin_with_their_name_and_go_on_by_index() {
    let reply = chat_reply(asked(true), run(CALLS, FinishReason::Stop)).await;
    let chunks = events_of(reply.unwrap()).await;
    let mut calls: Vec<(Value, String)> = Vec::new();
    let mut reason = Value::Null;
    for chunk in &chunks[..chunks.len() - 1] {
        let chunk: Value = serde_json::from_str(chunk).unwrap();
        let choice = &chunk["choices"][0];
        assert!(
            !choice["delta"]["content"]
                .as_str()
                .is_some_and(|it| !it.is_empty())
        );
        reason = choice["finish_reason"].clone();
        for delta in choice["delta"]["tool_calls"]
            .as_array()
            .into_iter()
            .flatten()
        {
            let index = delta["index"].as_u64().unwrap() as usize;
            if index == calls.len() {
                assert!(delta["id"].is_string() && delta["type"] == "function");
                calls.push((delta["function"]["name"].clone(), String::new()));
            } else {
                assert_eq!(delta.get("id"), None);
            }
            calls[index].1 += delta["function"]["arguments"].as_str().unwrap();
        }
    }
    let expected = [
        (json!("f"), r#"{"a": "é"}"#.to_owned()),
        (json!("g"), "{}".to_owned()),
    ];
    assert_eq!(calls, expected);
    assert_eq!(reason, "tool_calls");
    assert!(chunks.len() > 10, "arguments come as they are generated");
}

#[tokio::test]
async fn a_call_cut_off_says_so() {
    let reply = chat_reply(asked(false), run(&CALLS[..35], FinishReason::Length)).await;
    let choice = &json_of(reply.unwrap()).await["choices"][0];
    assert_eq!(choice["finish_reason"], "length");
    assert_eq!(choice["message"]["tool_calls"][0]["function"]["name"], "f");
}

#[tokio::test]
async fn text_stays_text_though_tools_could_be_called() {
    let reply = chat_reply(asked(false), run("[1, 2] is a list", FinishReason::Stop)).await;
    let choice = &json_of(reply.unwrap()).await["choices"][0];
    assert_eq!(choice["message"]["content"], "[1, 2] is a list");
    assert_eq!(choice["message"].get("tool_calls"), None);
    assert_eq!(choice["finish_reason"], "stop");
}
