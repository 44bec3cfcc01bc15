//! Small models for tests, made in code.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::StreamExt;
use serde_json::{Value, json};

use super::{Config, Model, ModelCard, Request, Tokenize};
use crate::sequence::{Event, Events, FinishReason, Origin, Sequence, Token};

/// Marks the end of a text and of a chat's turn.
pub(crate) const EOS: u32 = 1;
pub(crate) const IM_START: u32 = 2;

const TEMPLATE: &str = "{% for message in messages %}{% if message.role == 'tool' %}{{ raise_exception('no tools here') }}{% endif %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

fn special(id: u32, content: &str) -> Value {
    json!({
        "id": id, "content": content, "special": true,
        "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
    })
}

/// Tokens 3..259 are the bytes 0..=255; a few merges follow.
pub(crate) fn byte_level_json() -> Value {
    let mut vocab = serde_json::Map::new();
    let mut next = 256;
    for (id, content) in ["<|endoftext|>", "<|im_end|>", "<|im_start|>"]
        .iter()
        .enumerate()
    {
        vocab.insert((*content).to_owned(), json!(id));
    }
    for byte in 0..=255u32 {
        let printable = matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
        let char = char::from_u32(if printable { byte } else { next }).unwrap();
        next += u32::from(!printable);
        vocab.insert(char.to_string(), json!(byte + 3));
    }
    let merges = [
        ["h", "e"],
        ["l", "l"],
        ["he", "ll"],
        ["hell", "o"],
        ["Ġ", "w"],
        ["o", "r"],
        ["Ġw", "or"],
        ["l", "d"],
        ["Ġwor", "ld"],
        ["u", "s"],
        ["e", "r"],
        ["us", "er"],
    ];
    for [left, right] in merges {
        let id = vocab.len();
        vocab.insert(format!("{left}{right}"), json!(id));
    }
    let added: Vec<Value> = [
        (0, "<|endoftext|>"),
        (EOS, "<|im_end|>"),
        (IM_START, "<|im_start|>"),
    ]
    .map(|(id, content)| special(id, content))
    .to_vec();
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "vocab": vocab, "merges": merges,
        },
    })
}

/// Llama 2's kind: `▁` for spaces, bytes as a fallback, `<s>` before a text.
pub(crate) fn sentencepiece_json() -> Value {
    let mut vocab = serde_json::Map::new();
    for content in ["<unk>", "<s>", "</s>"] {
        let id = vocab.len();
        vocab.insert(content.to_owned(), json!(id));
    }
    for byte in 0..=255u32 {
        let id = vocab.len();
        vocab.insert(format!("<0x{byte:02X}>"), json!(id));
    }
    for piece in "▁ a b c d e h l o r w é".split(' ') {
        let id = vocab.len();
        vocab.insert(piece.to_owned(), json!(id));
    }
    let merges = [
        ["▁", "a"],
        ["▁", "b"],
        ["l", "o"],
        ["h", "e"],
        ["▁", "he"],
        ["l", "lo"],
        ["▁he", "llo"],
    ];
    for [left, right] in merges {
        let id = vocab.len();
        vocab.insert(format!("{left}{right}"), json!(id));
    }
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [special(0, "<unk>"), special(1, "<s>"), special(2, "</s>")],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        ]},
        "pre_tokenizer": null,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
        },
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0},
        ]},
        "model": {
            "type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true,
            "vocab": vocab, "merges": merges,
        },
    })
}

pub(crate) fn card(tokenizer: &Value, files: &[(&str, Value)]) -> ModelCard {
    let file = |(name, json): &(&str, Value)| ((*name).to_owned(), json.to_string().into_bytes());
    let mut files: BTreeMap<String, Vec<u8>> = files.iter().map(file).collect();
    files.insert(
        "tokenizer.json".to_owned(),
        tokenizer.to_string().into_bytes(),
    );
    ModelCard {
        name: "tiny".to_owned(),
        fingerprint: "0123456789abcdef".to_owned(),
        max_model_len: 512,
        block_size: 16,
        vocab_size: tokenizer["model"]["vocab"].as_object().unwrap().len(),
        files,
    }
}

pub(crate) fn byte_level_card() -> ModelCard {
    card(
        &byte_level_json(),
        &[
            (
                "tokenizer_config.json",
                json!({"eos_token": "<|im_end|>", "chat_template": TEMPLATE}),
            ),
            ("config.json", json!({"eos_token_id": 0})),
            (
                "generation_config.json",
                json!({"eos_token_id": [0, 1], "temperature": 0.5, "top_k": 40}),
            ),
        ],
    )
}

/// Byte-level BPE with a ChatML template.
pub(crate) fn byte_level() -> Arc<Model> {
    Arc::new(Model::new(byte_level_card()).unwrap())
}

/// SentencePiece with byte fallback, and no template.
pub(crate) fn sentencepiece() -> Arc<Model> {
    let config = (
        "tokenizer_config.json",
        json!({"eos_token": {"content": "</s>"}}),
    );
    Arc::new(Model::new(card(&sentencepiece_json(), &[config])).unwrap())
}

/// Byte-level tokens, but a decoder that no fast path knows.
pub(crate) fn other_decoder() -> Arc<Model> {
    let mut tokenizer = byte_level_json();
    tokenizer["decoder"] = json!({"type": "Sequence", "decoders": [
        {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        {"type": "Fuse"},
    ]});
    Arc::new(Model::new(card(&tokenizer, &[])).unwrap())
}

/// The byte-level tokens of `text`, one for each byte.
pub(crate) fn bytes(text: &str) -> Vec<u32> {
    text.bytes().map(|byte| u32::from(byte) + 3).collect()
}

/// A generated token without logprob.
pub(crate) fn token(id: u32) -> Token {
    Token {
        id,
        logprob: None,
        top: Vec::new(),
    }
}

pub(crate) fn tokens(ids: &[u32]) -> Event {
    Event::Tokens(ids.iter().map(|&id| token(id)).collect())
}

pub(crate) fn started(cached_tokens: usize) -> Event {
    Event::Started { cached_tokens }
}

pub(crate) fn finished(reason: FinishReason) -> Event {
    Event::Finished(reason)
}

/// What a worker would send, and then nothing more.
pub(crate) fn events(events: Vec<Event>) -> Events {
    let events = futures::stream::iter(events.into_iter().map(Ok));
    events.chain(futures::stream::pending()).boxed()
}

pub(crate) fn origin() -> Origin {
    Origin::plain(Arc::from("req-1"), Arc::default())
}

/// The sequences of `request`, tokenised.
pub(crate) async fn sequences(model: &Arc<Model>, request: &Request) -> Vec<Sequence> {
    let config = Config {
        threads: 1,
        ..Config::default()
    };
    let tokenize = Tokenize::new(&config).unwrap();
    tokenize.sequences(model, request, &origin()).await.unwrap()
}
