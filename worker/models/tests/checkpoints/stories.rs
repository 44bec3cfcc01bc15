//! A trained model, when the shared data folder is there.

use models::ModelFiles;
use serde_json::Value;

use crate::harness::{Model, Sequence};

fn ids(value: &Value) -> Vec<u32> {
    let id = |id: &Value| id.as_u64().unwrap() as u32;
    value.as_array().unwrap().iter().map(id).collect()
}

fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let total: f64 = logits.iter().map(|v| f64::from(*v).exp()).sum();
    logits.iter().map(|v| f64::from(*v) - total.ln()).collect()
}

#[test]
fn stories_come_out_id_for_id() {
    let Some(data) = std::env::var_os("KVASIR_SHARED_DATA") else {
        println!("skipped: set KVASIR_SHARED_DATA to the folder that has models/stories260K");
        return;
    };
    let folder = std::path::Path::new(&data).join("models/stories260K");
    let golden = std::fs::read(folder.join("golden.json")).unwrap();
    let golden: Value = serde_json::from_slice(&golden).unwrap();
    let mut model = Model::load(&ModelFiles::directory(&folder), 2);
    let stories = golden["generate"].as_array().unwrap();
    assert!(!stories.is_empty());
    for story in stories {
        let prompt = ids(&story["prompt_ids"]);
        let greedy = ids(&story["greedy_ids"]);
        let mut sequence = Sequence::new(&prompt, 9, 7);
        model.generate(&mut sequence, 13, prompt.len() + greedy.len());
        assert_eq!(
            sequence.tokens[prompt.len()..],
            greedy,
            "{}",
            story["prompt"]
        );

        // The best logprobs of the first tokens, from logits of all rows.
        sequence.computed = 0;
        let logits = model.prefill(&mut sequence, usize::MAX);
        let rows = logits.chunks(model.vocab()).skip(prompt.len() - 1);
        for (row, expected) in rows.zip(story["top5_logprobs_first8"].as_array().unwrap()) {
            let found = log_softmax(row);
            for pair in expected.as_array().unwrap() {
                let (id, logprob) = (pair[0].as_u64().unwrap(), pair[1].as_f64().unwrap());
                assert!((found[id as usize] - logprob).abs() < 1e-3);
            }
        }
    }
}
