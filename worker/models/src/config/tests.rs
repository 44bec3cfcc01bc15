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

fn grouped(config: &ModelConfig) -> GroupedHeads {
    match config.attention {
        AttentionConfig::Grouped(heads) => heads,
        AttentionConfig::Latent(_) => panic!("latent attention"),
    }
}

fn windows(config: &ModelConfig) -> Vec<Option<usize>> {
    config.layers.iter().map(|layer| layer.window).collect()
}

#[test]
fn fills_in_what_older_configs_leave_out() {
    let config = read(&with(json!({ "num_key_value_heads": null })), None).unwrap();
    let heads = grouped(&config);
    assert_eq!((heads.heads, heads.kv_heads, heads.head_dim), (4, 4, 16));
    let rope = Rope {
        dim: 16,
        theta: 10_000.0,
        scaling: RopeScaling::None,
    };
    assert_eq!(config.ropes, [rope]);
    assert_eq!(config.eos_token_ids, [2]);
    assert!(!heads.qkv_bias && !heads.output_bias && !config.tie_word_embeddings);
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
    let rope = read(&older, None).unwrap().ropes.remove(0);
    assert_eq!(read(&newer, None).unwrap().ropes[0], rope);
    assert_eq!(rope.theta, 5e5);
    assert!(matches!(
        rope.scaling,
        RopeScaling::Llama3 { factor: 8.0, .. }
    ));
    let oldest = with(json!({ "rope_scaling": { "type": "linear", "factor": 2 } }));
    let scaling = &read(&oldest, None).unwrap().ropes[0].scaling;
    assert_eq!(*scaling, RopeScaling::Linear { factor: 2.0 });
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
fn mistral_slides_in_all_layers_or_none() {
    let mistral =
        |window| with(json!({ "architectures": ["MistralForCausalLM"], "sliding_window": window }));
    let of = |window| windows(&read(&mistral(window), None).unwrap());
    assert_eq!(of(json!(null)), [None, None]);
    assert_eq!(of(json!(4096)), [Some(4096), Some(4096)]);
}

#[test]
fn qwen_slides_only_if_told_and_only_late_layers() {
    let qwen = |used: bool| {
        let config = with(json!({
            "architectures": ["Qwen2ForCausalLM"], "use_sliding_window": used,
            "sliding_window": 64, "max_window_layers": 1
        }));
        windows(&read(&config, None).unwrap())
    };
    assert_eq!(qwen(false), [None, None]);
    assert_eq!(qwen(true), [None, Some(64)]);
}

#[test]
fn layer_types_win_over_a_familys_pattern() {
    let gemma = |types: Value| {
        let config = with(json!({
            "architectures": ["Gemma2ForCausalLM"], "sliding_window": 64, "layer_types": types
        }));
        read(&config, None)
    };
    let of = |types| windows(&gemma(types).unwrap());
    assert_eq!(of(json!(null)), [Some(64), None]);
    let swapped = json!(["full_attention", "sliding_attention"]);
    assert_eq!(of(swapped), [None, Some(64)]);
    let error = gemma(json!(["mamba", "full_attention"])).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("layer type mamba is not supported")
    );
    assert!(gemma(json!(["full_attention"])).is_err());
}

#[test]
fn gemma3_fills_in_what_published_configs_leave_out() {
    let published = json!({
        "architectures": ["Gemma3ForConditionalGeneration"],
        "eos_token_id": [1, 106],
        "text_config": {
            "hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34,
            "rms_norm_eps": 1e-6, "rope_scaling": { "factor": 8.0, "rope_type": "linear" },
            "sliding_window": 1024
        }
    });
    let config = read(&published, None).unwrap();
    assert_eq!(config.vocab_size, 262_208);
    assert_eq!(config.eos_token_ids, [1, 106]);
    assert!(config.tie_word_embeddings);
    let theta: Vec<f64> = config.ropes.iter().map(|rope| rope.theta).collect();
    assert_eq!(theta, [1e6, 1e4]);
    assert_eq!(config.ropes[0].scaling, RopeScaling::Linear { factor: 8.0 });
    assert_eq!(config.ropes[1].scaling, RopeScaling::None);
    let ropes: Vec<_> = config.layers[..6].iter().map(|layer| layer.rope).collect();
    assert_eq!(
        ropes,
        [Some(1), Some(1), Some(1), Some(1), Some(1), Some(0)]
    );
    assert_eq!(windows(&config)[4..6], [Some(1024), None]);
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
            json!({ "architectures": ["GraniteMoeHybridForCausalLM"], "num_local_experts": 4 }),
            "num_local_experts 4 of GraniteMoeHybridForCausalLM",
        ),
        (
            json!({
                "architectures": ["GptOssForCausalLM"],
                "quantization_config": { "quant_method": "fp8" }
            }),
            "quantization_config (fp8)",
        ),
        (
            json!({ "partial_rotary_factor": 0.5 }),
            "a partial_rotary_factor",
        ),
        (
            json!({ "rope_parameters": { "partial_rotary_factor": 0.5 } }),
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
            json!({ "rope_scaling": { "rope_type": "ntk" } }),
            "rope type ntk",
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
        (json!({ "num_hidden_layers": 1025 }), "num_hidden_layers"),
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
        (json!({ "head_dim": 4098 }), "head_dim"),
        (
            json!({ "architectures": ["Phi3ForCausalLM"], "partial_rotary_factor": 0.2 }),
            "partial_rotary_factor",
        ),
        (
            json!({ "architectures": ["Phi3ForCausalLM"], "rope_scaling": {
                "type": "su", "long_factor": [1.0], "short_factor": [1.0]
            } }),
            "rope_scaling.short_factor",
        ),
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
