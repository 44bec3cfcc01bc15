//! Configs as their makers published them, when the shared data folder is
//! there.

use models::{LoadError, ModelConfig, ModelFiles};
use serde_json::Value;

fn read(config: &Value) -> Result<ModelConfig, LoadError> {
    let config: &'static [u8] = config.to_string().into_bytes().leak();
    ModelConfig::read(&ModelFiles::embedded(vec![("config.json", config)].leak()))
}

#[test]
fn published_configs_describe_models_of_known_size() {
    let Some(data) = std::env::var_os("KVASIR_SHARED_DATA") else {
        println!("skipped: set KVASIR_SHARED_DATA to the folder that has models/configs");
        return;
    };
    // Layers, and f32 numbers that are kept of a token in one layer.
    let known = [
        ("Qwen--Qwen3-0.6B", 28, 2 * 8 * 128),
        ("Qwen--Qwen3-8B", 36, 2 * 8 * 128),
        ("Qwen--Qwen3-30B-A3B", 48, 2 * 4 * 128),
        ("meta-llama--Meta-Llama-3.1-8B", 32, 2 * 8 * 128),
        ("mistralai--Mixtral-8x7B-v0.1", 32, 2 * 8 * 128),
        ("deepseek-ai--DeepSeek-V3", 61, 512 + 64),
    ];
    let folder = std::path::Path::new(&data).join("models/configs");
    for (name, layers, numbers) in known {
        let text = std::fs::read(folder.join(format!("{name}.config.json"))).unwrap();
        let mut config: Value = serde_json::from_slice(&text).unwrap();
        if config["quantization_config"].is_object() {
            let error = read(&config).unwrap_err().to_string();
            assert!(error.starts_with("quantization_config (fp8)"), "{error}");
            config["quantization_config"] = Value::Null;
        }
        let config = read(&config).unwrap();
        assert_eq!(config.layers.len(), layers, "{name}");
        let block = config
            .kv_shape(models::KvDtype::F32, 1, 1)
            .block_bytes()
            .unwrap();
        assert_eq!(block, layers * numbers * 4, "{name}");
    }
}
