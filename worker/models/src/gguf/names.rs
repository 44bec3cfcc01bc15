//! From Hugging Face's names of weights to GGUF's.

/// Where a weight of a Hugging Face checkpoint lies in a GGUF file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Source {
    /// The name of the tensor.
    pub(super) name: String,
    /// Which matrix of a tensor of several.
    pub(super) expert: Option<usize>,
}

/// Parts of a layer. Gemma norms before and after each half of a layer, and
/// calls other norms by the names that all others use.
const PARTS: [(&str, &str); 23] = [
    ("input_layernorm", "attn_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.qkv_proj", "attn_qkv"),
    ("self_attn.o_proj", "attn_output"),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("self_attn.sinks", "attn_sinks"),
    ("pre_feedforward_layernorm", "ffn_norm"),
    ("post_feedforward_layernorm", "post_ffw_norm"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.gate_up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
    ("mlp.gate", "ffn_gate_inp"),
    ("mlp.router", "ffn_gate_inp"),
    ("block_sparse_moe.gate", "ffn_gate_inp"),
    ("mlp.shared_experts.gate_proj", "ffn_gate_shexp"),
    ("mlp.shared_experts.up_proj", "ffn_up_shexp"),
    ("mlp.shared_experts.down_proj", "ffn_down_shexp"),
    ("self_attn.kv_a_proj_with_mqa", "attn_kv_a_mqa"),
    ("self_attn.kv_a_layernorm", "attn_kv_a_norm"),
];

const EXPERTS: [(&str, &str); 6] = [
    ("gate_proj", "ffn_gate_exps"),
    ("up_proj", "ffn_up_exps"),
    ("down_proj", "ffn_down_exps"),
    ("w1", "ffn_gate_exps"),
    ("w3", "ffn_up_exps"),
    ("w2", "ffn_down_exps"),
];

/// `None` for a name that no GGUF file has a tensor for.
pub(super) fn source(architecture: &str, name: &str) -> Option<Source> {
    let (part, suffix) = name.rsplit_once('.')?;
    let whole = |name: String| {
        Some(Source {
            name: format!("{name}.{suffix}"),
            expert: None,
        })
    };
    match part {
        "model.embed_tokens" => return whole("token_embd".to_owned()),
        "model.norm" => return whole("output_norm".to_owned()),
        "lm_head" => return whole("output".to_owned()),
        _ => {}
    }
    let (layer, part) = part.strip_prefix("model.layers.")?.split_once('.')?;
    if part == "post_attention_layernorm" {
        let gemma = architecture.starts_with("gemma");
        let norm = if gemma {
            "post_attention_norm"
        } else {
            "ffn_norm"
        };
        return whole(format!("blk.{layer}.{norm}"));
    }
    if let Some((_, expert)) = part.split_once(".experts.") {
        let (expert, part) = expert.split_once('.')?;
        let (_, tensor) = EXPERTS.iter().find(|(name, _)| *name == part)?;
        return Some(Source {
            name: format!("blk.{layer}.{tensor}.{suffix}"),
            expert: Some(expert.parse().ok()?),
        });
    }
    let (_, tensor) = PARTS.iter().find(|(name, _)| *name == part)?;
    whole(format!("blk.{layer}.{tensor}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_of_every_kind_have_their_tensors() {
        let cases = [
            (
                "llama",
                "model.embed_tokens.weight",
                "token_embd.weight",
                None,
            ),
            ("llama", "lm_head.weight", "output.weight", None),
            (
                "qwen2",
                "model.layers.3.self_attn.q_proj.bias",
                "blk.3.attn_q.bias",
                None,
            ),
            (
                "llama",
                "model.layers.11.post_attention_layernorm.weight",
                "blk.11.ffn_norm.weight",
                None,
            ),
            (
                "gemma3",
                "model.layers.1.post_attention_layernorm.weight",
                "blk.1.post_attention_norm.weight",
                None,
            ),
            (
                "llama",
                "model.layers.2.block_sparse_moe.experts.7.w2.weight",
                "blk.2.ffn_down_exps.weight",
                Some(7),
            ),
            (
                "qwen3moe",
                "model.layers.2.mlp.experts.5.up_proj.weight",
                "blk.2.ffn_up_exps.weight",
                Some(5),
            ),
        ];
        for (architecture, name, tensor, expert) in cases {
            let expected = Source {
                name: tensor.to_owned(),
                expert,
            };
            assert_eq!(source(architecture, name), Some(expected));
        }
        for unknown in [
            "",
            "weight",
            "model.layers.weight",
            "model.layers.0.strange.weight",
        ] {
            assert_eq!(source("llama", unknown), None);
        }
    }
}
