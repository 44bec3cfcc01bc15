//! What every target does with hostile files: reads all that can be read of a
//! model, and computes a few tokens if it loads. Whatever the bytes are, that is
//! an error or a result, and memory in proportion to them.

use std::alloc::System;

use bytes::Bytes;
use cap::Cap;
use models::{
    Batch, BatchSequence, CpuOptions, LoadOptions, ModelConfig, ModelFiles, TOKENIZER_FILES, load,
};

/// An allocation beyond the limit ends the process, which the fuzzer reports.
#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, usize::MAX);

/// What small pools, tables and buffers may take for any file.
const BASE: usize = 64 << 20;
/// And for each byte of the file.
const PER_BYTE: usize = 128;

/// Runs `try_it` with as much memory as files of `length` bytes may take.
pub fn limited(length: usize, try_it: impl FnOnce()) {
    let limit = ALLOCATOR.allocated() + BASE + PER_BYTE * length;
    ALLOCATOR
        .set_limit(limit)
        .expect("less is allocated than the limit");
    try_it();
    ALLOCATOR
        .set_limit(usize::MAX)
        .expect("there is no larger number");
}

/// A folder with these files.
pub fn folder(files: &[(&str, &[u8])]) {
    let length = files.iter().map(|(_, content)| content.len()).sum();
    let files = files
        .iter()
        .map(|(name, content)| ((*name).to_owned(), Bytes::copy_from_slice(content)));
    let files = ModelFiles::held(files);
    limited(length, || run(&files));
}

/// A GGUF file.
pub fn gguf(content: &[u8]) {
    let file = Bytes::copy_from_slice(content);
    limited(content.len(), || {
        if let Ok(files) = ModelFiles::held_gguf(file) {
            run(&files);
        }
    });
}

fn run(files: &ModelFiles) {
    for name in TOKENIZER_FILES {
        let _ = files.read_optional(name);
    }
    let _ = ModelConfig::read(files);
    let _ = files.fingerprint();
    let options = LoadOptions {
        cpu: CpuOptions::new(1),
        quantize: None,
        kv_dtype: models::KvDtype::F32,
        block_size: 16,
        total_blocks: 4,
    };
    let Ok(mut model) = load(files, &options) else {
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
