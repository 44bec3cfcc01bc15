mod schemas;

use engine::{History, SamplingParams, TokenRules, constraint, sample_within};
use proto::worker::constraint::Grammar as Wire;
use runtime::MetricsPage;
use serde_json::json;

use super::*;
use crate::metrics::Metrics;

/// Of the demo model's tokenizer.
const VOCAB_SIZE: usize = 1536;
const EOS: u32 = 1;

fn structured() -> Structured {
    structured_on(&MetricsPage::new())
}

fn structured_on(page: &MetricsPage) -> Structured {
    let files = models::demo().tokenizer_files().unwrap().into_iter();
    let files: Vec<(String, Bytes)> = files.map(|(name, it)| (name.to_owned(), it)).collect();
    let metrics = Metrics::new(page, "demo", false);
    Structured::new(&files, &[EOS], metrics.grammars().clone())
}

fn wire(grammar: Wire) -> pb::Constraint {
    pb::Constraint {
        grammar: Some(grammar),
    }
}

fn schema(schema: serde_json::Value) -> pb::Constraint {
    wire(Wire::JsonSchema(schema.to_string()))
}

fn choice(texts: &[&str]) -> pb::Constraint {
    let texts = texts.iter().map(|text| (*text).to_owned()).collect();
    wire(Wire::Choice(pb::Choice { texts }))
}

fn text_piece(text: &str) -> Vec<pb::Piece> {
    let piece = pb::piece::Piece::Text(text.to_owned());
    vec![pb::Piece { piece: Some(piece) }]
}

fn calls(tools: &[(&str, serde_json::Value)], max_calls: u32) -> pb::Constraint {
    let tool = |(name, parameters): &(&str, serde_json::Value)| pb::Tool {
        name: (*name).to_owned(),
        parameters: parameters.to_string(),
    };
    wire(Wire::ToolCalls(pb::ToolCalls {
        tools: tools.iter().map(tool).collect(),
        begin: vec![],
        open: text_piece("<call>{\"name\": "),
        middle: text_piece(", \"arguments\": "),
        close: text_piece("}</call>"),
        separator: text_piece("\n"),
        end: vec![],
        max_calls,
        plain_names: false,
    }))
}

async fn refusal(wanted: pb::Constraint) -> Failure {
    let compiled = structured().constraint(wanted, Vec::new()).await;
    compiled.expect_err("it should be refused")
}

fn sampling(seed: u64) -> SamplingParams {
    SamplingParams {
        temperature: 1.0,
        top_p: 1.0,
        top_k: 0,
        min_p: 0.0,
        seed,
        repetition_penalty: 1.0,
        presence_penalty: 0.0,
        frequency_penalty: 0.0,
        ignore_eos: false,
        tokens: TokenRules::default(),
        stop_token_ids: Vec::new(),
        logprobs: None,
        prompt_logprobs: None,
        max_tokens: 8000,
        min_tokens: 0,
    }
}

/// What a model says whose weights are random: logits of any token are.
fn draw(constraint: &dyn Constraint, seed: u64, generated: &[u32]) -> u32 {
    let sampling = sampling(seed);
    let ends = constraint::Ends {
        eos: &[EOS],
        sampling: &sampling,
    };
    let mut mask = TokenMask::none(VOCAB_SIZE);
    constraint::constrain(constraint, generated, &ends, &mut mask).unwrap();
    let mix = |token: u64| {
        let mixed =
            (seed ^ generated.len() as u64 ^ (token << 20)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed >> 40) as f32 / (1u64 << 24) as f32 * 3.0
    };
    let mut logits: Vec<f32> = (0..VOCAB_SIZE as u64).map(mix).collect();
    let history = History {
        prompt: &[],
        generated,
    };
    sample_within(&mut logits, &history, &sampling, &mask).token
}

/// A whole answer, without the token that ends it.
fn answer(constraint: &dyn Constraint, seed: u64) -> Vec<u32> {
    let mut generated = Vec::new();
    for _ in 0..sampling(seed).max_tokens {
        match draw(constraint, seed, &generated) {
            EOS => return generated,
            token => generated.push(token),
        }
    }
    let said = text(&generated);
    panic!(
        "no end of {} ... in {} tokens",
        said.chars().take(300).collect::<String>(),
        generated.len()
    );
}

fn text(tokens: &[u32]) -> String {
    let files = models::demo().tokenizer_files().unwrap();
    let (_, json) = files.iter().find(|it| it.0 == "tokenizer.json").unwrap();
    let json: serde_json::Value = serde_json::from_slice(json).unwrap();
    let bytes = llguidance::token_bytes_from_tokenizer_json(&json).unwrap();
    let said = tokens
        .iter()
        .flat_map(|token| bytes[*token as usize].clone());
    String::from_utf8(said.collect()).unwrap()
}

async fn text_of(wanted: pb::Constraint, seed: u64) -> String {
    let constraint = structured().constraint(wanted, Vec::new()).await.unwrap();
    text(&answer(&*constraint, seed))
}

