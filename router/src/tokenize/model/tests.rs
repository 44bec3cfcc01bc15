use serde_json::json;

use super::*;
use crate::tokenize::fixture;

fn eos_with(name: &str, config: Value) -> Vec<u32> {
    let mut card = fixture::byte_level_card();
    card.files.remove("generation_config.json");
    card.files
        .insert(name.to_owned(), config.to_string().into_bytes());
    Model::new(card).unwrap().eos().to_vec()
}

#[test]
fn eos_comes_from_the_most_specific_file() {
    let model = fixture::byte_level();
    assert_eq!(model.eos(), [0, 1], "generation_config.json");
    assert_eq!(eos_with("config.json", json!({"eos_token_id": 0})), [0]);
    assert_eq!(
        eos_with("config.json", json!({"eos_token_id": null})),
        [1],
        "tokenizer_config.json"
    );
    assert_eq!(
        fixture::sentencepiece().eos(),
        [2],
        "a token written as an object"
    );
}

#[test]
fn template_file_wins_over_the_config() {
    let mut card = fixture::byte_level_card();
    card.files
        .insert("chat_template.jinja".to_owned(), b"{% if %}".to_vec());
    let error = Model::new(card).unwrap_err();
    assert!(error.contains("does not compile"), "{error}");
}

#[test]
fn templates_may_be_a_list_by_name() {
    let list = json!([{"name": "default", "template": "a"}, {"name": "tool_use", "template": "b"}]);
    let names: Vec<String> = template_sources(&list)
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    assert_eq!(names, ["default", "tool_use"]);
}

#[test]
fn unusable_files_are_named() {
    let check = |name: &str, content: Option<&str>, words: &str| {
        let mut card = fixture::byte_level_card();
        match content {
            Some(content) => card.files.insert(name.to_owned(), content.into()),
            None => card.files.remove(name),
        };
        let error = Model::new(card).unwrap_err();
        assert!(error.contains(words), "{error}");
    };
    check("tokenizer.json", None, "there is no tokenizer.json");
    check("tokenizer.json", Some("{}"), "tokenizer.json");
    check(
        "generation_config.json",
        Some("[]x"),
        "generation_config.json",
    );
    check(
        "generation_config.json",
        Some(r#"{"eos_token_id": "x"}"#),
        "generation_config.json",
    );
    check("tokenizer_config.json", Some("{"), "tokenizer_config.json");
}

#[test]
fn token_bytes_are_exact() {
    let model = fixture::byte_level();
    assert_eq!(model.token_bytes(fixture::bytes("é")[0]), [0xc3]);
    assert_eq!(model.token_bytes(fixture::EOS), b"<|im_end|>");
    assert_eq!(model.token_bytes(u32::MAX), b"");
    let model = fixture::sentencepiece();
    assert_eq!(model.token_bytes(3 + 0xc3), [0xc3]);
    let hello = model
        .encoder()
        .encode_text("hello", &crate::tokenize::PieceCache::new(0))
        .unwrap();
    assert_eq!(model.token_bytes(hello[1]), b" hello");
}
