use proptest::prelude::*;

use super::*;
use crate::tokenize::fixture;

fn added(content: &str) -> AddedToken {
    AddedToken::from(content, true)
}

fn cuts(tokens: &[AddedToken]) -> Vec<String> {
    let mut contents: Vec<String> = Cuts::new(tokens).contents.into_iter().collect();
    contents.sort();
    contents
}

#[test]
fn text_is_cut_before_special_tokens_in_pieces_of_some_length() {
    let cuts = Cuts::new(&[added("<|a|>"), added("<|b|>")]);
    let long = "x".repeat(MIN_PIECE_BYTES);
    let text = format!("<|a|>one<|b|>{long}<|a|>é{long}<|b|>end");
    let pieces = cuts.pieces(&text);
    assert_eq!(pieces.concat(), text);
    assert_eq!(pieces.len(), 3);
    assert!(pieces[1].starts_with("<|a|>é") && pieces[2] == "<|b|>end");
}

#[test]
fn only_safe_tokens_are_cut_before() {
    let check =
        |tokens: &[AddedToken], expected: &[&str]| assert_eq!(cuts(tokens), expected, "{tokens:?}");
    check(&[added("<s>"), added("</s>")], &["</s>", "<s>"]);
    check(&[added("<s>").normalized(true)], &[]);
    check(&[added("<s>").lstrip(true)], &[]);
    check(&[added("<s>").single_word(true)], &[]);
    check(&[added("<s>").rstrip(true)], &["<s>"]);
    check(&[AddedToken::from("<s>", false).normalized(false)], &[]);
    check(&[added("word")], &[]);
    check(&[added(" <s>")], &[]);
    check(&[added("<s>"), added("x<s>y")], &[]);
    check(&[added("<s>"), added("[x]")], &["<s>", "[x]"]);
}

#[test]
fn models_do_not_share_cached_tokens() {
    let cache = PieceCache::new(1 << 20);
    let byte_level = fixture::byte_level();
    let sentencepiece = fixture::sentencepiece();
    let first = byte_level.encoder().encode_text("hello", &cache).unwrap();
    let second = sentencepiece
        .encoder()
        .encode_text("hello", &cache)
        .unwrap();
    assert_ne!(first, second);
    assert_eq!(cache.stats().hits, 0);
}

proptest! {
    #[test]
    fn cut_and_cached_text_encodes_as_the_whole(
        parts in prop::collection::vec(
            prop_oneof![
                Just("<|im_start|>".to_owned()),
                Just("<|im_end|>".to_owned()),
                Just("<|im_".to_owned()),
                "[ a-z\n<|>é]{0,80}",
                "hello world user ".prop_map(|text| text.repeat(6)),
            ],
            0..12,
        ),
    ) {
        let model = fixture::byte_level();
        let cache = PieceCache::new(1 << 20);
        let text = parts.concat();
        let whole = model.vocabulary().tokenizer.encode(text.as_str(), false).unwrap();
        for _ in 0..2 {
            let tokens = model.encoder().encode_rendered(&text, &cache).unwrap();
            prop_assert_eq!(&tokens[..], whole.get_ids());
        }
    }
}

/// The same with published tokenizers, where the shared data is there.
#[test]
fn published_tokenizers_encode_cut_text_as_the_whole() {
    let Some(shared) = std::env::var_os("KVASIR_SHARED_DATA") else {
        return;
    };
    let models = std::path::PathBuf::from(shared).join("models");
    let inputs = std::fs::read(models.join("tokenizer-golden/inputs.json")).unwrap();
    let inputs: serde_json::Value = serde_json::from_slice(&inputs).unwrap();
    let turns: Vec<&str> = inputs["inputs"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|input| input["text"].as_str())
        .collect();
    for (folder, open, close) in [
        ("qwen3", "<|im_start|>user\n", "<|im_end|>\n"),
        ("phi-3-mini", "<|user|>\n", "<|end|>\n"),
        ("tinyllama-1.1b", "<|user|>\n", "</s>\n"),
        ("gpt2", "user: ", "<|endoftext|> \n"),
    ] {
        let json = std::fs::read(models.join(folder).join("tokenizer.json")).unwrap();
        let tokenizer = Arc::new(Tokenizer::from_bytes(&json).unwrap());
        let encoder = Encoder::new(Arc::clone(&tokenizer), &json);
        let cache = PieceCache::new(1 << 20);
        let mut text = String::new();
        for turn in turns.iter().cycle().take(60) {
            text.push_str(&format!("{open}{turn}{close}"));
            let whole = tokenizer.encode(text.as_str(), false).unwrap();
            assert_eq!(
                encoder.encode_rendered(&text, &cache).unwrap(),
                whole.get_ids(),
                "{folder}"
            );
        }
        encoder.speed_up(&json);
        assert!(encoder.fast.get().is_some_and(Option::is_some), "{folder}");
        let cold = PieceCache::new(1 << 20);
        let fast = encoder.encode_rendered(&text, &cold).unwrap();
        assert_eq!(
            fast,
            encoder.encode_rendered(&text, &cache).unwrap(),
            "{folder}"
        );
    }
}

#[test]
fn the_fast_way_gives_the_same_tokens() {
    let json = fixture::byte_level_json().to_string().into_bytes();
    let tokenizer = Arc::new(Tokenizer::from_bytes(&json).unwrap());
    let encoder = Encoder::new(tokenizer, &json);
    let text = "<|im_start|>user\nhello world<|im_end|>\n".repeat(20);
    let encode = || encoder.encode_rendered(&text, &PieceCache::new(1 << 20));
    let before = encode().unwrap();
    encoder.speed_up(&json);
    assert!(encoder.fast.get().is_some_and(Option::is_some));
    assert_eq!(encode().unwrap(), before);
}
