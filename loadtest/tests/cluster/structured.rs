//! What requests may ask of a whole cluster: constraints that hold whatever
//! happens to workers, tool calls, embeddings.

use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::harness::{FAST, Part, assert_idle, post, router, sim_worker, worker};

/// So that a worker can be killed in the middle of an answer.
const SLOW: &[&str] = &["--sim-step-time=3ms"];

fn cpu(id: &str, role: &str) -> Part {
    worker(&["--model=demo", "--threads=1", "--id", id, "--role", role])
}

/// A chat request with `more` fields.
fn chat(more: Value) -> Value {
    let mut body = json!({
        "model": "kvasir-demo", "temperature": 1.0, "seed": 7,
        "messages": [{"role": "user", "content": "Tell me of the sea and of those who sail on it."}],
    });
    for (name, value) in more.as_object().expect("fields") {
        body[name] = value.clone();
    }
    body
}

/// An array of many objects: an answer that takes a while.
fn long_json(stream: bool) -> Value {
    let ship = json!({
        "type": "object", "required": ["name", "crew", "kind"], "additionalProperties": false,
        "properties": {
            "name": {"type": "string", "maxLength": 12},
            "crew": {"type": "integer", "minimum": 1, "maximum": 99},
            "kind": {"enum": ["brig", "sloop", "yawl"]},
        },
    });
    let schema = json!({"type": "array", "items": ship, "minItems": 6, "maxItems": 8});
    let format = json!({"type": "json_schema", "json_schema": {"name": "ships", "schema": schema}});
    chat(json!({"response_format": format, "stream": stream, "n": 3, "max_tokens": 1500}))
}

/// Sends it, and gives the answer's status and body.
fn send(router: SocketAddr, path: &str, body: &Value) -> (u16, String) {
    let (head, body) = post(router, path, "", &body.to_string());
    let status = head.split(' ').nth(1).and_then(|it| it.parse().ok());
    (status.expect("a status"), body)
}

fn answer(router: &Part, path: &str, body: &Value) -> Value {
    let (status, body) = send(router.address, path, body);
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).expect("JSON")
}

/// The text and finish reason of each choice of a stream's events.
fn told(events: &str) -> Vec<(String, String)> {
    let mut choices = vec![(String::new(), String::new()); 3];
    let events = events
        .lines()
        .filter_map(|line| line.strip_prefix("data: {"));
    for event in events {
        let event: Value = serde_json::from_str(&format!("{{{event}")).expect("JSON");
        for choice in event["choices"].as_array().expect("choices") {
            let (text, finish) = &mut choices[choice["index"].as_u64().expect("index") as usize];
            *text += choice["delta"]["content"].as_str().unwrap_or_default();
            *finish += choice["finish_reason"].as_str().unwrap_or_default();
        }
    }
    choices
}

#[track_caller]
fn assert_ships(choices: &[(String, String)]) {
    for (text, finish) in choices {
        assert_eq!(finish, "stop", "{text}");
        let ships: Vec<Value> = serde_json::from_str(text).expect("an array");
        assert!((6..=8).contains(&ships.len()), "{text}");
        assert!(ships.iter().all(|ship| ship["crew"].is_u64()), "{text}");
    }
}

#[test]
fn constrained_streams_go_on_exactly_when_their_worker_dies() {
    let alone = sim_worker("alone", "both", FAST);
    let undisturbed = send(
        router(&[&alone]).address,
        "/v1/chat/completions",
        &long_json(true),
    );
    let prefill = sim_worker("prefill-0", "prefill", SLOW);
    let mut decode = sim_worker("decode-0", "decode", SLOW);
    let router = router(&[&prefill, &decode]);
    let disturbed = std::thread::scope(|scope| {
        let asked = scope.spawn(|| send(router.address, "/v1/chat/completions", &long_json(true)));
        decode.wait_for("kvasir_decode_tokens_total", |n| n >= 150.0);
        decode.kill();
        asked.join().expect("an answer")
    });
    assert!(router.metric("kvasir_router_migrations_total") >= 1.0);
    let (expected, got) = (told(&undisturbed.1), told(&disturbed.1));
    assert_ships(&expected);
    assert_eq!(got, expected);
    assert_idle(&router, &[&prefill]);
}

#[test]
fn split_and_undivided_obey_alike_on_the_cpu() {
    let (prefill, decode) = (cpu("prefill-0", "prefill"), cpu("decode-0", "decode"));
    let split = router(&[&prefill, &decode]);
    let alone = cpu("alone", "both");
    let undivided = router(&[&alone]);
    let choices = |router: &Part| -> Vec<(String, String)> {
        let answer = answer(router, "/v1/chat/completions", &long_json(false));
        let choices = answer["choices"].as_array().expect("choices").iter();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        choices
            .map(|it| (text(&it["message"]["content"]), text(&it["finish_reason"])))
            .collect()
    };
    let expected = choices(&undivided);
    assert_ships(&expected);
    assert_eq!(choices(&split), expected);
    assert!(decode.metric("kvasir_transfer_blocks_total") > 0.0);
}

