//! The fast way from text to tokens: an encoder that takes a tenth of the time,
//! for the tokenizers for which it gives the reference's tokens. Both encode
//! samples of all kinds of text first; where one token differs it is not used.

use tokenizers::Tokenizer;

/// Text of all the kinds that pre-tokenizers tell apart.
const SAMPLES: [&str; 16] = [
    "",
    " ",
    "\n",
    "Hello, world! It's a test; isn't it? They'll SAY'S \"so\".",
    "  two spaces,   three,\ttab\t\ttwo tabs, line\nline\n\nline \n \n  end  ",
    "\r\n windows \r\n\r\nlines\r",
    "1 12 123 1234 12345 3.14159 1,000,000 0x1F 2026-11-21T12:00:00Z v1.2.3",
    "fn main() { let x: Vec<u8> = vec![0; 16]; println!(\"{x:?}\"); } // done\n\t}\n",
    "https://example.org/a_b-c?d=e&f=%20#g user@example.org C:\\dir\\file.txt",
    "naïve café Ünïcödé e\u{301} a\u{308}\u{323} \u{1e9b}\u{323} \u{fb01} \u{2126} \u{b5}",
    "Привет, мир! Γειά σου Κόσμε. שלום עולם مرحبا بالعالم नमस्ते दुनिया สวัสดีชาวโลก",
    "你好，世界。こんにちは世界！안녕하세요 세계 ㈠ ｆｕｌｌ　ｗｉｄｔｈ",
    "emoji 😀👍🏽👩‍👩‍👧‍👦🇩🇪 ✅→∑√½²³Ⅷ",
    "\u{a0}nbsp\u{200b}zero\u{200d}joined\u{feff}bom\u{2028}separator\u{3000}wide\u{85}next",
    "\0nul\u{1}\u{7f}\u{80}\u{fffd}\u{10ffff}",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa----------------________________========",
];

/// Longer samples take other ways through an encoder.
const REPEATED: usize = 40;

pub(super) struct Fast(fastokens::Tokenizer);

impl Fast {
    /// `None` if it can't take the place of `reference`, which was made of the
    /// same file. Takes about a second for a large vocabulary.
    pub(super) fn of(tokenizer_json: &[u8], reference: &Tokenizer) -> Option<Fast> {
        let json = serde_json::from_slice(tokenizer_json).ok()?;
        let mut tokenizer = fastokens::Tokenizer::from_json(json).ok()?;
        // As the reference has none.
        tokenizer.set_padding(None);
        tokenizer.set_truncation(None);
        let fast = Fast(tokenizer);
        fast.agrees_with(reference).then_some(fast)
    }

    /// `None`: it can't; the reference can, or knows why not.
    pub(super) fn encode(&self, text: &str, add_special_tokens: bool) -> Option<Vec<u32>> {
        let encoded = self.0.encode_with_special_tokens(text, add_special_tokens);
        encoded.ok()
    }

    fn agrees_with(&self, reference: &Tokenizer) -> bool {
        let added = reference.get_added_tokens_decoder();
        let around = |token: &str| format!("a{token}b {token} {token}{token}\n{token}");
        let added = added.values().map(|token| around(&token.content));
        let whole = SAMPLES.concat();
        let long = format!("{whole} ").repeat(REPEATED);
        let samples = SAMPLES.iter().map(|sample| (*sample).to_owned());
        samples.chain(added).chain([whole, long]).all(|text| {
            [false, true].into_iter().all(|special| {
                let expected = reference.encode_fast(text.as_str(), special);
                let expected = expected.map(|encoding| encoding.get_ids().to_vec());
                expected.ok() == self.encode(&text, special)
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::tokenize::fixture;

    fn both(json: &Value) -> (Option<Fast>, Tokenizer) {
        let json = json.to_string().into_bytes();
        let reference = Tokenizer::from_bytes(&json).unwrap();
        (Fast::of(&json, &reference), reference)
    }

    fn kinds() -> [Value; 2] {
        [fixture::byte_level_json(), fixture::sentencepiece_json()]
    }

    #[test]
    fn common_kinds_of_tokenizers_are_fast() {
        for json in kinds() {
            assert!(both(&json).0.is_some(), "{}", json["model"]["type"]);
        }
    }

    /// A token more or less in one of the two makes it unfit.
    #[test]
    fn one_that_gives_other_tokens_is_not_used() {
        let json = fixture::byte_level_json();
        let mut other = json.clone();
        other["model"]["merges"].as_array_mut().unwrap().pop();
        let reference = Tokenizer::from_bytes(other.to_string()).unwrap();
        assert!(Fast::of(json.to_string().as_bytes(), &reference).is_none());
        assert!(Fast::of(other.to_string().as_bytes(), &reference).is_some());
    }

    #[test]
    fn one_that_it_does_not_know_is_left_to_the_reference() {
        let mut json = fixture::byte_level_json();
        json["pre_tokenizer"] = json!({"type": "NewInAYear"});
        let reference = Tokenizer::from_bytes(fixture::byte_level_json().to_string()).unwrap();
        assert!(Fast::of(json.to_string().as_bytes(), &reference).is_none());
    }

    static KINDS: LazyLock<[(Fast, Tokenizer); 2]> = LazyLock::new(|| {
        kinds().map(|json| {
            let (fast, reference) = both(&json);
            (fast.unwrap(), reference)
        })
    });

    fn texts() -> impl Strategy<Value = String> {
        prop_oneof![
            ".{0,60}",
            "[ a-zA-Z0-9'\n\t.,é漢]{0,200}",
            "(he|llo|wor|ld| |<\\|im_end\\|>|</?s>|user|\n){0,60}",
        ]
    }

    proptest! {
        #[test]
        fn gives_the_reference_tokens_of_any_text(text in texts(), special in any::<bool>()) {
            for (fast, reference) in KINDS.iter() {
                let expected = reference.encode_fast(text.as_str(), special).unwrap();
                prop_assert_eq!(fast.encode(&text, special).unwrap(), expected.get_ids());
            }
        }
    }
}
