//! Whole models from GGUF files and from quantised weights.

use std::path::PathBuf;

use serde_json::Value;
use tensor::{Batch, BatchSequence, CpuOptions};

use super::file::File;
use crate::checkpoint::{Checkpoint, WeightSpec};
use crate::{LoadOptions, ModelFiles, Quantize, load};

const FIXTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/llama2-mha");
const TOKENS: [u32; 7] = [1, 5, 77, 30, 9, 120, 64];

fn logits(files: &ModelFiles, quantize: Option<Quantize>) -> Vec<f32> {
    let options = LoadOptions {
        kv_dtype: tensor::KvDtype::F32,
        cpu: CpuOptions::new(1),
        quantize,
        block_size: 16,
        total_blocks: 4,
    };
    let mut model = load(files, &options).unwrap();
    let batch = Batch {
        tokens: &TOKENS,
        blocks: &[0],
        sequences: &[BatchSequence {
            rows: 0..TOKENS.len(),
            context_len: TOKENS.len(),
            blocks: 0..1,
        }],
        outputs: &[3, 6],
    };
    let mut logits = Vec::new();
    model.forward(&batch, &mut logits).unwrap();
    logits
}

/// The fixture's weight.
fn weight(checkpoint: &Checkpoint, name: &str, shape: &[usize]) -> Vec<f32> {
    let spec = WeightSpec {
        name: name.to_owned(),
        shape: shape.to_vec(),
    };
    checkpoint.take(&spec).unwrap().to_f32()
}

/// Rows whose pairs are half a head apart, as neighbours.
fn neighbours(rows: &[f32], cols: usize, head: usize) -> Vec<f32> {
    let row = |index: usize| &rows[index * cols..(index + 1) * cols];
    (0..rows.len() / cols)
        .flat_map(|to| {
            let (pair, half) = (to % head / 2, to % 2);
            row(to / head * head + half * (head / 2) + pair)
        })
        .copied()
        .collect()
}

/// The fixture as a GGUF file.
fn converted() -> Vec<u8> {
    let files = ModelFiles::directory(FIXTURE);
    let config: Value = serde_json::from_slice(&files.read("config.json").unwrap()).unwrap();
    let size = |field: &str| config[field].as_u64().unwrap() as usize;
    let (hidden, inner, vocab) = (
        size("hidden_size"),
        size("intermediate_size"),
        size("vocab_size"),
    );
    let (heads, layers) = (size("num_attention_heads"), size("num_hidden_layers"));
    let checkpoint = Checkpoint::open(&files).unwrap();
    let mut file = File::default()
        .text("general.architecture", "llama")
        .unsigned("llama.embedding_length", hidden as u32)
        .unsigned("llama.feed_forward_length", inner as u32)
        .unsigned("llama.block_count", layers as u32)
        .unsigned("llama.attention.head_count", heads as u32)
        .unsigned(
            "llama.context_length",
            size("max_position_embeddings") as u32,
        )
        .float(
            "llama.attention.layer_norm_rms_epsilon",
            config["rms_norm_eps"].as_f64().unwrap() as f32,
        )
        .float("llama.rope.freq_base", 10_000.0);
    let add = |file: File, name: &str, tensor: &str, shape: &[usize]| {
        let mut values = weight(&checkpoint, name, shape);
        if tensor.contains("attn_q.") || tensor.contains("attn_k.") {
            values = neighbours(&values, hidden, hidden / heads);
        }
        let shape: Vec<u64> = shape.iter().rev().map(|&size| size as u64).collect();
        file.floats(tensor, &shape, &values)
    };
    file = add(
        file,
        "model.embed_tokens.weight",
        "token_embd.weight",
        &[vocab, hidden],
    );
    file = add(file, "model.norm.weight", "output_norm.weight", &[hidden]);
    file = add(file, "lm_head.weight", "output.weight", &[vocab, hidden]);
    let parts: [(&str, &str, &[usize]); 9] = [
        ("input_layernorm", "attn_norm", &[hidden]),
        ("post_attention_layernorm", "ffn_norm", &[hidden]),
        ("self_attn.q_proj", "attn_q", &[hidden, hidden]),
        ("self_attn.k_proj", "attn_k", &[hidden, hidden]),
        ("self_attn.v_proj", "attn_v", &[hidden, hidden]),
        ("self_attn.o_proj", "attn_output", &[hidden, hidden]),
        ("mlp.gate_proj", "ffn_gate", &[inner, hidden]),
        ("mlp.up_proj", "ffn_up", &[inner, hidden]),
        ("mlp.down_proj", "ffn_down", &[hidden, inner]),
    ];
    for layer in 0..layers {
        for (name, tensor, shape) in parts {
            let name = format!("model.layers.{layer}.{name}.weight");
            file = add(file, &name, &format!("blk.{layer}.{tensor}.weight"), shape);
        }
    }
    file.done()
}

/// A file that is removed at the end.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn a_model_computes_the_same_bits_from_both_kinds_of_file() {
    let name = format!("kvasir-gguf-{}.gguf", std::process::id());
    let file = Temporary(std::env::temp_dir().join(name));
    std::fs::write(&file.0, converted()).unwrap();
    let gguf = ModelFiles::gguf(&file.0).unwrap();
    let directory = ModelFiles::directory(FIXTURE);
    assert_eq!(logits(&gguf, None), logits(&directory, None));
    assert_eq!(gguf.fingerprint().unwrap().len(), 64);
    assert_ne!(
        gguf.fingerprint().unwrap(),
        directory.fingerprint().unwrap()
    );
}

#[test]
fn quantised_weights_change_logits_by_little() {
    let files = ModelFiles::directory(FIXTURE);
    let exact = logits(&files, None);
    let largest = exact.iter().fold(0.0f32, |max, x| max.max(x.abs()));
    let mut errors = Vec::new();
    for quantize in [Quantize::Q8, Quantize::Q4] {
        let found = logits(&files, Some(quantize));
        let difference = |(a, b): (&f32, &f32)| (a - b).abs();
        let error = exact.iter().zip(&found).map(difference).fold(0.0, f32::max);
        errors.push(error / largest);
    }
    assert!(errors[0] > 0.0 && errors[0] < 0.05, "{errors:?}");
    assert!(errors[1] > errors[0] && errors[1] < 0.5, "{errors:?}");
}
