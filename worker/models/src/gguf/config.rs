//! `config.json` and `generation_config.json` of a model in a GGUF file.

use serde_json::{Map, Value, json};
use tensor::{Encoding, StoredMatrix};

use super::GgufFile;
use super::names::Source;
use crate::error::LoadError;

/// A family: its name in GGUF, its class in `transformers`, its activation.
struct Family {
    name: &'static str,
    class: &'static str,
    activation: &'static str,
}

const FAMILIES: [Family; 8] = [
    family("llama", "LlamaForCausalLM", "silu"),
    family("qwen2", "Qwen2ForCausalLM", "silu"),
    family("qwen3", "Qwen3ForCausalLM", "silu"),
    family("qwen3moe", "Qwen3MoeForCausalLM", "silu"),
    family("gemma2", "Gemma2ForCausalLM", "gelu_pytorch_tanh"),
    family("gemma3", "Gemma3ForCausalLM", "gelu_pytorch_tanh"),
    family("phi3", "Phi3ForCausalLM", "silu"),
    family("granite", "GraniteForCausalLM", "silu"),
];

const fn family(name: &'static str, class: &'static str, activation: &'static str) -> Family {
    Family {
        name,
        class,
        activation,
    }
}

/// Sizes: GGUF's key after the architecture, and the field they become.
const SIZES: [(&str, &str); 12] = [
    ("embedding_length", "hidden_size"),
    ("feed_forward_length", "intermediate_size"),
    ("block_count", "num_hidden_layers"),
    ("attention.head_count", "num_attention_heads"),
    ("attention.head_count_kv", "num_key_value_heads"),
    ("attention.key_length", "head_dim"),
    ("context_length", "max_position_embeddings"),
    ("attention.sliding_window", "sliding_window"),
    ("expert_count", "num_local_experts"),
    ("expert_count", "num_experts"),
    ("expert_used_count", "num_experts_per_tok"),
    ("expert_feed_forward_length", "moe_intermediate_size"),
];

const NUMBERS: [(&str, &str); 8] = [
    ("attention.layer_norm_rms_epsilon", "rms_norm_eps"),
    ("rope.freq_base", "rope_theta"),
    ("attn_logit_softcapping", "attn_logit_softcapping"),
    ("final_logit_softcapping", "final_logit_softcapping"),
    ("attention.scale", "attention_multiplier"),
    ("embedding_scale", "embedding_multiplier"),
    ("residual_scale", "residual_multiplier"),
    ("logit_scale", "logits_scaling"),
];

/// Llama 3.1's scaling of rotary frequencies, of which a file has only the
/// outcome, but for the factor always the same.
const LOW_FREQ_FACTOR: f64 = 1.0;
const HIGH_FREQ_FACTOR: f64 = 4.0;
const ORIGINAL_POSITIONS: f64 = 8192.0;

pub(super) fn config(file: &GgufFile) -> Result<Value, LoadError> {
    let name = file.architecture()?;
    let family = FAMILIES
        .iter()
        .find(|family| family.name == name)
        .ok_or_else(|| LoadError::Unsupported {
            what: format!("architecture {name} of {}", file.name),
            supported: FAMILIES.map(|family| family.name).join(", "),
        })?;
    let mut config = Map::new();
    for (key, field) in SIZES {
        if let Some(size) = file.size(key)? {
            config.insert(field.to_owned(), json!(size));
        }
    }
    for (key, field) in NUMBERS {
        if let Some(number) = file.metadata.float(&format!("{name}.{key}"))? {
            config.insert(field.to_owned(), json!(number));
        }
    }
    let experts = config.contains_key("num_experts");
    let class = match (family.name, experts) {
        ("llama", true) => "MixtralForCausalLM",
        _ => family.class,
    };
    let activation = family.activation;
    let flags = json!({
        "architectures": [class],
        "vocab_size": file.vocabulary()?,
        "hidden_act": activation,
        "hidden_activation": activation,
        "attention_bias": file.tensors.contains_key("blk.0.attn_q.bias"),
        "mlp_bias": file.tensors.contains_key("blk.0.ffn_gate.bias"),
        "tie_word_embeddings": !file.tensors.contains_key("output.weight"),
        "norm_topk_prob": true,
        "bos_token_id": file.token("bos")?,
        "eos_token_id": file.token("eos")?,
    });
    if let Value::Object(flags) = flags {
        config.extend(flags);
    }
    if let Some(scaling) = rope_scaling(file, &config)? {
        config.insert("rope_scaling".to_owned(), scaling);
    }
    Ok(Value::Object(config))
}

