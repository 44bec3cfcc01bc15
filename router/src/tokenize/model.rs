//! A model as the router sees it: how to render, encode and decode for it, and
//! what its configuration says about defaults and limits.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokenizers::Tokenizer;

use super::encoder::Encoder;
use super::longest::longest;
use super::template::ChatTemplate;
use super::vocabulary::Vocabulary;
use crate::tools::ToolFormat;

/// What a worker tells of its model.
#[derive(Clone, Debug)]
pub struct ModelCard {
    pub name: String,
    /// Equal only for equal weights, tokenizer and template.
    pub fingerprint: String,
    /// Prompt and completion tokens together.
    pub max_model_len: usize,
    /// Tokens in a KV block.
    pub block_size: usize,
    pub vocab_size: usize,
    /// By name: tokenizer.json and, where the model has them,
    /// tokenizer_config.json, config.json, generation_config.json and
    /// chat_template.jinja.
    pub files: BTreeMap<String, Vec<u8>>,
}

/// A model with its tokenizer and template loaded. Expensive to make, shared by
/// all requests.
pub struct Model {
    name: String,
    fingerprint: String,
    max_model_len: usize,
    block_size: usize,
    vocab_size: usize,
    created: u64,
    eos: Vec<u32>,
    defaults: Defaults,
    template: Option<ChatTemplate>,
    tool_format: ToolFormat,
    matryoshka: Matryoshka,
    encoder: Encoder,
    vocabulary: Vocabulary,
    /// Of text, in bytes; longer text is sure to exceed the context.
    max_text_len: Option<usize>,
}

/// Sampling that the model's makers recommend (generation_config.json).
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
pub(super) struct Defaults {
    pub(super) temperature: Option<f32>,
    pub(super) top_p: Option<f32>,
    /// 0 or less is off.
    pub(super) top_k: Option<i64>,
    pub(super) min_p: Option<f32>,
    pub(super) repetition_penalty: Option<f32>,
}

/// The part of config.json and generation_config.json that names tokens.
#[derive(Default, Deserialize)]
struct TokensConfig {
    eos_token_id: Option<OneOrMany>,
}

/// The part of config.json that says to which lengths embeddings can be cut, in
/// vLLM's words; no list: to every one.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Matryoshka {
    is_matryoshka: bool,
    matryoshka_dimensions: Vec<usize>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(u32),
    Many(Vec<u32>),
}

impl Model {
    /// Loads a worker's files; the error says what is wrong with them. Takes
    /// long enough for a thread of its own.
    pub fn new(card: ModelCard) -> Result<Model, String> {
        let json = card
            .files
            .get("tokenizer.json")
            .ok_or("there is no tokenizer.json")?;
        let tokenizer = Arc::new(tokenizer(json)?);
        let vocab_size = card.vocab_size.max(tokenizer.get_vocab_size(true));
        let config: Value = file(&card, "tokenizer_config.json")?.unwrap_or_default();
        let eos = eos(&card, &config, &tokenizer)?;
        let encoder = Encoder::new(Arc::clone(&tokenizer), json);
        let vocabulary = Vocabulary::new(tokenizer, json, vocab_size)?;
        let longest = longest(&vocabulary, json);
        let sources = sources(&card, &config)?;
        Ok(Model {
            created: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |now| now.as_secs()),
            eos,
            defaults: file(&card, "generation_config.json")?.unwrap_or_default(),
            tool_format: tool_format(&sources),
            matryoshka: file(&card, "config.json")?.unwrap_or_default(),
            template: template(sources, &config)?,
            max_text_len: longest.map(|longest| longest.saturating_mul(card.max_model_len)),
            encoder,
            vocabulary,
            name: card.name,
            fingerprint: card.fingerprint,
            max_model_len: card.max_model_len,
            block_size: card.block_size,
            vocab_size: card.vocab_size,
        })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Makes encoding faster, if its tokenizer, as in `tokenizer_json`, has a
    /// faster way. The model serves before and meanwhile: with a large vocabulary
    /// this keeps a thread busy for a second.
    pub fn speed_up(&self, tokenizer_json: &[u8]) {
        self.encoder.speed_up(tokenizer_json);
    }

    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Prompt and completion tokens together.
    pub fn max_model_len(&self) -> usize {
        self.max_model_len
    }

    /// Longer text, in bytes, is sure to have more tokens than the context.
    pub(super) fn max_text_len(&self) -> usize {
        self.max_text_len.unwrap_or(usize::MAX)
    }

    /// Tokens in a KV block.
    pub fn block_size(&self) -> usize {
        self.block_size
    }

    /// Token ids are below this.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// When the router loaded it, in seconds since 1970.
    pub fn created(&self) -> u64 {
        self.created
    }

    /// Tokens that end a text.
    pub fn eos(&self) -> &[u32] {
        &self.eos
    }

