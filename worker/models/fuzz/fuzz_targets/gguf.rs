//! Any GGUF file.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|file: &[u8]| models_fuzz::gguf(file));
