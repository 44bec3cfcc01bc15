//! The families there is code for: each is a description, read from its own
//! fields of `config.json`, of how the shared parts are put together.

mod deepseek;
mod gemma;
mod gpt_oss;
mod granite;
mod llama;
mod mixtral;
mod phi;
mod qwen;

use serde_json::Value;

use crate::config::ModelConfig;
use crate::config::fields::Fields;
use crate::error::LoadError;
use crate::quantize::compressed;

type Describe = fn(&Fields<'_>) -> Result<ModelConfig, LoadError>;

/// Above any real model's, so that a hostile config costs nothing.
const MOST_EXPERTS: usize = 4096;

/// By the name in `architectures`.
const FAMILIES: [(&str, Describe); 15] = [
    ("LlamaForCausalLM", llama::llama),
    ("MistralForCausalLM", llama::mistral),
    ("Qwen2ForCausalLM", qwen::qwen2),
    ("Qwen3ForCausalLM", qwen::qwen3),
    ("Qwen3MoeForCausalLM", qwen::qwen3_moe),
    ("GraniteForCausalLM", granite::granite),
    ("GraniteMoeHybridForCausalLM", granite::granite_hybrid),
    ("Gemma2ForCausalLM", gemma::gemma2),
    ("Gemma3ForCausalLM", gemma::gemma3),
    ("Gemma3ForConditionalGeneration", gemma::gemma3_text),
    ("Phi3ForCausalLM", phi::phi3),
    ("MixtralForCausalLM", mixtral::mixtral),
    ("DeepseekV2ForCausalLM", deepseek::v2),
    ("DeepseekV3ForCausalLM", deepseek::v3),
    ("GptOssForCausalLM", gpt_oss::gpt_oss),
];

/// Describes the model whose config this is.
pub(crate) fn describe(fields: &Fields<'_>) -> Result<ModelConfig, LoadError> {
    let name = fields
        .get("architectures")
        .and_then(|list| list.get(0)?.as_str())
        .ok_or_else(|| fields.error("architectures", "a list with one name"))?;
    let family = FAMILIES.iter().find(|(family, _)| *family == name);
    let Some((architecture, describe)) = family else {
        let names: Vec<&str> = FAMILIES.iter().map(|(name, _)| *name).collect();
        return Err(unsupported(
            format!("architecture {name}"),
            &names.join(", "),
        ));
    };
    refuse_quantization(fields, architecture)?;
    let config = ModelConfig {
        architecture,
        ..describe(fields)?
    };
    let mut experts = config
        .layers
        .iter()
        .filter_map(|layer| layer.feed_forward.experts());
    if experts.any(|experts| experts.routing.validate().is_err()) {
        let rule = "at most the experts, or those of the groups that are chosen from";
        return Err(fields.error("num_experts_per_tok", rule));
    }
    Ok(config)
}

/// gpt-oss has quantised weights of its own kind, and looks at them itself; all
/// others may have those of compressed-tensors.
fn refuse_quantization(fields: &Fields<'_>, architecture: &str) -> Result<(), LoadError> {
    match quantization(fields) {
        Some("compressed-tensors") => match fields.get("quantization_config") {
            Some(config) => compressed::check(config),
            None => Ok(()),
        },
        Some(method) if architecture != "GptOssForCausalLM" => Err(unsupported(
            format!("quantization_config ({method})"),
            "weights of f32, bf16 or f16, and compressed-tensors",
        )),
        _ => Ok(()),
    }
}

/// The method by which weights are quantised, if they are.
fn quantization<'a>(fields: &Fields<'a>) -> Option<&'a str> {
    let quantization = fields.get("quantization_config")?;
    let method = quantization.get("quant_method").and_then(Value::as_str);
    Some(method.unwrap_or("unnamed"))
}

/// The share of a head that is rotated must be all of it, as this family has no
/// code for less.
fn refuse_partial_rotation(fields: &Fields<'_>) -> Result<(), LoadError> {
    let field = "partial_rotary_factor";
    let inner = match fields.object("rope_parameters", "rope_parameters.")? {
        Some(parameters) => parameters.optional_positive(field)?,
        None => None,
    };
    for factor in [inner, fields.optional_positive(field)?] {
        if !matches!(factor, None | Some(1.0)) {
            let what = format!("a {field}");
            return Err(unsupported(what, "rotation of whole heads"));
        }
    }
    Ok(())
}

/// How many experts there are, under any of the names that a number of
/// releases gave it.
fn expert_count(fields: &Fields<'_>) -> Result<usize, LoadError> {
    let names = ["num_local_experts", "num_experts", "n_routed_experts"];
    let found = names.into_iter().find(|name| fields.get(name).is_some());
    fields.size_up_to(found.unwrap_or(names[0]), MOST_EXPERTS)
}

fn unsupported(what: String, supported: &str) -> LoadError {
    LoadError::Unsupported {
        what,
        supported: supported.to_owned(),
    }
}
