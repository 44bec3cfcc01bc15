//! Granite 3 and the dense models of Granite 4 (IBM 2024, 2025): Llama with
//! multipliers.

use serde_json::Value;

use super::{refuse_partial_rotation, unsupported};
use crate::config::fields::Fields;
use crate::config::{Dense, DenseLayout, GroupedHeads, ModelConfig, Multipliers};
use crate::error::LoadError;

pub(super) fn granite(fields: &Fields<'_>) -> Result<ModelConfig, LoadError> {
    let dense = Dense {
        bias: fields.flag("mlp_bias")?,
        ..Dense::read(fields)?
    };
    with_multipliers(fields, dense)
}

/// Granite 4: a hybrid with experts and state-space layers, of which the dense
/// models use neither.
pub(super) fn granite_hybrid(fields: &Fields<'_>) -> Result<ModelConfig, LoadError> {
    let experts = fields.get("num_local_experts").and_then(Value::as_u64);
    if experts != Some(0) {
        let what = format!(
            "num_local_experts {} of GraniteMoeHybridForCausalLM",
            experts.unwrap_or(8)
        );
        return Err(unsupported(what, "0, the dense models"));
    }
    if fields.get("layer_types").is_none() {
        return Err(fields.error("layer_types", "a list of one word for each layer"));
    }
    let dense = Dense {
        intermediate: fields.size("shared_intermediate_size")?,
        layout: DenseLayout::Fused {
            gate_up: "shared_mlp.input_linear",
            down: "shared_mlp.output_linear",
        },
        ..Dense::read(fields)?
    };
    let mut config = with_multipliers(fields, dense)?.with_windows(fields, |_| false)?;
    match fields.text("position_embedding_type")? {
        Some("rope") => {}
        None | Some("nope") => {
            for layer in &mut config.layers {
                layer.rope = None;
            }
        }
        Some(other) => {
            let what = format!("position_embedding_type {other}");
            return Err(unsupported(what, "rope, nope"));
        }
    }
    Ok(config)
}

fn with_multipliers(fields: &Fields<'_>, dense: Dense) -> Result<ModelConfig, LoadError> {
    refuse_partial_rotation(fields)?;
    let heads = GroupedHeads {
        scale: fields.multiplier("attention_multiplier")?,
        ..GroupedHeads::read(fields)?.with_biases(fields.flag("attention_bias")?)
    };
    Ok(ModelConfig {
        multipliers: Multipliers {
            embedding: fields.multiplier("embedding_multiplier")?,
            residual: fields.multiplier("residual_multiplier")?,
            logits: fields.multiplier("logits_scaling")?.recip(),
        },
        ..ModelConfig::decoder(fields, heads, dense)?
    })
}
