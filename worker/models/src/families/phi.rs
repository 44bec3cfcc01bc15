//! Phi-3 and Phi-4 (Abdin et al. 2024): Llama with fused matrices.

use crate::config::fields::Fields;
use crate::config::{Dense, DenseLayout, GroupedHeads, ModelConfig};
use crate::error::LoadError;

pub(super) fn phi3(fields: &Fields<'_>) -> Result<ModelConfig, LoadError> {
    let heads = GroupedHeads::read(fields)?;
    let heads = GroupedHeads {
        fused: true,
        rotary_dim: rotary_dim(fields, heads.head_dim)?,
        ..heads
    };
    let dense = Dense {
        layout: DenseLayout::Fused {
            gate_up: "mlp.gate_up_proj",
            down: "mlp.down_proj",
        },
        ..Dense::read(fields)?
    };
    ModelConfig::decoder(fields, heads, dense)?.with_windows(fields, |_| true)
}

/// The part of a head that is rotated.
fn rotary_dim(fields: &Fields<'_>, head_dim: usize) -> Result<usize, LoadError> {
    let parameters = fields.object("rope_parameters", "rope_parameters.")?;
    let field = "partial_rotary_factor";
    let inner = match &parameters {
        Some(parameters) => parameters.optional_positive(field)?,
        None => None,
    };
    let factor = match inner {
        Some(factor) => factor,
        None => fields.optional_positive(field)?.unwrap_or(1.0),
    };
    let dim = (head_dim as f64 * factor) as usize;
    if !(2..=head_dim).contains(&dim) || !dim.is_multiple_of(2) {
        return Err(fields.error(field, "at most 1, and an even part of head_dim"));
    }
    Ok(dim)
}
