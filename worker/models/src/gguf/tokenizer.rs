//! `tokenizer.json` and `tokenizer_config.json` of a model in a GGUF file.

mod merges;

use serde_json::{Map, Value, json};

use super::GgufFile;
use crate::error::LoadError;

const TOKENS: &str = "tokenizer.ggml.tokens";
/// GGUF's kinds of tokens.
const CONTROL: u32 = 3;
const USER_DEFINED: u32 = 4;
/// What SentencePiece writes for a space.
const SPACE: &str = "\u{2581}";

/// How text is cut before it is encoded: GGUF's name, and the expression.
const CUTS: [(&str, &str); 5] = [
    (
        "llama-bpe",
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ),
    (
        "qwen2",
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ),
    (
        "tekken",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ),
    (
        "gpt-4o",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ),
    // Byte-level encoding's own.
    ("gpt-2", ""),
];

pub(super) fn tokenizer(file: &GgufFile) -> Result<Value, LoadError> {
    let vocabulary = Vocabulary::read(file)?;
    let parts = match file.metadata.text("tokenizer.ggml.model")? {
        Some("gpt2") => byte_level(file, &vocabulary)?,
        Some("llama") => sentence_piece(file, &vocabulary)?,
        other => {
            return Err(LoadError::Unsupported {
                what: format!("tokenizer {} of {}", other.unwrap_or("(none)"), file.name),
                supported: "gpt2, llama".to_owned(),
            });
        }
    };
    let mut tokenizer = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": vocabulary.added(),
        "post_processor": post_processor(file, &vocabulary)?,
    });
    if let (Value::Object(tokenizer), Value::Object(parts)) = (&mut tokenizer, parts) {
        tokenizer.extend(parts);
    }
    Ok(tokenizer)
}

pub(super) fn tokenizer_config(file: &GgufFile) -> Result<Value, LoadError> {
    let vocabulary = Vocabulary::read(file)?;
    let mut config = Map::new();
    for name in ["bos", "eos", "unk"] {
        let token = file.token(name)?.and_then(|id| vocabulary.token(id));
        if let Some(token) = token {
            config.insert(format!("{name}_token"), json!(token));
        }
    }
    config.insert("add_bos_token".to_owned(), json!(adds_bos(file)?));
    if let Some(template) = file.metadata.text("tokenizer.chat_template")? {
        config.insert("chat_template".to_owned(), json!(template));
    }
    Ok(Value::Object(config))
}

struct Vocabulary {
    tokens: Vec<String>,
    /// One a token, or none.
    kinds: Vec<u32>,
}

impl Vocabulary {
    fn read(file: &GgufFile) -> Result<Vocabulary, LoadError> {
        let tokens = file.metadata.texts(TOKENS)?;
        let tokens = tokens.ok_or_else(|| file.metadata.error(TOKENS, "a list of strings"))?;
        let kinds = file.metadata.integers("tokenizer.ggml.token_type")?;
        let kinds = kinds.unwrap_or_default();
        if !kinds.is_empty() && kinds.len() != tokens.len() {
            return Err(file.damaged("it has not as many token types as tokens"));
        }
        Ok(Vocabulary { tokens, kinds })
    }

    fn token(&self, id: u64) -> Option<&str> {
        let token = self.tokens.get(usize::try_from(id).ok()?)?;
        Some(token.as_str())
    }

    fn ids(&self) -> Map<String, Value> {
        let tokens = self.tokens.iter().cloned();
        tokens.zip((0u32..).map(Value::from)).collect()
    }

    /// Tokens that are found in text before it is cut.
    fn added(&self) -> Vec<Value> {
        let added = |(id, kind): (usize, &u32)| {
            [CONTROL, USER_DEFINED].contains(kind).then(|| {
                json!({
                    "id": id,
                    "content": self.tokens[id],
                    "single_word": false,
                    "lstrip": false,
                    "rstrip": false,
                    "normalized": false,
                    "special": *kind == CONTROL,
                })
            })
        };
        self.kinds.iter().enumerate().filter_map(added).collect()
    }
}