#[tokio::test]
async fn every_form_is_followed() {
    for seed in 0..5 {
        let number = text_of(wire(Wire::Regex("[0-9]{3}-[a-f]+".into())), seed).await;
        let (digits, letters) = number.split_once('-').unwrap();
        assert!(
            digits.len() == 3 && digits.parse::<u32>().is_ok(),
            "{number}"
        );
        assert!(letters.chars().all(|it| ('a'..='f').contains(&it)) && !letters.is_empty());
        let chosen = text_of(choice(&["yes", "no\n\"maybe\""]), seed).await;
        assert!(
            ["yes", "no\n\"maybe\""].contains(&chosen.as_str()),
            "{chosen}"
        );
        let lark = "start: \"<\" WORD \">\"\nWORD: /[a-z]{2,5}/";
        let word = text_of(wire(Wire::Lark(lark.into())), seed).await;
        assert!(word.starts_with('<') && word.ends_with('>') && (4..=7).contains(&word.len()));
        let object = text_of(schema(json!({"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"], "additionalProperties": false})), seed).await;
        let object: serde_json::Value = serde_json::from_str(&object).unwrap();
        assert!(object["a"].is_boolean());
    }
}

#[tokio::test]
async fn varied_schemas_always_give_what_is_valid() {
    let structured = structured();
    for number in 0..200 {
        let wanted = schemas::varied(number);
        let constraint = structured
            .constraint(schema(wanted.clone()), Vec::new())
            .await;
        let constraint = constraint.unwrap_or_else(|why| panic!("{wanted}: {why}"));
        let said = text(&answer(&*constraint, number));
        let value: serde_json::Value = serde_json::from_str(&said)
            .unwrap_or_else(|error| panic!("{wanted}: {error} in {said}"));
        let validator = jsonschema::options()
            .should_validate_formats(true)
            .build(&wanted)
            .unwrap();
        if let Err(error) = validator.validate(&value) {
            panic!("{wanted} gave {said}: {error}");
        }
    }
}

#[tokio::test]
async fn forced_calls_name_a_tool_and_obey_its_parameters() {
    let place = json!({
        "type": "object", "properties": {"place": {"$ref": "#/$defs/place"}}, "required": ["place"],
        "additionalProperties": false, "$defs": {"place": {"enum": ["Oslo", "Bergen"]}},
    });
    let tools = [
        ("weather", place.clone()),
        (
            "now",
            json!({"type": "object", "additionalProperties": false}),
        ),
    ];
    for seed in 0..30 {
        let said = text_of(calls(&tools, 3), seed).await;
        let said = said
            .strip_prefix("<call>")
            .and_then(|it| it.strip_suffix("</call>"));
        let calls: Vec<&str> = said.unwrap().split("</call>\n<call>").collect();
        assert!((1..=3).contains(&calls.len()), "{calls:?}");
        for call in calls {
            let call: serde_json::Value = serde_json::from_str(call).unwrap();
            match call["name"].as_str() {
                Some("weather") => assert!(jsonschema::is_valid(&place, &call["arguments"])),
                name => assert_eq!((name, &call["arguments"]), (Some("now"), &json!({}))),
            }
        }
    }
}

#[tokio::test]
async fn names_stand_plainly_where_the_format_wants_it() {
    let tools = [(
        "now",
        json!({"type": "object", "additionalProperties": false}),
    )];
    let Some(Wire::ToolCalls(quoted)) = calls(&tools, 1).grammar else {
        panic!("these are tool calls");
    };
    let plain = pb::ToolCalls {
        open: text_piece("[TOOL_CALLS]"),
        middle: text_piece("[ARGS]"),
        close: vec![],
        plain_names: true,
        ..quoted
    };
    let said = text_of(wire(Wire::ToolCalls(plain)), 1).await;
    let arguments = said.strip_prefix("[TOOL_CALLS]now[ARGS]").unwrap();
    assert_eq!(
        serde_json::from_str::<serde_json::Value>(arguments).unwrap(),
        json!({})
    );
}