/// End of text, and end of a turn if the file names one.
pub(super) fn generation_config(file: &GgufFile) -> Result<Value, LoadError> {
    let mut ends = Vec::new();
    for name in ["eos", "eot"] {
        if let Some(token) = file.token(name)?
            && !ends.contains(&token)
        {
            ends.push(token);
        }
    }
    Ok(json!({ "bos_token_id": file.token("bos")?, "eos_token_id": ends }))
}

impl GgufFile {
    pub(super) fn architecture(&self) -> Result<&str, LoadError> {
        let key = "general.architecture";
        let name = self.metadata.text(key)?;
        name.ok_or_else(|| self.metadata.error(key, "a string"))
    }

    /// A size of the architecture, if the file has it.
    pub(super) fn size(&self, key: &str) -> Result<Option<usize>, LoadError> {
        let key = format!("{}.{key}", self.architecture()?);
        match self.metadata.unsigned(&key)? {
            None => Ok(None),
            Some(size) => match usize::try_from(size) {
                Ok(size) => Ok(Some(size)),
                Err(_) => Err(self.metadata.error(&key, "a size of this machine")),
            },
        }
    }

    pub(super) fn required(&self, key: &str) -> Result<usize, LoadError> {
        match self.size(key)? {
            Some(size) => Ok(size),
            None => {
                let key = format!("{}.{key}", self.architecture()?);
                Err(self.metadata.error(&key, "a number"))
            }
        }
    }

    /// Rows of the embeddings.
    fn vocabulary(&self) -> Result<usize, LoadError> {
        let embeddings = self.tensors.get("token_embd.weight");
        match embeddings.map(|tensor| &tensor.dimensions[..]) {
            Some([_, rows]) => Ok(*rows),
            _ => Err(self.damaged("it has no matrix token_embd.weight")),
        }
    }

    /// The id of a token with a part of its own, such as `bos`.
    pub(super) fn token(&self, name: &str) -> Result<Option<u64>, LoadError> {
        let key = format!("tokenizer.ggml.{name}_token_id");
        self.metadata.unsigned(&key)
    }
}

fn rope_scaling(file: &GgufFile, config: &Map<String, Value>) -> Result<Option<Value>, LoadError> {
    let name = file.architecture()?;
    if let Some(factors) = file.tensors.get("rope_freqs.weight") {
        let place = Source {
            name: "rope_freqs.weight".to_owned(),
            expert: None,
        };
        let data = file.data_of(&place, factors, Encoding::F32)?;
        let shape = (1, data.len() / 4);
        let divisors = StoredMatrix::new(Encoding::F32, shape, data)?.to_f32();
        let theta = config.get("rope_theta").and_then(Value::as_f64);
        return llama3(&divisors, theta.unwrap_or(10_000.0))
            .map(Some)
            .ok_or_else(|| LoadError::Unsupported {
                what: format!("the rotary frequencies in {}", file.name),
                supported: "those of Llama 3.1 to 3.3".to_owned(),
            });
    }
    let kind = file.metadata.text(&format!("{name}.rope.scaling.type"))?;
    match kind.unwrap_or("none") {
        "none" => Ok(None),
        "linear" => {
            let key = format!("{name}.rope.scaling.factor");
            match file.metadata.float(&key)? {
                Some(factor) => Ok(Some(json!({ "rope_type": "linear", "factor": factor }))),
                None => Err(file.metadata.error(&key, "a number")),
            }
        }
        other => Err(LoadError::Unsupported {
            what: format!("rope type {other} of {}", file.name),
            supported: "none, linear, and that of Llama 3.1".to_owned(),
        }),
    }
}

/// The scaling whose outcome these divisors of frequencies are.
fn llama3(divisors: &[f32], theta: f64) -> Option<Value> {
    let factor = f64::from(divisors.iter().copied().fold(1.0, f32::max));
    let pairs = divisors.len() as f64;
    for (i, &divisor) in divisors.iter().enumerate() {
        let frequency = theta.powf(-(i as f64) / pairs);
        let turns = ORIGINAL_POSITIONS * frequency / std::f64::consts::TAU;
        let kept = (turns - LOW_FREQ_FACTOR) / (HIGH_FREQ_FACTOR - LOW_FREQ_FACTOR);
        let kept = kept.clamp(0.0, 1.0);
        let expected = 1.0 / (kept + (1.0 - kept) / factor);
        if (f64::from(divisor) / expected - 1.0).abs() > 1e-3 {
            return None;
        }
    }
    Some(json!({
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": LOW_FREQ_FACTOR,
        "high_freq_factor": HIGH_FREQ_FACTOR,
        "original_max_position_embeddings": ORIGINAL_POSITIONS as u64,
    }))
}
