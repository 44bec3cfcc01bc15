//! Llama 2 and 3 (Touvron et al. 2023), and Mistral (Jiang et al. 2023).

use super::refuse_partial_rotation;
use crate::config::fields::Fields;
use crate::config::{Dense, GroupedHeads, ModelConfig};
use crate::error::LoadError;

pub(super) fn llama(fields: &Fields<'_>) -> Result<ModelConfig, LoadError> {
    refuse_partial_rotation(fields)?;
    let heads = GroupedHeads::read(fields)?.with_biases(fields.flag("attention_bias")?);
    let dense = Dense {
        bias: fields.flag("mlp_bias")?,
        ..Dense::read(fields)?
    };
    ModelConfig::decoder(fields, heads, dense)
}

/// Llama with a sliding window, if any, in all layers.
pub(super) fn mistral(fields: &Fields<'_>) -> Result<ModelConfig, LoadError> {
    llama(fields)?.with_windows(fields, |_| true)
}
