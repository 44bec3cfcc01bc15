//! Files that are cut, garbled or made to mislead: loading them is an error or
//! a model that runs, never a panic, a hang, or memory out of proportion.

// A test's helpers may panic as the test itself may.
#![allow(clippy::unwrap_used)]

#[path = "checkpoints/harness.rs"]
#[allow(dead_code)]
mod harness;
#[path = "checkpoints/families/weights.rs"]
#[allow(dead_code)]
mod weights;

use std::path::{Path, PathBuf};

use harness::FAMILIES;
use models::{Batch, BatchSequence, CpuOptions, LoadOptions, ModelConfig, ModelFiles, load};
use proptest::prelude::*;
use serde_json::{Value, json};
use weights::Family;

/// Beyond what this process has when it starts: weights of 20 kB to 300 kB are
/// mapped, and pools are of 4 blocks.
const MEMORY: u64 = 256 << 20;

/// A folder of this process alone.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let name = format!("kvasir-hostile-{}-{name}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    fn write(&self, file: &str, content: &[u8]) {
        std::fs::write(self.0.join(file), content).unwrap();
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Loads the folder's model and, if it loads, computes three tokens. An error
/// is as good as a result.
fn try_to_run(folder: &Path) {
    let options = LoadOptions {
        kv_dtype: models::KvDtype::F32,
        cpu: CpuOptions::new(1),
        quantize: None,
        block_size: 16,
        total_blocks: 4,
    };
    let files = ModelFiles::directory(folder);
    let _ = files.fingerprint();
    let Ok(mut model) = load(&files, &options) else {
        return;
    };
    let batch = Batch {
        tokens: &[1, 2, 3],
        blocks: &[2, 0],
        sequences: &[BatchSequence {
            rows: 0..3,
            context_len: 19,
            blocks: 0..2,
        }],
        outputs: &[2],
    };
    let _ = model.forward(&batch, &mut Vec::new());
}

/// This process' largest address space so far, in bytes; 0 where the system
/// does not tell.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmPeak:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    kilobytes.unwrap_or(0) * 1024
}

/// Values that configs do not have, or that have another meaning.
fn hostile_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(json!(null)),
        Just(json!(0)),
        Just(json!(1)),
        Just(json!(-1)),
        Just(json!(7)),
        Just(json!(1 << 12)),
        Just(json!(1 << 24)),
        Just(json!((1u64 << 24) + 1)),
        Just(json!(u64::MAX)),
        Just(json!(i64::MIN)),
        Just(json!(0.5)),
        Just(json!(1e-300)),
        Just(json!(1e300)),
        Just(json!(true)),
        Just(json!(false)),
        Just(json!("")),
        Just(json!("yarn")),
        Just(json!("silu")),
        Just(json!([])),
        Just(json!([1, -2, "x", null])),
        Just(json!({})),
        Just(json!({ "rope_type": "longrope" })),
        (0u64..300).prop_map(|size| json!(size)),
        any::<f64>().prop_map(|number| json!(number)),
    ]
}

/// The config with some fields, or fields of its inner objects, changed.
fn change(config: &mut Value, changes: &[(prop::sample::Index, bool, Value)]) {
    for (index, inner, value) in changes {
        let fields = config.as_object_mut().unwrap();
        let name = index
            .get(&fields.keys().cloned().collect::<Vec<_>>())
            .clone();
        match fields.get_mut(&name).and_then(Value::as_object_mut) {
            Some(object) if *inner && !object.is_empty() => {
                let names: Vec<_> = object.keys().cloned().collect();
                object.insert(index.get(&names).clone(), value.clone());
            }
            _ => {
                fields.insert(name, value.clone());
            }
        }
    }
}

/// One test, as memory is measured of the whole process.
#[test]
fn hostile_files_are_errors_or_run_in_little_memory() {
    let before = peak_memory();
    hostile_configs();
    hostile_weights();
    hostile_text();
    let grown = peak_memory() - before;
    assert!(grown < MEMORY, "{grown} bytes more than at the start");
}

fn runner(cases: u32) -> proptest::test_runner::TestRunner {
    let config = ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(cases)
    };
    proptest::test_runner::TestRunner::new(config)
}

fn hostile_configs() {
    for name in FAMILIES {
        let family = Family::read(name);
        let folder = Folder::new(name);
        folder.write("model.safetensors", &family.safetensors());
        let change_of = (any::<prop::sample::Index>(), any::<bool>(), hostile_value());
        let changes = prop::collection::vec(change_of, 1..4);
        runner(60)
            .run(&changes, |changes| {
                let mut config = family.config.clone();
                change(&mut config, &changes);
                folder.write("config.json", config.to_string().as_bytes());
                try_to_run(&folder.0);
                Ok(())
            })
            .unwrap();
    }
}

fn hostile_weights() {
    for name in ["deepseek-v3", "gpt-oss-mxfp4", "phi3"] {
        let family = Family::read(name);
        let whole = family.safetensors();
        let header = 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
        let folder = Folder::new(name);
        folder.write("config.json", family.config.to_string().as_bytes());
        let length = prop_oneof![Just(whole.len()), 0..whole.len()];
        let bytes = prop::collection::vec((0..header, any::<u8>()), 0..4);
        runner(150)
            .run(&(length, bytes), |(length, bytes)| {
                let mut file = whole.clone();
                for (position, byte) in bytes {
                    file[position] = byte;
                }
                file.truncate(length);
                folder.write("model.safetensors", &file);
                try_to_run(&folder.0);
                Ok(())
            })
            .unwrap();
    }
}

/// Small files of any bytes, cut or garbled, or whose JSON is very deep.
fn hostile_text() {
    let config = Family::read("gemma3").config.to_string().into_bytes();
    let folder = Folder::new("text");
    let cut = (0..config.len()).prop_map({
        let config = config.clone();
        move |length| config[..length].to_vec()
    });
    let garbled = (0..config.len(), any::<u8>()).prop_map(move |(position, byte)| {
        let mut config = config.clone();
        config[position] = byte;
        config
    });
    let deep = (1usize..200_000).prop_map(|depth| b"[".repeat(depth));
    let noise = prop::collection::vec(any::<u8>(), 0..200);
    let text = prop_oneof![cut, garbled, deep, noise];
    const FILES: [&str; 3] = [
        "config.json",
        "generation_config.json",
        "model.safetensors.index.json",
    ];
    runner(300)
        .run(&(text, prop::sample::select(&FILES[..])), |(text, file)| {
            folder.write("config.json", b"{}");
            folder.write(file, &text);
            let files = ModelFiles::directory(&folder.0);
            let _ = ModelConfig::read(&files);
            let _ = files.tokenizer_files();
            try_to_run(&folder.0);
            folder.write(file, b"{}");
            Ok(())
        })
        .unwrap();
}
