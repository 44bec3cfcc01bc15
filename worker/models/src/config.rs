//! What a checkpoint's `config.json` and `generation_config.json` say, in terms
//! that all families share. What a family's own fields mean, `families` knows.

mod attention;
mod feed_forward;
pub(crate) mod fields;
mod rope;
#[cfg(test)]
mod tests;

use serde_json::Value;
use tensor::{KvDtype, KvShape, KvValues};

use crate::error::LoadError;
use crate::families;
use crate::files::ModelFiles;
pub use attention::{AttentionConfig, GroupedHeads, LatentHeads};
pub use feed_forward::{Dense, DenseLayout, ExpertLayout, Experts, FeedForward, StackFormat};
use fields::Fields;
pub use rope::{Rope, RopeScaling};

const CONFIG: &str = "config.json";
const GENERATION_CONFIG: &str = "generation_config.json";
/// Above any real model's, so that a hostile config costs nothing.
const MOST_LAYERS: usize = 1024;

/// A model's sizes and options, checked: every size is at least 1, at most
/// 2^24, and they fit each other.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// As `config.json` names it.
    pub architecture: &'static str,
    pub vocab_size: usize,
    pub hidden_size: usize,
    /// The longest context that the model is made for.
    pub max_position_embeddings: usize,
    pub norms: Norms,
    pub attention: AttentionConfig,
    /// The rotary embeddings that layers choose from.
    pub ropes: Vec<Rope>,
    pub layers: Vec<LayerConfig>,
    pub multipliers: Multipliers,
    /// Logits become `cap * tanh(logit / cap)`.
    pub logit_cap: Option<f32>,
    /// The output matrix is the embedding matrix.
    pub tie_word_embeddings: bool,
    /// What tensors' names may start with, before `.layers` and the like.
    pub roots: &'static [&'static str],
    /// End-of-text tokens; those of `generation_config.json` if it has any.
    pub eos_token_ids: Vec<u32>,
}

/// What differs from layer to layer.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerConfig {
    /// How many positions attention sees; `None`: all.
    pub window: Option<usize>,
    /// Which of the model's rotary embeddings; `None`: positions do not count.
    pub rope: Option<usize>,
    pub feed_forward: FeedForward,
}

/// The norms of a layer, by their tensors' names.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Norms {
    pub eps: f32,
    /// What is added to stored scales: Gemma stores them less 1.
    pub offset: f32,
    pub before_attention: &'static str,
    /// Of attention's output.
    pub after_attention: Option<&'static str>,
    pub before_feed_forward: &'static str,
    /// Of the feed-forward network's output.
    pub after_feed_forward: Option<&'static str>,
}

/// Constants that the model's numbers are multiplied with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Multipliers {
    pub embedding: f32,
    /// What a layer's parts add to the residual stream.
    pub residual: f32,
    pub logits: f32,
}

impl Default for Multipliers {
    fn default() -> Multipliers {
        Multipliers {
            embedding: 1.0,
            residual: 1.0,
            logits: 1.0,
        }
    }
}

impl Norms {
    /// One before each part, as Llama names them.
    fn pre(eps: f32) -> Norms {
        Norms {
            eps,
            offset: 0.0,
            before_attention: "input_layernorm",
            after_attention: None,
            before_feed_forward: "post_attention_layernorm",
            after_feed_forward: None,
        }
    }
}

impl ModelConfig {
    pub fn read(files: &ModelFiles) -> Result<ModelConfig, LoadError> {
        let config = parse_json(CONFIG, &files.read(CONFIG)?)?;
        let mut config = families::describe(&Fields::of(CONFIG, &config)?)?;
        if let Some(generation) = files.read_optional(GENERATION_CONFIG)? {
            let generation = parse_json(GENERATION_CONFIG, &generation)?;
            let generation = Fields::of(GENERATION_CONFIG, &generation)?;
            if let Some(tokens) = generation.tokens("eos_token_id")? {
                config.eos_token_ids = tokens;
            }
        }
        Ok(config)
    }

    /// The KV pool that this model needs.
    pub fn kv_shape(&self, dtype: KvDtype, block_size: usize, total_blocks: usize) -> KvShape {
        let (kv_heads, head_dim, values) = match &self.attention {
            AttentionConfig::Grouped(heads) => (heads.kv_heads, heads.head_dim, KvValues::Stored),
            AttentionConfig::Latent(heads) => {
                (1, heads.key_dim(), KvValues::KeyPrefix(heads.kv_rank))
            }
        };
        KvShape {
            layers: self.layers.len(),
            kv_heads,
            head_dim,
            values,
            dtype,
            block_size,
            total_blocks,
        }
    }

    /// A Llama-like model of these parts: what all families' configs say in the
    /// same words, and Llama's choices for the rest.
    pub(crate) fn decoder(
        fields: &Fields<'_>,
        attention: impl Into<AttentionConfig>,
        feed_forward: impl Into<FeedForward>,
    ) -> Result<ModelConfig, LoadError> {
        let layers = fields.size_up_to("num_hidden_layers", MOST_LAYERS)?;
        let attention = attention.into();
        let layer = LayerConfig {
            window: None,
            rope: Some(0),
            feed_forward: feed_forward.into(),
        };
        Ok(ModelConfig {
            // `families` writes the name it was found by.
            architecture: "",
            vocab_size: fields.size("vocab_size")?,
            hidden_size: fields.size("hidden_size")?,
            max_position_embeddings: fields.size("max_position_embeddings")?,
            norms: Norms::pre(fields.positive("rms_norm_eps")? as f32),
            ropes: vec![Rope::parse(fields, attention.rotary_dim())?],
            attention,
            layers: vec![layer; layers],
            multipliers: Multipliers::default(),
            logit_cap: None,
            tie_word_embeddings: fields.flag("tie_word_embeddings")?,
            roots: &["model"],
            eos_token_ids: fields.tokens("eos_token_id")?.unwrap_or_default(),
        })
    }

    /// The same with a sliding window in the layers whose `layer_types` say so,
    /// or, where there are none, in those that `slides` tells by their index.
    pub(crate) fn with_windows(
        mut self,
        fields: &Fields<'_>,
        slides: impl Fn(usize) -> bool,
    ) -> Result<ModelConfig, LoadError> {
        let window = fields.optional_size("sliding_window")?;
        let types = fields.layer_types(self.layers.len())?;
        for (index, layer) in self.layers.iter_mut().enumerate() {
            let sliding = match &types {
                None => slides(index),
                Some(types) => match types[index] {
                    "full_attention" | "attention" => false,
                    "sliding_attention" => true,
                    other => {
                        return Err(LoadError::Unsupported {
                            what: format!("layer type {other}"),
                            supported: "full_attention, sliding_attention".to_owned(),
                        });
                    }
                },
            };
            layer.window = window.filter(|_| sliding);
        }
        Ok(self)
    }

    /// Sets each layer's feed-forward network by its index.
    pub(crate) fn with_feed_forward(
        mut self,
        of_layer: impl Fn(usize) -> FeedForward,
    ) -> ModelConfig {
        for (index, layer) in self.layers.iter_mut().enumerate() {
            layer.feed_forward = of_layer(index);
        }
        self
    }
}

fn parse_json(file: &'static str, content: &[u8]) -> Result<Value, LoadError> {
    serde_json::from_slice(content).map_err(|error| LoadError::Damaged {
        file: file.to_owned(),
        reason: error.to_string(),
    })
}
