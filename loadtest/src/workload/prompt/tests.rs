use proptest::prelude::*;
use serde_json::json;
use tokenizers::Tokenizer;

use super::*;

/// A word is a token; begins every text with a special token.
fn word_level() -> Tokenizer {
    let words = [
        "[start]", "[unk]", "alpha", "beta", "gamma", "delta", "omega", "one", "two",
    ];
    let words = words.iter().copied().chain(["three", "four", "five"]);
    let vocabulary: serde_json::Map<_, _> = words
        .enumerate()
        .map(|(id, word)| (word.to_owned(), json!(id)))
        .collect();
    tokenizer(json!({
        "added_tokens": [added(0, "[start]"), added(1, "[unk]")],
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [
                {"SpecialToken": {"id": "[start]", "type_id": 0}},
                {"Sequence": {"id": "A", "type_id": 0}},
            ],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}],
            "special_tokens": {
                "[start]": {"id": "[start]", "ids": [0], "tokens": ["[start]"]},
            },
        },
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "[unk]"},
    }))
}

/// Words of one letter, without pre-tokenizer: some merge with what follows.
fn merging() -> Tokenizer {
    let letters = ["a", "b", "c", "d", "e", "f", "g", "h", "i"];
    let mut tokens: Vec<String> = letters.iter().map(|it| (*it).to_owned()).collect();
    tokens.push(" ".to_owned());
    let mut merges = Vec::new();
    for letter in letters {
        tokens.push(format!(" {letter}"));
        merges.push(json!([" ", letter]));
    }
    for (first, second) in [("a", " b"), ("c", " d"), (" e", " f"), (" g", " a")] {
        tokens.push(format!("{first}{second}"));
        merges.push(json!([first, second]));
    }
    let vocabulary: serde_json::Map<_, _> = tokens
        .into_iter()
        .enumerate()
        .map(|(id, token)| (token, json!(id)))
        .collect();
    tokenizer(json!({
        "added_tokens": [],
        "pre_tokenizer": null,
        "post_processor": null,
        "model": {"type": "BPE", "vocab": vocabulary, "merges": merges},
    }))
}

fn added(id: u32, content: &str) -> serde_json::Value {
    json!({"id": id, "content": content, "single_word": false, "lstrip": false,
           "rstrip": false, "normalized": false, "special": true})
}

fn tokenizer(mut parts: serde_json::Value) -> Tokenizer {
    let missing = json!({"version": "1.0", "truncation": null, "padding": null,
                         "normalizer": null, "decoder": null});
    for (key, value) in missing.as_object().unwrap() {
        parts[key] = value.clone();
    }
    Tokenizer::from_bytes(parts.to_string()).unwrap()
}

fn encoded(tokenizer: Tokenizer) -> EncodedWords {
    EncodedWords::new(tokenizer).unwrap()
}

fn segment(seed: u64, tokens: u32) -> Segment {
    Segment { seed, tokens }
}

fn ids_of(maker: &mut PromptMaker, segments: &[Segment]) -> Vec<u32> {
    match maker.make(None, segments).0 {
        Prompt::Tokens(tokens) => tokens,
        other => panic!("{other:?}"),
    }
}

fn ids(range: std::ops::Range<u32>) -> PromptMaker {
    PromptMaker::new(Vocabulary::Ids(range.collect()), false)
}

#[test]
fn equal_segments_are_equal_tokens_and_shorter_ones_prefixes() {
    let mut maker = ids(300..1000);
    let whole = ids_of(&mut maker, &[segment(1, 512), segment(2, 512)]);
    let part = ids_of(&mut maker, &[segment(1, 512), segment(2, 100)]);
    let other = ids_of(&mut maker, &[segment(1, 512), segment(3, 100)]);
    assert_eq!(whole.len(), 1024);
    assert_eq!(whole[..612], part);
    assert_eq!(whole[..512], other[..512]);
    assert_ne!(whole[512..612], other[512..]);
    assert!(whole.iter().all(|id| (300..1000).contains(id)));
}

#[test]
fn special_ids_are_left_out() {
    assert_eq!(plain_ids(&word_level()), (2..12).collect::<Vec<_>>());
}

