use serde_json::json;

use super::*;

fn config() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": 128,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5,
        "eos_token_id": 2
    })
}

/// The config with `changes`' fields; null takes a field away.
fn with(changes: Value) -> Value {
    let mut config = config();
    let fields = config.as_object_mut().unwrap();
    for (name, value) in changes.as_object().unwrap() {
        fields.insert(name.clone(), value.clone());
    }
    config
}

fn read(config: &Value, generation: Option<Value>) -> Result<ModelConfig, LoadError> {
    let leak = |value: &Value| -> &'static [u8] { value.to_string().into_bytes().leak() };
    let mut files = vec![(CONFIG, leak(config))];
    files.extend(generation.map(|value| (GENERATION_CONFIG, leak(&value))));
    ModelConfig::read(&ModelFiles::embedded(files.leak()))
}

#[test]
fn fills_in_what_older_configs_leave_out() {
    let config = read(&with(json!({ "num_key_value_heads": null })), None).unwrap();
    assert_eq!((config.heads, config.kv_heads, config.head_dim), (4, 4, 16));
    assert_eq!(
        config.rope,
        Rope {
            theta: 10_000.0,
            scaling: RopeScaling::None
        }
    );
    assert_eq!(config.eos_token_ids, [2]);
    assert!(!config.attention_bias && !config.mlp_bias && !config.tie_word_embeddings);
}

#[test]
fn reads_both_spellings_of_rope() {
    let llama3 = json!({
        "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64, "rope_type": "llama3"
    });
    let older = with(json!({ "rope_theta": 5e5, "rope_scaling": llama3 }));
    let mut parameters = llama3.clone();
    parameters["rope_theta"] = json!(5e5);
    let newer = with(json!({ "rope_parameters": parameters }));
    let rope = read(&older, None).unwrap().rope;
    assert_eq!(read(&newer, None).unwrap().rope, rope);
    assert_eq!(rope.theta, 5e5);
    assert!(matches!(
        rope.scaling,
        RopeScaling::Llama3 { factor: 8.0, .. }
    ));
    let oldest = with(json!({ "rope_scaling": { "type": "linear", "factor": 2 } }));
    let scaling = read(&oldest, None).unwrap().rope.scaling;
    assert_eq!(scaling, RopeScaling::Linear { factor: 2.0 });
}

#[test]
fn end_tokens_of_the_generation_config_win() {
    let eos = |generation| read(&config(), generation).unwrap().eos_token_ids;
    assert_eq!(eos(Some(json!({ "eos_token_id": [7, 8] }))), [7, 8]);
    assert_eq!(eos(Some(json!({ "eos_token_id": 7 }))), [7]);
    assert_eq!(eos(Some(json!({ "temperature": 0.7 }))), [2]);
    assert_eq!(eos(None), [2]);
    let none = with(json!({ "eos_token_id": null }));
    assert!(read(&none, None).unwrap().eos_token_ids.is_empty());
}

#[test]
fn accepts_mistral_without_a_sliding_window() {
    let mistral = json!({ "architectures": ["MistralForCausalLM"], "sliding_window": null });
    let config = read(&with(mistral), None).unwrap();
    assert_eq!(config.architecture, Architecture::Mistral);
}

#[test]
fn refuses_models_there_is_no_code_for() {
    let cases = [
        (
            json!({ "architectures": ["GPT2LMHeadModel"] }),
            "architecture GPT2LMHeadModel",
        ),
        (json!({ "hidden_act": "gelu" }), "activation gelu"),
        (
            json!({ "sliding_window": 4096 }),
            "a sliding_window of 4096",
        ),
        (
            json!({ "partial_rotary_factor": 0.5 }),
            "a partial_rotary_factor",
        ),
        (
            json!({ "quantization_config": { "quant_method": "gptq" } }),
            "quantization_config (gptq)",
        ),
        (
            json!({ "quantization_config": {} }),
            "quantization_config (unnamed)",
        ),
        (
            json!({ "rope_scaling": { "rope_type": "yarn" } }),
            "rope type yarn",
        ),
        (
            json!({ "rope_parameters": { "rope_type": "dynamic" } }),
            "rope type dynamic",
        ),
    ];
    for (changes, what) in cases {
        let error = read(&with(changes), None).unwrap_err();
        let prefix = format!("{what} is not supported; supported: ");
        assert!(error.to_string().starts_with(&prefix), "{error}");
    }
}

