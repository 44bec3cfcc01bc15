//! Checkpoints, options and batches that must be refused with a clear error.

use models::{Batch, BatchSequence, CpuOptions, LoadOptions, ModelFiles, load};
use serde_json::{Value, json};

use crate::harness::{FIXTURES, Model, fixture_path};

const OPTIONS: LoadOptions = LoadOptions {
    kv_dtype: models::KvDtype::F32,
    cpu: CpuOptions::new(1),
    quantize: None,
    block_size: 16,
    total_blocks: 8,
};

/// The first fixture with these fields in its config and this file of weights.
fn load_error(changes: Value, weights: Option<Vec<u8>>) -> String {
    let folder = fixture_path(FIXTURES[0]);
    let read = |name| std::fs::read(folder.join(name)).unwrap();
    let mut config: Value = serde_json::from_slice(&read("config.json")).unwrap();
    let fields = config.as_object_mut().unwrap();
    for (name, value) in changes.as_object().unwrap() {
        fields.insert(name.clone(), value.clone());
    }
    let weights = weights.unwrap_or_else(|| read("model.safetensors"));
    let files: [(&'static str, &'static [u8]); 2] = [
        ("config.json", config.to_string().into_bytes().leak()),
        ("model.safetensors", weights.leak()),
    ];
    match load(&ModelFiles::embedded(files.to_vec().leak()), &OPTIONS) {
        Err(error) => error.to_string(),
        Ok(_) => panic!("loaded with {changes}"),
    }
}

#[test]
fn names_the_tensor_that_does_not_fit_the_config() {
    let cases = [
        (
            json!({ "num_hidden_layers": 3 }),
            "the checkpoint has no tensor model.layers.2.input_layernorm.weight",
        ),
        (
            json!({ "attention_bias": true }),
            "the checkpoint has no tensor model.layers.0.self_attn.q_proj.bias",
        ),
        (
            json!({ "mlp_bias": true }),
            "the checkpoint has no tensor model.layers.0.mlp.gate_proj.bias",
        ),
        (
            json!({ "vocab_size": 129 }),
            "tensor model.embed_tokens.weight has shape [128, 32], the config asks for [129, 32]",
        ),
        (
            json!({ "num_key_value_heads": 2 }),
            "tensor model.layers.0.self_attn.k_proj.weight has shape [32, 32], the config asks for [16, 32]",
        ),
        (
            json!({ "head_dim": 10 }),
            "tensor model.layers.0.self_attn.q_proj.weight has shape [32, 32], the config asks for [40, 32]",
        ),
    ];
    for (changes, message) in cases {
        assert_eq!(load_error(changes, None), message);
    }
}

#[test]
fn weights_cut_anywhere_are_refused() {
    let whole = std::fs::read(fixture_path(FIXTURES[0]).join("model.safetensors")).unwrap();
    for length in [0, 1, 7, 8, 9, 100, 2000, whole.len() / 2, whole.len() - 1] {
        let message = load_error(json!({}), Some(whole[..length].to_vec()));
        assert!(
            message.starts_with("model.safetensors is damaged: "),
            "{message}"
        );
    }
    let mut longer = whole;
    longer.push(0);
    assert!(load_error(json!({}), Some(longer)).contains("damaged"));
}

#[test]
fn a_folder_without_a_checkpoint_is_named() {
    let missing = load(&ModelFiles::directory("no/such/folder"), &OPTIONS);
    assert_eq!(
        missing.err().unwrap().to_string(),
        "no/such/folder has no config.json; name a folder with a Hugging Face checkpoint"
    );
}

#[test]
fn pools_without_size_or_beyond_memory_are_refused() {
    let files = ModelFiles::directory(fixture_path(FIXTURES[0]));
    let sizes = [
        (0, 8),
        (16, 0),
        (usize::MAX, 2),
        (16, usize::MAX / 2),
        (16, 1 << 48),
    ];
    for (block_size, total_blocks) in sizes {
        let options = LoadOptions {
            block_size,
            total_blocks,
            ..OPTIONS
        };
        assert!(load(&files, &options).is_err(), "{options:?}");
    }
}

#[test]
fn batches_beyond_vocabulary_or_positions_are_refused() {
    let mut model = Model::fixture(FIXTURES[0]);
    let blocks: Vec<u32> = (0..17).collect();
    let mut forward = |token: u32, context_len: usize| {
        let batch = Batch {
            tokens: &[token],
            blocks: &blocks,
            sequences: &[BatchSequence {
                rows: 0..1,
                context_len,
                blocks: 0..17,
            }],
            outputs: &[0],
        };
        model.lm.forward(&batch, &mut Vec::new())
    };
    assert!(forward(127, 256).is_ok());
    assert_eq!(
        forward(128, 1).unwrap_err().to_string(),
        "token 128 is out of range, there are 128"
    );
    assert_eq!(
        forward(0, 257).unwrap_err().to_string(),
        "position 256 is out of range, there are 256"
    );
}