#[test]
fn special_tokens_take_the_place_of_words() {
    let tokenizer = word_level();
    let words = encoded(tokenizer.clone());
    let (text, tokens) = words.text(&[segment(1, 20)], true);
    assert_eq!(tokens, Some(20));
    assert_eq!(text.split(' ').count(), 19);
    assert_eq!(tokenizer.encode(text, true).unwrap().get_ids().len(), 20);
}

#[test]
fn what_cannot_be_exact_is_counted_and_told() {
    // The special token takes the only place, and a text must have a word.
    let vocabulary = Vocabulary::Encoded(encoded(word_level()));
    let mut maker = PromptMaker::new(vocabulary, false);
    assert_eq!(maker.make(None, &[segment(1, 1)]).1, Some(2));
    assert_eq!(maker.make(None, &[segment(1, 9)]).1, Some(9));
    let expected = "1 of 2 texts do not have the exact number of tokens asked for";
    assert_eq!(maker.caveats(), [expected]);
}

#[test]
fn without_tokenizer_lengths_are_said_to_be_estimates() {
    let mut maker = PromptMaker::new(Vocabulary::Words, false);
    let (prompt, tokens) = maker.make(Some(segment(1, 5)), &[segment(2, 7)]);
    let Prompt::Text(text) = prompt else {
        panic!("{prompt:?}");
    };
    assert_eq!((text.split(' ').count(), tokens), (12, None));
    assert!(maker.caveats()[0].contains("estimates"));
}

#[test]
fn chat_has_the_shared_part_as_system_message() {
    let vocabulary = Vocabulary::Encoded(encoded(word_level()));
    let mut maker = PromptMaker::new(vocabulary, true);
    let (prompt, _) = maker.make(Some(segment(1, 5)), &[segment(2, 7)]);
    let Prompt::Chat(messages) = prompt else {
        panic!("{prompt:?}");
    };
    let told: Vec<_> = messages
        .iter()
        .map(|it| (it.role, maker.count(&it.content, false)))
        .collect();
    assert_eq!(told, [("system", Some(5)), ("user", Some(7))]);
}

#[test]
fn tokenizer_without_whole_words_is_refused() {
    let poor = json!({
        "added_tokens": [],
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": null,
        "model": {"type": "WordLevel", "vocab": {"[unk]": 0, "one": 1}, "unk_token": "[unk]"},
    });
    let error = EncodedWords::new(tokenizer(poor)).err().unwrap();
    assert!(error.contains("--prompt-format tokens"), "{error}");
}

#[test]
fn real_tokenizers_give_exact_texts() {
    let Some(shared) = std::env::var_os("KVASIR_SHARED_DATA") else {
        println!("skipped: set KVASIR_SHARED_DATA to the folder that has models/");
        return;
    };
    let models = std::path::Path::new(&shared).join("models");
    for name in [
        "gpt2",
        "phi-3-mini",
        "qwen2.5",
        "tinyllama-1.1b",
        "stories260K",
    ] {
        let path = models.join(name).display().to_string();
        let words = encoded(load_tokenizer(&path).unwrap());
        for length in [2, 17, 512, 3000] {
            let segments = [segment(1, length / 2), segment(2, length - length / 2)];
            let (text, tokens) = words.text(&segments, true);
            assert_eq!(tokens, Some(length), "{name}");
            assert_eq!(words.count(&text, true), Some(length), "{name}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn texts_encode_to_the_exact_number_of_tokens(
        seed: u64,
        shared in 2u32..60,
        rest in 1u32..200,
        is_merging: bool,
        special: bool,
    ) {
        let tokenizer = if is_merging { merging() } else { word_level() };
        let words = encoded(tokenizer.clone());
        let segments = [segment(seed, shared), segment(seed ^ 1, rest)];
        let (text, told) = words.text(&segments, special);
        let encoding = tokenizer.encode(text.as_str(), special).unwrap();
        prop_assert_eq!(encoding.get_ids().len(), (shared + rest) as usize);
        prop_assert_eq!(told, Some(shared + rest));
    }
}