#[tokio::test]
async fn what_is_wrong_is_refused_with_its_place() {
    let within = |part: serde_json::Value| json!({"type": "object", "properties": {"ok": {"type": "null"}, "a/b": {"type": "array", "items": part}}});
    let table = [
        (
            schema(within(json!({"not": {"type": "string"}}))),
            "at #/properties/a~1b/items: the keywords [\"not\"] are not supported",
        ),
        (
            schema(within(json!({"type": "string", "pattern": "(["}))),
            "at #/properties/a~1b/items: ",
        ),
        (
            schema(within(json!({"type": "strange"}))),
            "at #/properties/a~1b/items: ",
        ),
        (
            schema(within(json!({"$ref": "#/$defs/none"}))),
            "at #/properties/a~1b/items: ",
        ),
        (
            schema(json!({"type": "integer", "minimum": 5, "maximum": 4})),
            "nsatisfiable",
        ),
        (
            schema(json!({"oneOf": [{"type": "integer"}, {"type": "number"}]})),
            "can't be told apart; use anyOf",
        ),
        (schema(json!([1])), "must be an object"),
        (
            wire(Wire::JsonSchema("{\"type\": ".into())),
            "not valid JSON: EOF while parsing a value at line 1 column 9",
        ),
        (wire(Wire::Regex("a(b".into())), "unclosed group"),
        (wire(Wire::Lark("start: a".into())), "a"),
        (wire(Wire::Lark("start \"a\"".into())), "1(7)"),
        (choice(&[]), "nothing to choose from"),
        (wire(Wire::Regex("a".repeat(600_000))), "make it smaller"),
        (calls(&[], 1), "no tool"),
        (
            calls(&[("ok", json!({})), ("bad", within(json!({"not": {}})))], 1),
            "parameters of 'bad': at #/properties/a~1b/items: the keywords",
        ),
    ];
    for (wanted, place) in table {
        let failure = refusal(wanted).await;
        assert_eq!(failure.code, ErrorCode::InvalidConstraint, "{failure}");
        assert!(failure.message.contains(place), "{failure} lacks {place}");
    }
}

#[tokio::test]
async fn a_grammar_no_token_can_begin_is_refused() {
    let failure = refusal(wire(Wire::Regex("[^\\s\\S]".into()))).await;
    assert_eq!(failure.code, ErrorCode::InvalidConstraint, "{failure}");
}

#[tokio::test]
async fn a_model_without_tokenizer_says_that_it_cannot() {
    let metrics = Metrics::new(&MetricsPage::new(), "sim", false);
    let structured = Structured::new(&[], &[EOS], metrics.grammars().clone());
    let refused = structured.constraint(choice(&["a"]), Vec::new()).await;
    let failure = refused.expect_err("there is no vocabulary");
    assert_eq!(failure.code, ErrorCode::Unsupported);
    assert!(failure.message.contains("tokenizer.json"), "{failure}");
}

#[tokio::test]
async fn the_way_on_depends_on_the_tokens_before_and_nothing_else() {
    let wanted = || schema(schemas::varied(17));
    let whole = structured().constraint(wanted(), Vec::new()).await.unwrap();
    let said = answer(&*whole, 3);
    let mask = |constraint: &dyn Constraint, generated: &[u32]| {
        let mut mask = TokenMask::none(VOCAB_SIZE);
        let may_end = constraint.allow(generated, &mut mask).unwrap();
        (may_end, mask)
    };
    for split in [0, said.len() / 3, said.len() - 1, said.len()] {
        let resumed = said[..split].to_vec();
        let resumed = structured().constraint(wanted(), resumed).await.unwrap();
        for generated in [&said[..split], &said[..split / 2], &said[..]] {
            assert_eq!(
                mask(&*resumed, generated),
                mask(&*whole, generated),
                "{split}"
            );
        }
    }
}

#[tokio::test]
async fn resumed_tokens_that_do_not_obey_are_refused() {
    let wanted = choice(&["yes"]);
    let refused = structured().constraint(wanted, vec![700]).await;
    assert_eq!(
        refused.expect_err("it does not fit").code,
        ErrorCode::InvalidConstraint
    );
}

#[tokio::test]
async fn equal_grammars_are_compiled_once() {
    let structured = structured();
    for _ in 0..3 {
        structured
            .constraint(choice(&["a", "b"]), Vec::new())
            .await
            .unwrap();
        structured
            .constraint(choice(&["a", "c"]), Vec::new())
            .await
            .unwrap();
    }
    assert_eq!(structured.shared.compiled.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn compilations_hits_and_refusals_are_counted() {
    let page = MetricsPage::new();
    let structured = structured_on(&page);
    for texts in [&["a"], &["a"], &["b"], &["a"]] {
        let compiled = structured.constraint(choice(texts), Vec::new()).await;
        compiled.unwrap();
    }
    for malformed in ["(", "["] {
        let malformed = wire(Wire::Regex(malformed.into()));
        let refused = structured.constraint(malformed, Vec::new()).await;
        refused.unwrap_err();
    }
    let page = page.render();
    for line in [
        "kvasir_grammars_total{outcome=\"compiled\"} 2",
        "kvasir_grammars_total{outcome=\"kept\"} 2",
        "kvasir_grammars_total{outcome=\"refused\"} 2",
        "kvasir_grammar_compile_seconds_count 4",
    ] {
        assert!(page.contains(line), "{line} is not in {page}");
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_without_end_for_others_grammars() {
    let structured = structured();
    let permits = &structured.shared.permits;
    let _others = permits.acquire_many(COMPILING as u32).await.unwrap();
    let begun = tokio::time::Instant::now();
    let compiled = structured.constraint(choice(&["a"]), Vec::new()).await;
    let failure = compiled.expect_err("no permit is free");
    assert_eq!(failure.code, ErrorCode::WorkerBusy);
    assert_eq!(begun.elapsed(), TIME_LIMIT);
}
