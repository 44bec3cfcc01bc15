use std::sync::Arc;

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn tools(is_parallel: bool) -> Arc<ToolUse> {
    let function = |name: &str| Function {
        name: name.to_owned(),
        parameters: json!({"type": "object"}),
    };
    Arc::new(ToolUse {
        functions: vec![function("f"), function("g")],
        is_forced: false,
        is_parallel,
    })
}

fn call(name: &str) -> Part {
    Part::Call(name.to_owned())
}

fn arguments(text: &str) -> Part {
    Part::Arguments(text.to_owned())
}

fn said(text: &str) -> Part {
    Part::Text(text.to_owned())
}

/// What is read of `text` that comes in pieces of `step` characters.
fn read(format: ToolFormat, parallel: bool, text: &str, step: usize) -> Vec<Part> {
    let mut scanner = Scanner::new(tools(parallel), format);
    let chars: Vec<char> = text.chars().collect();
    let mut whole: Vec<Part> = Vec::new();
    let mut take = |parts: Vec<Part>| {
        for part in parts {
            match (whole.last_mut(), part) {
                (Some(Part::Text(last)), Part::Text(more)) => last.push_str(&more),
                (Some(Part::Arguments(last)), Part::Arguments(more)) => last.push_str(&more),
                (_, part) => whole.push(part),
            }
        }
    };
    for piece in chars.chunks(step) {
        let mut parts = Vec::new();
        scanner.push(&piece.iter().collect::<String>(), &mut parts);
        take(parts);
    }
    let mut parts = Vec::new();
    scanner.finish(&mut parts);
    take(parts);
    whole
}

#[track_caller]
fn check(format: ToolFormat, text: &str, expected: &[Part]) {
    for step in [1, 2, 3, 7, 1000] {
        assert_eq!(read(format, true, text, step), expected, "{text} by {step}");
    }
}

