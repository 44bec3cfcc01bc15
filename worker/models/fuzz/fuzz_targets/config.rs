//! Any config.json beside good weights.
#![no_main]

use libfuzzer_sys::fuzz_target;

const WEIGHTS: &[u8] = include_bytes!("../seeds/safetensors/llama.safetensors");

fuzz_target!(|config: &[u8]| {
    models_fuzz::folder(&[
        ("config.json", config),
        ("generation_config.json", config),
        ("model.safetensors", WEIGHTS),
    ]);
});
