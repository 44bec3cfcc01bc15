//! The tokenizer of any GGUF file: what is made of it is a tokenizer, or an
//! error where it is loaded.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use models::ModelFiles;
use tokenizers::Tokenizer;

fuzz_target!(|file: &[u8]| {
    let content = Bytes::copy_from_slice(file);
    models_fuzz::limited(file.len(), || {
        let Ok(files) = ModelFiles::held_gguf(content) else {
            return;
        };
        let _ = files.read_optional("tokenizer_config.json");
        if let Ok(Some(json)) = files.read_optional("tokenizer.json")
            && let Ok(tokenizer) = Tokenizer::from_bytes(&json)
        {
            let _ = tokenizer.encode_fast("a token, and 2 more", true);
            let _ = tokenizer.decode(&[0, 1, 2, u32::MAX], false);
        }
    });
});
