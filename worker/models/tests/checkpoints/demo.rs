//! The embedded demo model.

use models::{ModelFiles, TOKENIZER_FILES, demo};
use serde_json::Value;

use crate::harness::{Model, Sequence};

fn json(files: &ModelFiles, name: &str) -> Value {
    serde_json::from_slice(&files.read(name).unwrap()).unwrap()
}

#[test]
fn has_all_that_a_router_needs_and_weights_that_fit_it() {
    let files = demo();
    let mut model = Model::load(&files, 1);
    let vocab_size = model.vocab() as u64;
    let vocab = json(&files, "tokenizer.json")["model"]["vocab"].clone();
    let ids = vocab.as_object().unwrap().values();
    assert!(ids.filter_map(Value::as_u64).all(|id| id < vocab_size));
    assert!(json(&files, "tokenizer_config.json")["chat_template"].is_string());
    assert!(!model.lm.config().eos_token_ids.is_empty());
    let found = files.tokenizer_files().unwrap().len();
    assert_eq!(
        found,
        TOKENIZER_FILES.len() - 1,
        "all but chat_template.jinja"
    );

    let mut whole = Sequence::new(&[0, 3, 40, 41, 42, 1, 4], 0, 1);
    model.generate(&mut whole, usize::MAX, 60);
    let mut cut = Sequence::new(&[0, 3, 40, 41, 42, 1, 4], 5, 7);
    model.generate(&mut cut, 2, 60);
    assert_eq!(cut.tokens, whole.tokens);
}
