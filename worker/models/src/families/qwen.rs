//! Qwen2, 2.5 and 3 (Qwen Team 2024, 2025), dense and with experts.

use serde_json::Value;
use tensor::{RouterScore, Routing};

use super::{expert_count, refuse_partial_rotation};
use crate::config::fields::Fields;
use crate::config::{Dense, ExpertLayout, Experts, FeedForward, GroupedHeads, ModelConfig};
use crate::error::LoadError;

/// Llama with biases of queries, keys and values.
pub(super) fn qwen2(fields: &Fields<'_>) -> Result<ModelConfig, LoadError> {
    refuse_partial_rotation(fields)?;
    let heads = GroupedHeads {
        qkv_bias: true,
        ..GroupedHeads::read(fields)?
    };
    with_late_windows(
        fields,
        ModelConfig::decoder(fields, heads, Dense::read(fields)?)?,
    )
}

/// Llama with normalised queries and keys.
pub(super) fn qwen3(fields: &Fields<'_>) -> Result<ModelConfig, LoadError> {
    let config = ModelConfig::decoder(fields, qwen3_heads(fields)?, Dense::read(fields)?)?;
    with_late_windows(fields, config)
}

/// Qwen3 with experts in some or all layers.
pub(super) fn qwen3_moe(fields: &Fields<'_>) -> Result<ModelConfig, LoadError> {
    let dense = Dense::read(fields)?;
    let experts = Experts {
        intermediate: fields.size("moe_intermediate_size")?,
        activation: dense.activation,
        routing: Routing {
            experts: expert_count(fields)?,
            top_k: fields.size("num_experts_per_tok")?,
            score: RouterScore::Softmax,
            groups: None,
            normalise: fields.flag("norm_topk_prob")?,
            scale: 1.0,
        },
        layout: ExpertLayout::Named {
            experts: "mlp.experts",
            gate: "gate_proj",
            up: "up_proj",
            down: "down_proj",
        },
        router: "mlp.gate",
        router_bias: false,
        choice_bias: None,
        shared: None,
    };
    let step = fields.optional_size("decoder_sparse_step")?.unwrap_or(1);
    let dense_layers = fields.indices("mlp_only_layers")?;
    let slides = fields.flag("use_sliding_window")?;
    let config = ModelConfig::decoder(fields, qwen3_heads(fields)?, dense)?;
    let config = config.with_feed_forward(|layer| {
        let sparse = (layer + 1).is_multiple_of(step) && !dense_layers.contains(&layer);
        match sparse {
            true => FeedForward::Experts(experts),
            false => FeedForward::Dense(dense),
        }
    });
    config.with_windows(fields, |_| slides)
}

fn qwen3_heads(fields: &Fields<'_>) -> Result<GroupedHeads, LoadError> {
    refuse_partial_rotation(fields)?;
    Ok(GroupedHeads {
        qk_norm: true,
        ..GroupedHeads::read(fields)?.with_biases(fields.flag("attention_bias")?)
    })
}

/// A sliding window, if it is used at all, from layer `max_window_layers` on.
fn with_late_windows(fields: &Fields<'_>, config: ModelConfig) -> Result<ModelConfig, LoadError> {
    if !fields.flag("use_sliding_window")? {
        return Ok(config);
    }
    // Absent in files that leave out what they don't change.
    let full = fields.get("max_window_layers").and_then(Value::as_u64);
    config.with_windows(fields, |layer| layer as u64 >= full.unwrap_or(28))
}
