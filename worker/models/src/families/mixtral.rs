//! Mixtral (Jiang et al. 2024): Mistral with experts in all layers.

use tensor::{RouterScore, Routing};

use super::{expert_count, refuse_partial_rotation};
use crate::config::fields::Fields;
use crate::config::{ExpertLayout, Experts, GroupedHeads, ModelConfig};
use crate::error::LoadError;

pub(super) fn mixtral(fields: &Fields<'_>) -> Result<ModelConfig, LoadError> {
    refuse_partial_rotation(fields)?;
    let experts = Experts {
        intermediate: fields.size("intermediate_size")?,
        activation: fields.activation("silu")?,
        routing: Routing {
            experts: expert_count(fields)?,
            top_k: fields.size("num_experts_per_tok")?,
            score: RouterScore::Softmax,
            groups: None,
            normalise: true,
            scale: 1.0,
        },
        layout: ExpertLayout::Named {
            experts: "block_sparse_moe.experts",
            gate: "w1",
            up: "w3",
            down: "w2",
        },
        router: "block_sparse_moe.gate",
        router_bias: false,
        choice_bias: None,
        shared: None,
    };
    let config = ModelConfig::decoder(fields, GroupedHeads::read(fields)?, experts)?;
    config.with_windows(fields, |_| true)
}
