//! Constraints, tools and rules for tokens.

use super::*;
use crate::constraint::{Constraint, Grammar};
use crate::tools::{Function, ToolUse};

fn constraint(fields: Value) -> Option<Constraint> {
    let options = chat(fields).generate.options;
    options.constraint.map(|constraint| (*constraint).clone())
}

fn refused(fields: Value, param: &str) {
    let refused = ChatRequest::parse(&chat_body(fields.clone())).map(|_| ());
    assert_refused(
        refused,
        ErrorCode::InvalidRequest,
        Some(param),
        &fields.to_string(),
    );
}

fn weather(name: &str) -> Value {
    json!({"type": "function", "function": {"name": name, "parameters": {"type": "object"}}})
}

fn tools(fields: Value) -> Option<ToolUse> {
    let options = chat(fields).generate.options;
    options.tools.map(|tools| (*tools).clone())
}

#[test]
fn each_form_of_constraint_knows_its_field() {
    let schema = json!({"type": "object", "properties": {"b": {}, "a": {}}});
    let json = || Grammar::JsonSchema(schema.to_string());
    let any = || Grammar::JsonSchema(r#"{"type":"object"}"#.to_owned());
    let format = json!({"type": "json_schema", "json_schema": {"name": "n", "schema": schema, "strict": true}});
    let texts = || vec!["a".to_owned(), "b".to_owned()];
    let table = [
        (
            json!({"response_format": {"type": "json_object"}}),
            "response_format",
            any(),
        ),
        (
            json!({"response_format": format}),
            "response_format.json_schema.schema",
            json(),
        ),
        (json!({"guided_json": schema}), "guided_json", json()),
        (
            json!({"guided_json": schema.to_string()}),
            "guided_json",
            json(),
        ),
        (
            json!({"guided_regex": "a+"}),
            "guided_regex",
            Grammar::Regex("a+".to_owned()),
        ),
        (
            json!({"guided_choice": ["a", "b"]}),
            "guided_choice",
            Grammar::Choice(texts()),
        ),
        (
            json!({"guided_grammar": "start: A"}),
            "guided_grammar",
            Grammar::Lark("start: A".to_owned()),
        ),
        (
            json!({"structured_outputs": {"json": schema}}),
            "structured_outputs.json",
            json(),
        ),
        (
            json!({"structured_outputs": {"regex": "a"}}),
            "structured_outputs.regex",
            Grammar::Regex("a".to_owned()),
        ),
        (
            json!({"structured_outputs": {"choice": ["a", "b"]}}),
            "structured_outputs.choice",
            Grammar::Choice(texts()),
        ),
        (
            json!({"structured_outputs": {"grammar": "g"}}),
            "structured_outputs.grammar",
            Grammar::Lark("g".to_owned()),
        ),
        (
            json!({"structured_outputs": {"json_object": true}}),
            "structured_outputs.json_object",
            any(),
        ),
    ];
    for (fields, param, grammar) in table {
        let param = param.to_owned();
        assert_eq!(constraint(fields), Some(Constraint { param, grammar }));
    }
    for nothing in [
        json!({"response_format": {"type": "text"}}),
        json!({"guided_json": null, "guided_regex": "", "guided_choice": []}),
        json!({"structured_outputs": {}}),
    ] {
        assert_eq!(constraint(nothing), None);
    }
}

#[test]
fn constraints_that_say_too_little_or_too_much_are_refused() {
    refused(
        json!({"response_format": {"type": "xml"}}),
        "response_format.type",
    );
    refused(json!({"response_format": {}}), "response_format.type");
    let empty = json!({"type": "json_schema", "json_schema": {"name": "n"}});
    refused(
        json!({"response_format": empty}),
        "response_format.json_schema.schema",
    );
    refused(json!({"guided_choice": ["a", ""]}), "guided_choice[1]");
    refused(json!({"guided_choice": "a"}), "guided_choice");
    refused(
        json!({"guided_regex": "a", "guided_choice": ["a"]}),
        "guided_choice",
    );
    refused(
        json!({"structured_outputs": {"regex": "a", "grammar": "b"}}),
        "structured_outputs.grammar",
    );
    refused(
        json!({"guided_regex": "a", "ignore_eos": true}),
        "ignore_eos",
    );
    refused(
        json!({"guided_regex": "a", "min_tokens": 2, "max_tokens": 9}),
        "min_tokens",
    );
    refused(
        json!({"guided_regex": "a", "allowed_token_ids": [1]}),
        "allowed_token_ids",
    );
}

#[test]
fn rules_for_tokens_are_read() {
    let options = chat(json!({
        "logit_bias": {"7": -100, "3": 2.5}, "allowed_token_ids": [1, 2], "bad_words": ["no"],
    }));
    let options = options.generate.options;
    assert_eq!(options.logit_bias, [(3, 2.5), (7, -100.0)]);
    assert_eq!(options.allowed_token_ids, [1, 2]);
    assert_eq!(options.bad_words, ["no"]);
    refused(json!({"logit_bias": {"7": 101}}), "logit_bias");
    let wrong = ChatRequest::parse(&chat_body(json!({"logit_bias": {"x": 1}})));
    assert!(wrong.is_err());
}

#[test]
fn the_choice_of_tools_decides_what_may_and_must_be_called() {
    let both = json!([weather("f"), weather("g")]);
    let asked = |choice: Value, parallel: Value| {
        let asked =
            tools(json!({"tools": both, "tool_choice": choice, "parallel_tool_calls": parallel}));
        asked.map(|it| (it.functions.len(), it.is_forced, it.is_parallel))
    };
    assert_eq!(asked(json!(null), json!(null)), Some((2, false, true)));
    assert_eq!(asked(json!("auto"), json!(false)), Some((2, false, false)));
    assert_eq!(asked(json!("required"), json!(true)), Some((2, true, true)));
    assert_eq!(asked(json!("none"), json!(null)), None);
    let named = json!({"type": "function", "function": {"name": "g"}});
    assert_eq!(asked(named, json!(null)), Some((1, true, false)));
    let bare = tools(json!({"tools": [{"type": "function", "function": {"name": "f"}}]})).unwrap();
    let parameters = json!({"type": "object", "properties": {}});
    assert_eq!(
        bare.functions,
        [Function {
            name: "f".to_owned(),
            parameters
        }]
    );
}

#[test]
fn tools_that_cannot_be_are_refused() {
    let with = |tool: Value| json!({"tools": [weather("f"), tool]});
    refused(with(json!({"type": "retrieval"})), "tools[1].type");
    refused(with(json!({"type": "function"})), "tools[1].function.name");
    refused(with(weather("no spaces")), "tools[1].function.name");
    let parameters = json!({"type": "function", "function": {"name": "g", "parameters": []}});
    refused(with(parameters), "tools[1].function.parameters");
    refused(json!({"tool_choice": "required"}), "tool_choice");
    refused(
        json!({"tools": [weather("f")], "tool_choice": "always"}),
        "tool_choice",
    );
    let named = json!({"type": "function", "function": {"name": "g"}});
    refused(
        json!({"tools": [weather("f")], "tool_choice": named}),
        "tool_choice.function.name",
    );
    refused(
        json!({"tools": [weather("f")], "tool_choice": "required", "ignore_eos": true}),
        "ignore_eos",
    );
}