    /// How its template shows tool calls.
    pub fn tool_format(&self) -> ToolFormat {
        self.tool_format
    }

    /// Whether its embeddings may be cut to so many numbers.
    pub fn has_dimensions(&self, dimensions: usize) -> bool {
        let listed = &self.matryoshka.matryoshka_dimensions;
        listed.contains(&dimensions) || (listed.is_empty() && self.matryoshka.is_matryoshka)
    }

    /// The id of `text`, if it is a special token.
    pub fn special_token(&self, text: &str) -> Option<u32> {
        let id = self.vocabulary.tokenizer.token_to_id(text)?;
        self.vocabulary.is_special(id).then_some(id)
    }

    /// The text of a whole sequence of tokens, without special tokens.
    pub fn decode(&self, tokens: &[u32]) -> String {
        // A decoder fails only on tokens that it can't join; those say nothing.
        self.vocabulary
            .tokenizer
            .decode(tokens, true)
            .unwrap_or_default()
    }

    /// The bytes one token says, perhaps not whole characters.
    pub(crate) fn token_bytes(&self, token: u32) -> &[u8] {
        self.vocabulary.bytes(token)
    }

    pub(super) fn defaults(&self) -> &Defaults {
        &self.defaults
    }

    pub(super) fn template(&self) -> Option<&ChatTemplate> {
        self.template.as_ref()
    }

    pub(super) fn encoder(&self) -> &Encoder {
        &self.encoder
    }

    pub(super) fn vocabulary(&self) -> &Vocabulary {
        &self.vocabulary
    }
}

impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Model")
            .field("name", &self.name)
            .field("fingerprint", &self.fingerprint)
            .finish_non_exhaustive()
    }
}

fn tokenizer(json: &[u8]) -> Result<Tokenizer, String> {
    let mut tokenizer =
        Tokenizer::from_bytes(json).map_err(|error| format!("tokenizer.json: {error}"))?;
    // Left over from training in some models; a prompt is never cut or filled.
    tokenizer.with_padding(None);
    tokenizer
        .with_truncation(None)
        .map_err(|error| format!("tokenizer.json: {error}"))?;
    Ok(tokenizer)
}

fn file<T: DeserializeOwned>(card: &ModelCard, name: &str) -> Result<Option<T>, String> {
    let parse =
        |bytes: &Vec<u8>| serde_json::from_slice(bytes).map_err(|error| format!("{name}: {error}"));
    card.files.get(name).map(parse).transpose()
}

fn eos(card: &ModelCard, config: &Value, tokenizer: &Tokenizer) -> Result<Vec<u32>, String> {
    for name in ["generation_config.json", "config.json"] {
        let tokens: TokensConfig = file(card, name)?.unwrap_or_default();
        match tokens.eos_token_id {
            Some(OneOrMany::One(id)) => return Ok(vec![id]),
            Some(OneOrMany::Many(ids)) => return Ok(ids),
            None => {}
        }
    }
    let named = token_text(&config["eos_token"]).and_then(|text| tokenizer.token_to_id(text));
    Ok(named.into_iter().collect())
}

/// The chat templates' texts, by name.
fn sources(card: &ModelCard, config: &Value) -> Result<Vec<(String, String)>, String> {
    Ok(match card.files.get("chat_template.jinja") {
        Some(source) => {
            let source = String::from_utf8(source.clone());
            let source = source.map_err(|error| format!("chat_template.jinja: {error}"))?;
            vec![("default".to_owned(), source)]
        }
        None => template_sources(&config["chat_template"]),
    })
}

fn tool_format(sources: &[(String, String)]) -> ToolFormat {
    let texts: String = sources.iter().map(|(_, text)| text.as_str()).collect();
    ToolFormat::of_template(&texts)
}

fn template(
    sources: Vec<(String, String)>,
    config: &Value,
) -> Result<Option<ChatTemplate>, String> {
    if sources.is_empty() {
        return Ok(None);
    }
    let fields = config.as_object().into_iter().flatten();
    let special = fields
        .filter(|(name, _)| name.ends_with("_token"))
        .filter_map(|(name, token)| Some((name.clone(), token_text(token)?.to_owned())));
    ChatTemplate::new(sources, special.collect()).map(Some)
}

/// One template, or several by name.
fn template_sources(template: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    match template {
        Value::String(source) => vec![("default".to_owned(), source.clone())],
        Value::Array(templates) => templates
            .iter()
            .filter_map(|entry| Some((text(&entry["name"])?, text(&entry["template"])?)))
            .collect(),
        _ => Vec::new(),
    }
}

/// A special token is written as its text or as an object with details.
fn token_text(token: &Value) -> Option<&str> {
    token.as_str().or_else(|| token["content"].as_str())
}

#[cfg(test)]
mod tests;