#[test]
fn a_mistake_is_told_with_its_place_before_a_stream_begins() {
    let (prefill, decode) = (
        sim_worker("prefill-0", "prefill", FAST),
        sim_worker("decode-0", "decode", FAST),
    );
    let router = router(&[&prefill, &decode]);
    let schema = json!({"type": "object", "properties": {"a": {"type": "strange"}}});
    let named = json!({"type": "json_schema", "json_schema": {"name": "x", "schema": schema}});
    let tool = json!({"type": "function", "function": {"name": "f", "parameters": schema}});
    let table = [
        (
            json!({"response_format": named}),
            "response_format.json_schema.schema",
            "#/properties/a",
        ),
        (json!({"guided_regex": "a(b"}), "guided_regex", "unclosed"),
        (
            json!({"structured_outputs": {"grammar": "start \"a\""}}),
            "structured_outputs.grammar",
            "1(7)",
        ),
        (
            json!({"tools": [tool], "tool_choice": "required"}),
            "tools",
            "parameters of 'f': at #/properties/a",
        ),
        (json!({"logit_bias": {"99999": 1}}), "logit_bias", "99999"),
    ];
    for (fields, param, place) in table {
        for (stream, n) in [(false, 1), (true, 1), (false, 2), (true, 2)] {
            let mut body = chat(fields.clone());
            (body["stream"], body["n"]) = (stream.into(), n.into());
            let (status, body) = send(router.address, "/v1/chat/completions", &body);
            assert_eq!(status, 400, "{param}: {body}");
            let body: Value = serde_json::from_str(&body).expect("JSON");
            assert_eq!(body["error"]["param"], param, "{body}");
            let message = body["error"]["message"].as_str().expect("a message");
            assert!(message.contains(place), "{message} lacks {place}");
        }
    }
    assert_idle(&router, &[&prefill, &decode]);
}

#[test]
fn forced_calls_parse_and_obey_their_parameters() {
    let (prefill, decode) = (
        sim_worker("prefill-0", "prefill", FAST),
        sim_worker("decode-0", "decode", FAST),
    );
    let router = router(&[&prefill, &decode]);
    let parameters = json!({
        "type": "object", "required": ["port", "days"], "additionalProperties": false,
        "properties": {
            "port": {"enum": ["Oslo", "Bergen"]},
            "days": {"type": "integer", "minimum": 1, "maximum": 14},
        },
    });
    let tool =
        |name| json!({"type": "function", "function": {"name": name, "parameters": parameters}});
    let tools = json!([tool("sail"), tool("wait")]);
    let named = json!({"type": "function", "function": {"name": "wait"}});
    for (seed, choice) in (0..8).flat_map(|seed| [(seed, json!("required")), (seed, named.clone())])
    {
        let asked =
            chat(json!({"tools": tools, "tool_choice": choice, "seed": seed, "max_tokens": 1500}));
        let answer = answer(&router, "/v1/chat/completions", &asked);
        let choice_made = &answer["choices"][0];
        assert_eq!(choice_made["finish_reason"], "tool_calls", "{answer}");
        let calls = choice_made["message"]["tool_calls"]
            .as_array()
            .expect("calls");
        for call in calls {
            let arguments = call["function"]["arguments"].as_str().expect("arguments");
            let arguments: Value = serde_json::from_str(arguments).expect("JSON");
            assert!(
                ["Oslo", "Bergen"].contains(&arguments["port"].as_str().expect("a port")),
                "{arguments}"
            );
            let days = arguments["days"].as_u64().expect("days");
            assert!((1..=14).contains(&days), "{arguments}");
        }
        if choice != "required" {
            assert_eq!(calls.len(), 1);
            assert_eq!(calls[0]["function"]["name"], "wait");
        }
    }
}

#[test]
fn embeddings_are_the_same_wherever_and_however_they_are_computed() {
    let sea = "The sea is wide, and ships are small. ".repeat(12);
    let asked = json!({"model": "kvasir-demo", "input": [sea, "A mountain."]});
    let vectors = |router: &Part| -> Vec<Vec<f64>> {
        let answer = answer(router, "/v1/embeddings", &asked);
        let data = answer["data"].as_array().expect("data").iter();
        let numbers = |it: &Value| it["embedding"].as_array().expect("numbers").clone();
        data.map(|it| numbers(it).iter().filter_map(Value::as_f64).collect())
            .collect()
    };
    let whole = cpu("whole", "both");
    let expected = vectors(&router(&[&whole]));
    for vector in &expected {
        let length: f64 = vector.iter().map(|it| it * it).sum();
        assert!((length - 1.0).abs() < 1e-4, "{length}");
    }
    assert_ne!(expected[0], expected[1]);
    let chunked = worker(&["--model=demo", "--threads=1", "--max-batch-tokens=16"]);
    let (prefill, decode) = (cpu("prefill-0", "prefill"), cpu("decode-0", "decode"));
    assert_eq!(vectors(&router(&[&chunked])), expected);
    let split = router(&[&prefill, &decode]);
    assert_eq!(vectors(&split), expected);
    assert_eq!(vectors(&split), expected, "with its prompt cached");
    assert_idle(&split, &[&prefill, &decode]);
}
