//! Attention as families describe it.

use tensor::RotaryPairs;

use super::fields::Fields;
use crate::error::LoadError;

/// Above any real model's: what is allocated by head size stays small.
const LARGEST_HEAD: usize = 4096;

/// Attention of all layers.
#[derive(Clone, Debug, PartialEq)]
pub enum AttentionConfig {
    Grouped(GroupedHeads),
    Latent(LatentHeads),
}

/// Query heads that share KV heads in groups (Ainslie et al. 2023).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GroupedHeads {
    pub heads: usize,
    /// Divides `heads`.
    pub kv_heads: usize,
    /// Even.
    pub head_dim: usize,
    /// Numbers of a head, from its first on, that are rotated. Even.
    pub rotary_dim: usize,
    /// What scores are multiplied with.
    pub scale: f32,
    /// Scores become `cap * tanh(score / cap)`.
    pub soft_cap: Option<f32>,
    /// One matrix for queries, keys and values.
    pub fused: bool,
    /// Of queries, keys and values.
    pub qkv_bias: bool,
    pub output_bias: bool,
    /// Queries and keys are normalised, each head by itself.
    pub qk_norm: bool,
    /// Each head has a score that takes weight and no value.
    pub sinks: bool,
}

/// Multi-head latent attention: keys and values of all heads are products of
/// one small latent, which alone is kept (DeepSeek-AI 2024, DeepSeek-V2).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LatentHeads {
    pub heads: usize,
    /// Numbers that queries are products of; `None`: of the hidden state.
    pub query_rank: Option<usize>,
    /// Numbers of the latent.
    pub kv_rank: usize,
    /// Numbers of a head's query and key that know no position, and those that
    /// are rotated. The latter are one key for all heads.
    pub plain_dim: usize,
    pub rotary_dim: usize,
    pub value_dim: usize,
    pub scale: f32,
    /// Of the products that make latents, and of the output.
    pub bias: bool,
    pub pairs: RotaryPairs,
}

impl From<GroupedHeads> for AttentionConfig {
    fn from(heads: GroupedHeads) -> AttentionConfig {
        AttentionConfig::Grouped(heads)
    }
}

impl From<LatentHeads> for AttentionConfig {
    fn from(heads: LatentHeads) -> AttentionConfig {
        AttentionConfig::Latent(heads)
    }
}

impl AttentionConfig {
    pub(crate) fn rotary_dim(&self) -> usize {
        match self {
            AttentionConfig::Grouped(heads) => heads.rotary_dim,
            AttentionConfig::Latent(heads) => heads.rotary_dim,
        }
    }
}

impl LatentHeads {
    /// Numbers that are kept of a token: the latent and the rotated key.
    pub fn key_dim(&self) -> usize {
        self.kv_rank + self.rotary_dim
    }

    /// Numbers of a head's query.
    pub fn query_dim(&self) -> usize {
        self.plain_dim + self.rotary_dim
    }
}

impl GroupedHeads {
    /// Llama's: no biases, whole heads rotated, scores divided by the root of
    /// the head size.
    pub(crate) fn read(fields: &Fields<'_>) -> Result<GroupedHeads, LoadError> {
        let heads = fields.size("num_attention_heads")?;
        let kv_heads = fields
            .optional_size("num_key_value_heads")?
            .unwrap_or(heads);
        if !heads.is_multiple_of(kv_heads) {
            return Err(fields.error("num_key_value_heads", "a divisor of num_attention_heads"));
        }
        let head_dim = head_dim(fields, heads)?;
        Ok(GroupedHeads {
            heads,
            kv_heads,
            head_dim,
            rotary_dim: head_dim,
            scale: (head_dim as f32).sqrt().recip(),
            soft_cap: None,
            fused: false,
            qkv_bias: false,
            output_bias: false,
            qk_norm: false,
            sinks: false,
        })
    }

    /// The same with `bias` for queries, keys, values and output.
    pub(crate) fn with_biases(self, bias: bool) -> GroupedHeads {
        GroupedHeads {
            qkv_bias: bias,
            output_bias: bias,
            ..self
        }
    }
}

fn head_dim(fields: &Fields<'_>, heads: usize) -> Result<usize, LoadError> {
    let hidden_size = fields.size("hidden_size")?;
    let head_dim = match fields.optional_size("head_dim")? {
        Some(head_dim) => head_dim,
        None if hidden_size.is_multiple_of(2 * heads) => hidden_size / heads,
        None => {
            let rule = "an even multiple of num_attention_heads, as head_dim is absent";
            return Err(fields.error("hidden_size", rule));
        }
    };
    if !head_dim.is_multiple_of(2) || head_dim > LARGEST_HEAD || heads * head_dim > 1 << 24 {
        let rule = "even, at most 4096, and times num_attention_heads at most 16777216";
        return Err(fields.error("head_dim", rule));
    }
    Ok(head_dim)
}
