//! What a checkpoint's `config.json` and `generation_config.json` say.

mod fields;
mod rope;
#[cfg(test)]
mod tests;

use serde_json::Value;
use tensor::KvShape;

use crate::error::LoadError;
use crate::files::ModelFiles;
use fields::Fields;
pub use rope::{Rope, RopeScaling};

const CONFIG: &str = "config.json";
const GENERATION_CONFIG: &str = "generation_config.json";

/// Families that there is code for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Architecture {
    Llama,
    /// Llama, but for its own names of options.
    Mistral,
}

/// A model's sizes and options, checked: every size is at least 1, at most
/// 2^24, and they fit each other.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    pub architecture: Architecture,
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub layers: usize,
    pub heads: usize,
    /// Divides `heads`.
    pub kv_heads: usize,
    /// Even.
    pub head_dim: usize,
    /// The longest context that the model is made for.
    pub max_position_embeddings: usize,
    pub rms_norm_eps: f32,
    pub rope: Rope,
    pub attention_bias: bool,
    pub mlp_bias: bool,
    /// The output matrix is the embedding matrix.
    pub tie_word_embeddings: bool,
    /// End-of-text tokens; those of `generation_config.json` if it has any.
    pub eos_token_ids: Vec<u32>,
}

impl ModelConfig {
    pub fn read(files: &ModelFiles) -> Result<ModelConfig, LoadError> {
        let config = parse_json(CONFIG, &files.read(CONFIG)?)?;
        let mut config = ModelConfig::parse(&Fields::of(CONFIG, &config)?)?;
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
    pub fn kv_shape(&self, block_size: usize, total_blocks: usize) -> KvShape {
        KvShape {
            layers: self.layers,
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            block_size,
            total_blocks,
        }
    }

    fn parse(fields: &Fields<'_>) -> Result<ModelConfig, LoadError> {
        let architecture = architecture(fields)?;
        refuse_unsupported(fields)?;
        let hidden_size = fields.size("hidden_size")?;
        let heads = fields.size("num_attention_heads")?;
        let kv_heads = fields
            .optional_size("num_key_value_heads")?
            .unwrap_or(heads);
        if !heads.is_multiple_of(kv_heads) {
            return Err(fields.error("num_key_value_heads", "a divisor of num_attention_heads"));
        }
        Ok(ModelConfig {
            architecture,
            vocab_size: fields.size("vocab_size")?,
            hidden_size,
            intermediate_size: fields.size("intermediate_size")?,
            layers: fields.size("num_hidden_layers")?,
            heads,
            kv_heads,
            head_dim: head_dim(fields, hidden_size, heads)?,
            max_position_embeddings: fields.size("max_position_embeddings")?,
            rms_norm_eps: fields.positive("rms_norm_eps")? as f32,
            rope: Rope::parse(fields)?,
            attention_bias: fields.flag("attention_bias")?,
            mlp_bias: fields.flag("mlp_bias")?,
            tie_word_embeddings: fields.flag("tie_word_embeddings")?,
            eos_token_ids: fields.tokens("eos_token_id")?.unwrap_or_default(),
        })
    }
}

fn parse_json(file: &'static str, content: &[u8]) -> Result<Value, LoadError> {
    serde_json::from_slice(content).map_err(|error| LoadError::Damaged {
        file: file.to_owned(),
        reason: error.to_string(),
    })
}

fn architecture(fields: &Fields<'_>) -> Result<Architecture, LoadError> {
    let name = fields
        .get("architectures")
        .and_then(|list| list.get(0)?.as_str())
        .ok_or_else(|| fields.error("architectures", "a list with one name"))?;
    match name {
        "LlamaForCausalLM" => Ok(Architecture::Llama),
        "MistralForCausalLM" => Ok(Architecture::Mistral),
        other => Err(LoadError::Unsupported {
            what: format!("architecture {other}"),
            supported: "LlamaForCausalLM, MistralForCausalLM".to_owned(),
        }),
    }
}

/// Options that would change the numbers and that there is no code for.
fn refuse_unsupported(fields: &Fields<'_>) -> Result<(), LoadError> {
    let unsupported = |what: String, supported: &str| LoadError::Unsupported {
        what,
        supported: supported.to_owned(),
    };
    if let Some(quantization) = fields.get("quantization_config") {
        let method = quantization.get("quant_method").and_then(Value::as_str);
        let what = format!("quantization_config ({})", method.unwrap_or("unnamed"));
        return Err(unsupported(what, "weights of f32, bf16 or f16"));
    }
    let activation = fields.text("hidden_act")?.unwrap_or("silu");
    if activation != "silu" {
        return Err(unsupported(format!("activation {activation}"), "silu"));
    }
    if let Some(window) = fields.optional_size("sliding_window")? {
        let what = format!("a sliding_window of {window}");
        return Err(unsupported(what, "full attention"));
    }
    if fields
        .optional_positive("partial_rotary_factor")?
        .unwrap_or(1.0)
        != 1.0
    {
        let what = "a partial_rotary_factor".to_owned();
        return Err(unsupported(what, "rotation of whole heads"));
    }
    Ok(())
}

fn head_dim(fields: &Fields<'_>, hidden_size: usize, heads: usize) -> Result<usize, LoadError> {
    let head_dim = match fields.optional_size("head_dim")? {
        Some(head_dim) => head_dim,
        None if hidden_size.is_multiple_of(2 * heads) => hidden_size / heads,
        None => {
            let rule = "an even multiple of num_attention_heads, as head_dim is absent";
            return Err(fields.error("hidden_size", rule));
        }
    };
    if !head_dim.is_multiple_of(2) || heads * head_dim > 1 << 24 {
        let rule = "even, and times num_attention_heads at most 16777216";
        return Err(fields.error("head_dim", rule));
    }
    Ok(head_dim)
}
