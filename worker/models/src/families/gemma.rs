//! Gemma 2 and the text part of Gemma 3 (Gemma Team 2024, 2025).

use super::{refuse_partial_rotation, unsupported};
use crate::config::fields::Fields;
use crate::config::{Dense, GroupedHeads, ModelConfig, Multipliers, Norms, Rope};
use crate::error::LoadError;

/// What published configs of Gemma 3 leave out.
const GEMMA3_DEFAULTS: [(&str, u64); 6] = [
    ("vocab_size", 262_208),
    ("num_attention_heads", 8),
    ("num_key_value_heads", 4),
    ("head_dim", 256),
    ("max_position_embeddings", 131_072),
    ("sliding_window", 4096),
];

/// Caps scores and logits; every second layer, from the first on, slides.
pub(super) fn gemma2(fields: &Fields<'_>) -> Result<ModelConfig, LoadError> {
    let config = gemma(fields, false)?;
    config.with_windows(fields, |layer| layer.is_multiple_of(2))
}

/// Normalises queries and keys; all but every sixth layer slide, and rotate by a
/// shorter base.
pub(super) fn gemma3(fields: &Fields<'_>) -> Result<ModelConfig, LoadError> {
    let map = fields.or_defaults(&GEMMA3_DEFAULTS);
    let fields = &fields.with_map(&map);
    let config = gemma(fields, true)?;
    let every = fields.optional_size("sliding_window_pattern")?.unwrap_or(6);
    let mut config = config.with_windows(fields, |layer| !(layer + 1).is_multiple_of(every))?;
    config.ropes = ropes(fields, config.attention.rotary_dim())?;
    for layer in &mut config.layers {
        layer.rope = Some(usize::from(layer.window.is_some()));
    }
    Ok(config)
}

/// The text part of a model that also sees.
pub(super) fn gemma3_text(fields: &Fields<'_>) -> Result<ModelConfig, LoadError> {
    let text = fields
        .object("text_config", "text_config.")?
        .ok_or_else(|| fields.error("text_config", "an object"))?;
    let mut config = gemma3(&text)?;
    if config.eos_token_ids.is_empty() {
        config.eos_token_ids = fields.tokens("eos_token_id")?.unwrap_or_default();
    }
    config.roots = &["language_model.model", "model.language_model", "model"];
    Ok(config)
}

fn gemma(fields: &Fields<'_>, qk_norm: bool) -> Result<ModelConfig, LoadError> {
    refuse_partial_rotation(fields)?;
    if fields.flag("use_bidirectional_attention")? {
        let what = "use_bidirectional_attention".to_owned();
        return Err(unsupported(what, "causal attention"));
    }
    let cap = |field| {
        let cap = fields.optional_positive(field)?;
        Ok::<_, LoadError>(cap.map(|cap| cap as f32))
    };
    let scalar = fields.optional_positive("query_pre_attn_scalar")?;
    let heads = GroupedHeads {
        scale: scalar.unwrap_or(256.0).sqrt().recip() as f32,
        soft_cap: cap("attn_logit_softcapping")?,
        qk_norm,
        ..GroupedHeads::read(fields)?.with_biases(fields.flag("attention_bias")?)
    };
    let dense = Dense {
        activation: fields.activation("gelu_pytorch_tanh")?,
        ..Dense::read(fields)?
    };
    let config = ModelConfig::decoder(fields, heads, dense)?;
    Ok(ModelConfig {
        norms: Norms {
            offset: 1.0,
            after_attention: Some("post_attention_layernorm"),
            before_feed_forward: "pre_feedforward_layernorm",
            after_feed_forward: Some("post_feedforward_layernorm"),
            ..config.norms
        },
        multipliers: Multipliers {
            embedding: (config.hidden_size as f32).sqrt(),
            ..config.multipliers
        },
        logit_cap: cap("final_logit_softcapping")?,
        tie_word_embeddings: fields.optional_flag("tie_word_embeddings")?.unwrap_or(true),
        ..config
    })
}

/// The embedding of layers that see all, and of those that slide.
fn ropes(fields: &Fields<'_>, dim: usize) -> Result<Vec<Rope>, LoadError> {
    let both = fields.object("rope_parameters", "rope_parameters.")?;
    let (full, sliding) = match &both {
        Some(both) => (
            both.object("full_attention", "rope_parameters.full_attention.")?,
            both.object("sliding_attention", "rope_parameters.sliding_attention.")?,
        ),
        None => (fields.object("rope_scaling", "rope_scaling.")?, None),
    };
    let local = ("rope_local_base_freq", 10_000.0);
    Ok(vec![
        Rope::of(fields, full.as_ref(), ("rope_theta", 1_000_000.0), dim)?,
        Rope::of(fields, sliding.as_ref(), local, dim)?,
    ])
}