#[test]
fn hermes_calls_stand_in_tags_beside_text() {
    use ToolFormat::Hermes;
    check(
        Hermes,
        "I look.\n<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": [1, \"}\"]}}\n</tool_call>\n<tool_call>{\"name\":\"g\",\"arguments\":{}}</tool_call>",
        &[
            said("I look.\n"),
            call("f"),
            arguments("{\"a\": [1, \"}\"]}"),
            call("g"),
            arguments("{}"),
        ],
    );
    check(
        Hermes,
        "<tool_call>{\"arguments\": {\"a\": \"\\\"\"}, \"name\": \"f\"}</tool_call> and more",
        &[call("f"), arguments("{\"a\": \"\\\"\"}"), said(" and more")],
    );
    check(Hermes, "a < b <tool", &[said("a < b <tool")]);
    check(Hermes, "<tool_call>no", &[said("<tool_call>no")]);
    check(Hermes, "{\"name\": \"f\"}", &[said("{\"name\": \"f\"}")]);
}

#[test]
fn llama_calls_are_the_whole_answer() {
    use ToolFormat::Llama3;
    check(
        Llama3,
        "{\"name\": \"f\", \"parameters\": {\"a\": 1}}; {\"type\": \"function\", \"name\": \"g\", \"parameters\": {}}",
        &[
            call("f"),
            arguments("{\"a\": 1}"),
            call("g"),
            arguments("{}"),
        ],
    );
    check(
        Llama3,
        "{\"name\": \"unknown\"}",
        &[said("{\"name\": \"unknown\"}")],
    );
    check(Llama3, " {\"answer\": 3}", &[said(" {\"answer\": 3}")]);
    check(
        Llama3,
        "Well, {\"name\": \"f\"}",
        &[said("Well, {\"name\": \"f\"}")],
    );
    check(Llama3, "{\"name\": \"f\"}", &[call("f"), arguments("{}")]);
}

#[test]
fn lists_of_calls_follow_a_marker_or_nothing() {
    let list = "[{\"name\": \"f\", \"arguments\": {\"a\": {}}}, {\"name\": \"g\", \"arguments\": \"{\\\"b\\\": 2}\"}]";
    let expected = [
        call("f"),
        arguments("{\"a\": {}}"),
        call("g"),
        arguments("{\"b\": 2}"),
    ];
    check(ToolFormat::Json, list, &expected);
    check(
        ToolFormat::Mistral,
        &format!("[TOOL_CALLS] {list}"),
        &expected,
    );
    check(
        ToolFormat::Granite,
        &format!("<|tool_call|>{list}"),
        &expected,
    );
    check(ToolFormat::Json, "[1, 2]", &[said("[1, 2]")]);
    check(ToolFormat::Mistral, list, &[said(list)]);
}

#[test]
fn plain_names_follow_a_marker_each() {
    use ToolFormat::MistralArgs;
    check(
        MistralArgs,
        "Well. [TOOL_CALLS]f[ARGS]{\"a\": {\"b\": \"}\"}}[TOOL_CALLS]g[CALL_ID]a1b2[ARGS] {}\n[TOOL_CALLS]h{\"x\": 1} ",
        &[
            said("Well. "),
            call("f"),
            arguments("{\"a\": {\"b\": \"}\"}}"),
            call("g"),
            arguments("{}"),
            call("h"),
            arguments("{\"x\": 1}"),
        ],
    );
    check(
        MistralArgs,
        "[TOOL_CALLS] [{\"name\": \"f\", \"arguments\": {}}]",
        &[call("f"), arguments("{}")],
    );
    check(
        MistralArgs,
        "[TOOL_CALLS]f[ARGS]{} and more",
        &[call("f"), arguments("{}"), said(" and more")],
    );
    let names_nothing = "[TOOL_CALLS] are what I make: {\"a\": 1}";
    check(MistralArgs, names_nothing, &[said(names_nothing)]);
    check(MistralArgs, "[TOOL_CALLS]f[AR", &[said("[TOOL_CALLS]f[AR")]);
    let two = "[TOOL_CALLS]f[ARGS]{}[TOOL_CALLS]g[ARGS]{}";
    let read = read(MistralArgs, false, two, 4);
    assert_eq!(read, [call("f"), arguments("{}")]);
}

#[test]
fn a_call_cut_off_keeps_what_came() {
    let cut = "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": \"x";
    check(
        ToolFormat::Hermes,
        cut,
        &[call("f"), arguments("{\"a\": \"x")],
    );
    let unnamed = "{\"arguments\": {\"a\": 1}";
    check(ToolFormat::Llama3, unnamed, &[said(unnamed)]);
}

#[test]
fn only_one_call_is_read_where_more_are_not_wanted() {
    let two = "<tool_call>{\"name\":\"f\",\"arguments\":{}}</tool_call><tool_call>{\"name\":\"g\",\"arguments\":{}}</tool_call>";
    let read = read(ToolFormat::Hermes, false, two, 4);
    assert_eq!(read, [call("f"), arguments("{}")]);
}

#[test]
fn formats_are_known_by_their_templates() {
    let table = [
        ("{{ '<tool_call>' }}", ToolFormat::Hermes),
        ("[AVAILABLE_TOOLS] [TOOL_CALLS]", ToolFormat::Mistral),
        ("'[TOOL_CALLS]' + name + '[ARGS]'", ToolFormat::MistralArgs),
        ("<|tool_call|>", ToolFormat::Granite),
        ("Environment: ipython\n", ToolFormat::Llama3),
        ("{{ messages }}", ToolFormat::Json),
    ];
    for (template, format) in table {
        assert_eq!(ToolFormat::of_template(template), format, "{template}");
    }
}

#[test]
fn a_forced_call_has_special_markers_as_tokens() {
    let forced = ToolUse {
        is_forced: true,
        ..(*tools(false)).clone()
    };
    let special = |text: &str| (text == "[TOOL_CALLS]").then_some(5);
    let constraint = forced.constraint(ToolFormat::Mistral, special).unwrap();
    let Grammar::Calls(calls) = constraint.grammar else {
        panic!("{constraint:?}");
    };
    assert_eq!(calls.begin, [Piece::Token(5), Piece::Text(" [".to_owned())]);
    assert_eq!(calls.max_calls, 1);
    assert_eq!(
        calls.functions[1],
        ("g".to_owned(), "{\"type\":\"object\"}".to_owned())
    );
    assert_eq!(tools(true).constraint(ToolFormat::Mistral, special), None);
    let plain = forced.constraint(ToolFormat::MistralArgs, special).unwrap();
    let Grammar::Calls(calls) = plain.grammar else {
        panic!("these are calls");
    };
    assert!(calls.plain_names && calls.begin.is_empty());
    assert_eq!(calls.open, [Piece::Token(5)]);
    assert_eq!(calls.middle, [Piece::Text("[ARGS]".to_owned())]);
}

proptest! {
    #[test]
    fn pieces_do_not_change_what_is_read(
        parts in prop::collection::vec(prop::sample::select(vec![
            "<tool_call>", "</tool_call>", "[TOOL_CALLS]", "f[ARGS]", "{", "}", "\"", "name", "\"name\": \"f\"", ", ", "\n", "\"arguments\": {\"a\": 1}",
            "[", "]", "é", "{\"name\": \"g\", \"arguments\": {}}", "\\",
        ]), 0..12),
        step in 1..9usize,
        format in prop::sample::select(vec![
            ToolFormat::Hermes, ToolFormat::Llama3, ToolFormat::Json, ToolFormat::MistralArgs,
        ]),
    ) {
        let text = parts.concat();
        prop_assert_eq!(read(format, true, &text, step), read(format, true, &text, 1000));
    }
}
