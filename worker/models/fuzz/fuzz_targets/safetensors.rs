//! Any weights, and any index of them, beside a good config.json.
#![no_main]

use libfuzzer_sys::fuzz_target;

const CONFIG: &[u8] = include_bytes!("../seeds/config/llama.json");

fuzz_target!(|weights: &[u8]| {
    models_fuzz::folder(&[("config.json", CONFIG), ("model.safetensors", weights)]);
    models_fuzz::folder(&[
        ("config.json", CONFIG),
        ("model.safetensors.index.json", weights),
        ("a.safetensors", weights),
    ]);
});
