//! gpt-oss (OpenAI 2025): attention sinks, every second layer slides, experts
//! in four bits.

use tensor::{Activation, RouterScore, Routing};

use super::{expert_count, quantization, refuse_partial_rotation, unsupported};
use crate::config::fields::Fields;
use crate::config::{ExpertLayout, Experts, GroupedHeads, ModelConfig, StackFormat};
use crate::error::LoadError;

pub(super) fn gpt_oss(fields: &Fields<'_>) -> Result<ModelConfig, LoadError> {
    refuse_partial_rotation(fields)?;
    let format = match quantization(fields) {
        None => StackFormat::Plain,
        Some("mxfp4") => StackFormat::Mxfp4,
        Some(other) => {
            let what = format!("quantization_config ({other})");
            return Err(unsupported(what, "mxfp4, or weights of f32, bf16 or f16"));
        }
    };
    let bias = fields.optional_flag("attention_bias")?.unwrap_or(true);
    let heads = GroupedHeads {
        sinks: true,
        ..GroupedHeads::read(fields)?.with_biases(bias)
    };
    let number = |field, default: f64| {
        let number = fields.optional_positive(field)?;
        Ok::<_, LoadError>(number.unwrap_or(default) as f32)
    };
    let experts = Experts {
        intermediate: fields.size("intermediate_size")?,
        activation: Activation::ClampedSwiglu {
            alpha: number("swiglu_alpha", 1.702)?,
            limit: number("swiglu_limit", 7.0)?,
        },
        routing: Routing {
            experts: expert_count(fields)?,
            top_k: fields.size("num_experts_per_tok")?,
            score: RouterScore::Softmax,
            groups: None,
            normalise: true,
            scale: 1.0,
        },
        layout: ExpertLayout::Stacked { format },
        router: "mlp.router",
        router_bias: true,
        choice_bias: None,
        shared: None,
    };
    let config = ModelConfig::decoder(fields, heads, experts)?;
    config.with_windows(fields, |layer| layer.is_multiple_of(2))
}
