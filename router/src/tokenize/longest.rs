//! How much text a token can stand for: a prompt that is sure to exceed its
//! model's context need not be encoded to be refused.

use serde::Deserialize;

use super::vocabulary::{Decoding, Vocabulary};

/// NFC shortens decomposed UTF-8 to a third at most (as a character takes up to
/// three times its bytes when decomposed, unicode.org/faq/normalization.html),
/// and characters that stand for another one by up to a third.
const NFC: usize = 5;

/// The part of tokenizer.json that may make text shorter.
#[derive(Deserialize)]
struct File {
    normalizer: Option<Normalizer>,
    pre_tokenizer: Option<PreTokenizer>,
    model: Model,
}

#[derive(Deserialize)]
#[serde(tag = "type")]
enum Normalizer {
    #[serde(rename = "NFC")]
    Nfc,
    Prepend,
    Replace {
        pattern: Pattern,
        content: String,
    },
    Sequence {
        normalizers: Vec<Normalizer>,
    },
    #[serde(other)]
    Unknown,
}

#[derive(Deserialize)]
enum Pattern {
    String(String),
    Regex(serde::de::IgnoredAny),
}

#[derive(Deserialize)]
#[serde(tag = "type")]
enum PreTokenizer {
    ByteLevel,
    Metaspace,
    Digits,
    Split {
        behavior: String,
    },
    Sequence {
        pretokenizers: Vec<PreTokenizer>,
    },
    #[serde(other)]
    Unknown,
}

#[derive(Deserialize)]
struct Model {
    #[serde(default)]
    byte_fallback: bool,
}

/// The most bytes of a prompt that one token can stand for, if there is such a
/// limit: no text is dropped, and every byte has a token, so that no unknown
/// token takes more.
pub(super) fn longest(vocabulary: &Vocabulary, tokenizer_json: &[u8]) -> Option<usize> {
    let file: File = serde_json::from_slice(tokenizer_json).ok()?;
    let whole_bytes = match vocabulary.decoding {
        Decoding::Bytes => true,
        Decoding::SentencePiece { .. } => file.model.byte_fallback,
        Decoding::Other => false,
    };
    let added = vocabulary.tokenizer.get_added_tokens_decoder();
    let takes_spaces = added.values().any(|token| token.lstrip || token.rstrip);
    let drops = file.pre_tokenizer.as_ref().is_some_and(drops_text);
    if !whole_bytes || takes_spaces || drops {
        return None;
    }
    let (mut has_byte, mut longest) = ([false; 256], 0);
    for id in 0..vocabulary.len() {
        let bytes = vocabulary.bytes(id);
        longest = longest.max(bytes.len());
        if let [byte] = bytes {
            has_byte[usize::from(*byte)] = true;
        }
    }
    let shrinks = file.normalizer.as_ref().map_or(Some(1), shrinks)?;
    has_byte.iter().all(|&has| has).then(|| longest * shrinks)
}

/// How many times shorter text may become at most; `None`: there is no limit.
fn shrinks(normalizer: &Normalizer) -> Option<usize> {
    match normalizer {
        Normalizer::Nfc => Some(NFC),
        Normalizer::Prepend => Some(1),
        Normalizer::Replace {
            pattern: Pattern::String(from),
            content,
        } => (content.len() >= from.len()).then_some(1),
        Normalizer::Sequence { normalizers } => normalizers.iter().map(shrinks).product(),
        Normalizer::Replace { .. } | Normalizer::Unknown => None,
    }
}

fn drops_text(pre_tokenizer: &PreTokenizer) -> bool {
    match pre_tokenizer {
        PreTokenizer::ByteLevel | PreTokenizer::Metaspace | PreTokenizer::Digits => false,
        PreTokenizer::Split { behavior } => behavior == "Removed",
        PreTokenizer::Sequence { pretokenizers } => pretokenizers.iter().any(drops_text),
        PreTokenizer::Unknown => true,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};
    use tokenizers::Tokenizer;

    use super::*;
    use crate::tokenize::fixture;

    fn longest_of(tokenizer: &Value) -> Option<usize> {
        let json = tokenizer.to_string().into_bytes();
        let tokenizer = Arc::new(Tokenizer::from_bytes(&json).unwrap());
        let size = tokenizer.get_vocab_size(true);
        longest(&Vocabulary::new(tokenizer, &json, size).unwrap(), &json)
    }

    #[test]
    fn only_tokenizers_that_keep_all_text_have_a_limit() {
        let check = |path: &str, value: Value, expected: Option<usize>| {
            let mut tokenizer = fixture::byte_level_json();
            *tokenizer.pointer_mut(path).unwrap() = value.clone();
            assert_eq!(longest_of(&tokenizer), expected, "{path} {value}");
        };
        let special = "<|endoftext|>".len();
        check("/version", json!("1.0"), Some(special));
        check("/normalizer", json!({"type": "NFC"}), Some(special * NFC));
        check("/normalizer", json!({"type": "NFKC"}), None);
        check("/normalizer", json!({"type": "StripAccents"}), None);
        let replace = |from: &str, to: &str| {
            json!({"type": "Sequence", "normalizers": [
                {"type": "Prepend", "prepend": "_"},
                {"type": "Replace", "pattern": {"String": from}, "content": to},
            ]})
        };
        check("/normalizer", replace(" ", "▁"), Some(special));
        check("/normalizer", replace("  ", " "), None);
        check("/pre_tokenizer", json!({"type": "WhitespaceSplit"}), None);
        let split = |behavior: &str| {
            json!({"type": "Sequence", "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": "\\s+"}, "behavior": behavior, "invert": false},
                {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
            ]})
        };
        check("/pre_tokenizer", split("Isolated"), Some(special));
        check("/pre_tokenizer", split("Removed"), None);
        check("/added_tokens/0/rstrip", json!(true), None);
        check("/decoder", json!({"type": "Fuse"}), None);
    }

    #[test]
    fn a_byte_without_token_may_vanish() {
        let mut tokenizer = fixture::byte_level_json();
        let vocab = tokenizer["model"]["vocab"].as_object_mut().unwrap();
        let id = vocab.remove("!").unwrap();
        vocab.insert("!!".to_owned(), id);
        assert_eq!(longest_of(&tokenizer), None);
    }
}