#[test]
fn names_the_field_that_is_wrong() {
    let llama3 = |field: &str, value: Value| {
        let mut scaling = json!({
            "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64, "rope_type": "llama3"
        });
        scaling[field] = value;
        json!({ "rope_scaling": scaling })
    };
    let cases = [
        (json!({ "architectures": null }), "architectures"),
        (json!({ "architectures": [] }), "architectures"),
        (json!({ "vocab_size": null }), "vocab_size"),
        (json!({ "vocab_size": 0 }), "vocab_size"),
        (json!({ "vocab_size": -1 }), "vocab_size"),
        (json!({ "vocab_size": 1.5 }), "vocab_size"),
        (json!({ "hidden_size": "64" }), "hidden_size"),
        (json!({ "hidden_size": u64::MAX }), "hidden_size"),
        (json!({ "num_hidden_layers": 0 }), "num_hidden_layers"),
        (json!({ "num_attention_heads": 0 }), "num_attention_heads"),
        (
            json!({ "num_attention_heads": 6, "num_key_value_heads": 2 }),
            "hidden_size",
        ),
        (json!({ "hidden_size": 36 }), "hidden_size"),
        (json!({ "num_key_value_heads": 0 }), "num_key_value_heads"),
        (json!({ "num_key_value_heads": 3 }), "num_key_value_heads"),
        (json!({ "num_key_value_heads": 8 }), "num_key_value_heads"),
        (json!({ "head_dim": 15 }), "head_dim"),
        (json!({ "head_dim": 1 << 24 }), "head_dim"),
        (
            json!({ "max_position_embeddings": 0 }),
            "max_position_embeddings",
        ),
        (json!({ "rms_norm_eps": 0 }), "rms_norm_eps"),
        (json!({ "rms_norm_eps": 1e300 }), "rms_norm_eps"),
        (json!({ "rope_theta": -1 }), "rope_theta"),
        (json!({ "rope_scaling": 3 }), "rope_scaling"),
        (
            json!({ "rope_scaling": { "type": "linear" } }),
            "rope_scaling.factor",
        ),
        (llama3("factor", json!(0)), "rope_scaling.factor"),
        (
            llama3("high_freq_factor", json!(1.0)),
            "rope_scaling.high_freq_factor",
        ),
        (
            llama3("original_max_position_embeddings", json!(null)),
            "rope_scaling.original_max_position_embeddings",
        ),
        (
            json!({ "rope_parameters": { "rope_theta": "x" } }),
            "rope_parameters.rope_theta",
        ),
        (json!({ "attention_bias": 1 }), "attention_bias"),
        (
            json!({ "tie_word_embeddings": "yes" }),
            "tie_word_embeddings",
        ),
        (json!({ "eos_token_id": -1 }), "eos_token_id"),
        (json!({ "eos_token_id": [1, "2"] }), "eos_token_id"),
    ];
    for (changes, expected) in cases {
        match read(&with(changes.clone()), None) {
            Err(LoadError::Field { field, .. }) => assert_eq!(field, expected, "{changes}"),
            other => panic!("{changes}: {other:?}"),
        }
    }
}

#[test]
fn damaged_configs_are_errors() {
    for content in ["", "{", "[]", "7", "\u{0}"] {
        let files = ModelFiles::embedded(vec![(CONFIG, content.as_bytes())].leak());
        assert!(matches!(
            ModelConfig::read(&files),
            Err(LoadError::Damaged { .. })
        ));
    }
    let missing = ModelConfig::read(&ModelFiles::embedded(&[])).unwrap_err();
    assert!(missing.to_string().contains("has no config.json"));
    let error = read(&config(), Some(json!({ "eos_token_id": "x" }))).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("generation_config.json: eos_token_id must be")
    );
}
