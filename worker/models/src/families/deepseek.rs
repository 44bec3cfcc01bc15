//! DeepSeek-V2 and V3 (DeepSeek-AI 2024): latent attention and many small
//! experts beside shared ones.

use serde_json::Value;
use tensor::{ExpertGroups, RotaryPairs, RouterScore, Routing};

use super::{expert_count, unsupported};
use crate::config::fields::Fields;
use crate::config::{
    Dense, DenseLayout, ExpertLayout, Experts, FeedForward, LatentHeads, ModelConfig, Rope,
};
use crate::error::LoadError;

/// Experts by softmax; the larger model chooses among the best groups.
pub(super) fn v2(fields: &Fields<'_>) -> Result<ModelConfig, LoadError> {
    let groups = match fields.text("topk_method")?.unwrap_or("greedy") {
        "greedy" => None,
        "group_limited_greedy" => groups(fields, 1)?,
        other => {
            let what = format!("topk_method {other}");
            return Err(unsupported(what, "greedy, group_limited_greedy"));
        }
    };
    if fields.flag("norm_topk_prob")? {
        let what = "norm_topk_prob of DeepseekV2ForCausalLM".to_owned();
        return Err(unsupported(what, "experts' weights as they are"));
    }
    let routing = Routing {
        score: RouterScore::Softmax,
        groups,
        normalise: false,
        ..routing(fields)?
    };
    deepseek(fields, routing, RotaryPairs::Adjacent)
}

/// Experts by sigmoid, chosen with a learned correction among the best groups.
pub(super) fn v3(fields: &Fields<'_>) -> Result<ModelConfig, LoadError> {
    let routing = Routing {
        groups: groups(fields, 2)?,
        normalise: fields.optional_flag("norm_topk_prob")?.unwrap_or(true),
        ..routing(fields)?
    };
    let pairs = match fields.optional_flag("rope_interleave")?.unwrap_or(true) {
        true => RotaryPairs::Adjacent,
        false => RotaryPairs::Halves,
    };
    deepseek(fields, routing, pairs)
}

fn routing(fields: &Fields<'_>) -> Result<Routing, LoadError> {
    Ok(Routing {
        experts: expert_count(fields)?,
        top_k: fields.size("num_experts_per_tok")?,
        score: RouterScore::Sigmoid,
        groups: None,
        normalise: true,
        scale: fields.multiplier("routed_scaling_factor")?,
    })
}

/// Groups of experts, each as good as its `best` experts.
fn groups(fields: &Fields<'_>, best: usize) -> Result<Option<ExpertGroups>, LoadError> {
    let groups = fields.optional_size("n_group")?.unwrap_or(1);
    let kept = fields.optional_size("topk_group")?.unwrap_or(groups);
    Ok((groups > 1).then_some(ExpertGroups { groups, kept, best }))
}

fn deepseek(
    fields: &Fields<'_>,
    routing: Routing,
    pairs: RotaryPairs,
) -> Result<ModelConfig, LoadError> {
    let dense = Dense::read(fields)?;
    let intermediate = fields.size("moe_intermediate_size")?;
    let shared = fields
        .optional_size("n_shared_experts")?
        .map(|experts| Dense {
            intermediate: experts * intermediate,
            layout: DenseLayout::Separate {
                gate: "mlp.shared_experts.gate_proj",
                up: "mlp.shared_experts.up_proj",
                down: "mlp.shared_experts.down_proj",
            },
            ..dense
        });
    let sigmoid = routing.score == RouterScore::Sigmoid;
    let experts = Experts {
        intermediate,
        activation: dense.activation,
        routing,
        layout: ExpertLayout::Named {
            experts: "mlp.experts",
            gate: "gate_proj",
            up: "up_proj",
            down: "down_proj",
        },
        router: "mlp.gate",
        router_bias: false,
        choice_bias: sigmoid.then_some("mlp.gate.e_score_correction_bias"),
        shared,
    };
    // May be 0: all layers have experts.
    let first = fields.get("first_k_dense_replace").and_then(Value::as_u64);
    let config = ModelConfig::decoder(fields, heads(fields, pairs)?, dense)?;
    Ok(
        config.with_feed_forward(|layer| match layer as u64 >= first.unwrap_or(0) {
            true => FeedForward::Experts(experts),
            false => FeedForward::Dense(dense),
        }),
    )
}

fn heads(fields: &Fields<'_>, pairs: RotaryPairs) -> Result<LatentHeads, LoadError> {
    let rotary_dim = fields.size_up_to("qk_rope_head_dim", 4096)?;
    if !rotary_dim.is_multiple_of(2) {
        return Err(fields.error("qk_rope_head_dim", "even"));
    }
    let plain_dim = fields.size_up_to("qk_nope_head_dim", 4096)?;
    let rope = Rope::parse(fields, rotary_dim)?;
    Ok(LatentHeads {
        heads: fields.size_up_to("num_attention_heads", 4096)?,
        query_rank: fields.optional_size("q_lora_rank")?,
        kv_rank: fields.size_up_to("kv_lora_rank", 65_536)?,
        plain_dim,
        rotary_dim,
        value_dim: fields.size_up_to("v_head_dim", 4096)?,
        scale: ((plain_dim + rotary_dim) as f32).sqrt().recip() * rope.score_multiplier(),
        bias: fields.flag("attention_bias")?,
        pairs,
    })
}