fn byte_level(file: &GgufFile, vocabulary: &Vocabulary) -> Result<Value, LoadError> {
    let merges = file.metadata.texts("tokenizer.ggml.merges")?;
    let merges = merges.ok_or_else(|| file.damaged("it has no tokenizer.ggml.merges"))?;
    let merges: Option<Vec<_>> = merges.iter().map(|merge| merge.split_once(' ')).collect();
    let merges = merges.ok_or_else(|| file.damaged("a merge is not two tokens"))?;
    let name = file.metadata.text("tokenizer.ggml.pre")?.unwrap_or("gpt-2");
    // Files made before a name was settled say `default`.
    let name = if name == "default" { "gpt-2" } else { name };
    let cut = CUTS.iter().find(|(known, _)| *known == name);
    let (_, cut) = cut.ok_or_else(|| LoadError::Unsupported {
        what: format!("tokenizer {name} of {}", file.name),
        supported: CUTS.map(|(name, _)| name).join(", "),
    })?;
    let bytes = json!({
        "type": "ByteLevel",
        "add_prefix_space": false,
        "trim_offsets": true,
        "use_regex": cut.is_empty(),
    });
    let split = json!({
        "type": "Split",
        "pattern": { "Regex": cut },
        "behavior": "Isolated",
        "invert": false,
    });
    let steps = if cut.is_empty() {
        vec![bytes]
    } else {
        vec![split, bytes]
    };
    let normalizer = (name == "qwen2").then(|| json!({ "type": "NFC" }));
    Ok(json!({
        "normalizer": normalizer,
        "pre_tokenizer": { "type": "Sequence", "pretokenizers": steps },
        "decoder": {
            "type": "ByteLevel",
            "add_prefix_space": true,
            "trim_offsets": true,
            "use_regex": true,
        },
        "model": {
            "type": "BPE",
            "ignore_merges": name == "llama-bpe",
            "vocab": vocabulary.ids(),
            "merges": merges,
        },
    }))
}

/// SentencePiece's byte-pair encoding: which two pieces merge first is said by
/// the score of what they become.
fn sentence_piece(file: &GgufFile, vocabulary: &Vocabulary) -> Result<Value, LoadError> {
    let scores = file.metadata.floats("tokenizer.ggml.scores")?;
    let scores = scores
        .filter(|scores| scores.len() == vocabulary.tokens.len())
        .ok_or_else(|| file.damaged("it has not as many scores as tokens"))?;
    let prefix = file.metadata.flag("tokenizer.ggml.add_space_prefix")?;
    let prefix = prefix.unwrap_or(true);
    let mut normalizers = vec![json!({
        "type": "Replace",
        "pattern": { "String": " " },
        "content": SPACE,
    })];
    let mut decoders = vec![
        json!({ "type": "Replace", "pattern": { "String": SPACE }, "content": " " }),
        json!({ "type": "ByteFallback" }),
        json!({ "type": "Fuse" }),
    ];
    if prefix {
        normalizers.insert(0, json!({ "type": "Prepend", "prepend": SPACE }));
        decoders.push(json!({ "type": "Strip", "content": " ", "start": 1, "stop": 0 }));
    }
    let unknown = file.token("unknown")?.unwrap_or(0);
    Ok(json!({
        "normalizer": { "type": "Sequence", "normalizers": normalizers },
        "pre_tokenizer": null,
        "decoder": { "type": "Sequence", "decoders": decoders },
        "model": {
            "type": "BPE",
            "unk_token": vocabulary.token(unknown),
            "fuse_unk": true,
            "byte_fallback": true,
            "vocab": vocabulary.ids(),
            "merges": merges::from_scores(&vocabulary.tokens, &scores),
        },
    }))
}

fn adds_bos(file: &GgufFile) -> Result<bool, LoadError> {
    let says = file.metadata.flag("tokenizer.ggml.add_bos_token")?;
    let sentence_piece = file.metadata.text("tokenizer.ggml.model")? == Some("llama");
    Ok(says.unwrap_or(sentence_piece))
}

/// Puts the token that begins a text before it, if the model wants one.
fn post_processor(file: &GgufFile, vocabulary: &Vocabulary) -> Result<Value, LoadError> {
    let bos = file.token("bos")?;
    let adds = adds_bos(file)?;
    let Some((id, token)) = bos
        .filter(|_| adds)
        .and_then(|id| Some((id, vocabulary.token(id)?)))
    else {
        return Ok(Value::Null);
    };
    let special = json!({ "SpecialToken": { "id": token, "type_id": 0 } });
    let text = |name: &str| json!({ "Sequence": { "id": name, "type_id": 0 } });
    Ok(json!({
        "type": "TemplateProcessing",
        "single": [special, text("A")],
        "pair": [special, text("A"), special, text("B")],
        "special_tokens": { token: { "id": token, "ids": [id], "tokens": [token] } },
    }))
}
