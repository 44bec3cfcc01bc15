//! The demo model, part of the binary: `worker/demo-model` says what it knows.

use crate::ModelFiles;

/// The embedded model's files.
pub fn demo() -> ModelFiles {
    macro_rules! embed {
        ($($name:literal)*) => {
            ModelFiles::embedded(&[
                $(($name, include_bytes!(concat!("../../demo-model/", $name))),)*
            ])
        };
    }
    embed!("config.json" "generation_config.json" "tokenizer.json" "tokenizer_config.json" "model.safetensors")
}
