//! Fixtures against transformers, and a model against itself.

use models::ModelFiles;

use crate::harness::{BLOCK, FIXTURES, Model, Sequence, fixture_path, greedy, reference};

/// A checkpoint's files, to be changed and embedded.
fn fixture_files(name: &str) -> Vec<(&'static str, &'static [u8])> {
    std::fs::read_dir(fixture_path(name))
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            let file = path.file_name().unwrap().to_str().unwrap().to_owned();
            let content = std::fs::read(&path).unwrap();
            (&*file.leak(), &*content.leak())
        })
        .collect()
}

#[test]
fn logits_match_transformers() {
    for name in FIXTURES {
        let reference = reference(name);
        let mut model = Model::fixture(name);
        let mut sequence = Sequence::new(&reference.prompt, 0, 1);
        let logits = model.prefill(&mut sequence, usize::MAX);
        assert_eq!(logits.len(), reference.logits.len());
        let pairs = logits.iter().zip(&reference.logits);
        let worst = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst <= 1e-3, "{name}: {worst}");
    }
}

#[test]
fn greedy_tokens_match_transformers_however_the_prompt_is_cut() {
    for name in FIXTURES {
        let reference = reference(name);
        let mut model = Model::fixture(name);
        for (chunk, stride) in [(usize::MAX, 1), (BLOCK, 5), (7, 11), (1, 63)] {
            let mut sequence = Sequence::new(&reference.prompt, 3, stride);
            model.generate(&mut sequence, chunk, reference.greedy.len());
            assert_eq!(sequence.tokens, reference.greedy, "{name} by {chunk}");
        }
    }
}

#[test]
fn logits_are_the_same_bits_however_the_prompt_is_cut_and_threaded() {
    for name in FIXTURES {
        let prompt = reference(name).greedy;
        let mut whole = Sequence::new(&prompt, 0, 1);
        let expected = Model::fixture(name).prefill(&mut whole, usize::MAX);
        for (chunk, stride, threads) in [(16, 3, 1), (9, 7, 2), (1, 5, 3)] {
            let files = ModelFiles::directory(fixture_path(name));
            let mut cut = Sequence::new(&prompt, 20, stride);
            let logits = Model::load(&files, threads).prefill(&mut cut, chunk);
            assert!(logits == expected, "{name} by {chunk} on {threads} threads");
        }
    }
}

#[test]
fn sequences_in_one_batch_do_not_touch_each_other() {
    for name in FIXTURES {
        let greedy_path = reference(name).greedy;
        let prompts = [&greedy_path[..45], &greedy_path[..20], &greedy_path[30..70]];
        let mut model = Model::fixture(name);
        let alone = prompts.map(|prompt| {
            let mut sequence = Sequence::new(prompt, 1, 1);
            model.generate(&mut sequence, usize::MAX, prompt.len() + 24);
            sequence.tokens
        });
        // Sixteen blocks each, of every third, so that tables interleave.
        let mut together = [0, 1, 2].map(|i| Sequence::new(prompts[i as usize], i, 3));
        while together.iter().any(|sequence| sequence.tokens.len() < 69) {
            let mut work = Vec::new();
            let mut ends = Vec::new();
            let mut rows = 0;
            for (index, sequence) in together.iter_mut().enumerate() {
                // Chunks of different lengths, so that one decodes while
                // another still prefills.
                let left = sequence.tokens.len() - sequence.computed;
                let count = left.min(5 + 4 * index);
                rows += count;
                ends.push((count == left).then_some(rows - 1));
                work.push((sequence, count));
            }
            let vocab = model.vocab();
            let logits = model.step(&mut work);
            let next: Vec<_> = ends
                .iter()
                .map(|end| end.map(|row| greedy(&logits[row * vocab..(row + 1) * vocab])))
                .collect();
            for (sequence, next) in together.iter_mut().zip(next) {
                sequence.tokens.extend(next);
            }
        }
        for (sequence, alone) in together.iter().zip(alone) {
            assert_eq!(sequence.tokens[..alone.len()], alone, "{name}");
        }
    }
}

#[test]
fn a_sequence_goes_on_in_another_instance_from_its_exported_blocks() {
    for name in FIXTURES {
        let reference = reference(name);
        for moved_at in [45, 64, 80] {
            let mut first = Model::fixture(name);
            let mut sequence = Sequence::new(&reference.prompt, 2, 5);
            first.generate(&mut sequence, 10, moved_at + 1);

            let mut second = Model::fixture(name);
            let mut moved = Sequence::new(&sequence.tokens, 40, 7);
            moved.computed = sequence.computed;
            let blocks = sequence.computed.div_ceil(BLOCK);
            for (from, to) in sequence.blocks.iter().zip(&moved.blocks).take(blocks) {
                let mut wire = Vec::new();
                first.lm.export_block(*from, &mut wire).unwrap();
                assert_eq!(wire.len(), first.lm.kv_shape().block_bytes().unwrap());
                second.lm.import_block(*to, &wire).unwrap();
            }
            second.generate(&mut moved, 10, reference.greedy.len());
            assert_eq!(moved.tokens, reference.greedy, "{name} at {moved_at}");
        }
    }
}

#[test]
fn only_wanted_rows_get_logits_in_the_order_asked() {
    use models::{Batch, BatchSequence};
    let prompt = reference(FIXTURES[0]).prompt;
    let mut model = Model::fixture(FIXTURES[0]);
    let all = model.prefill(&mut Sequence::new(&prompt, 0, 1), usize::MAX);
    let vocab = model.vocab();
    let mut forward = |outputs: &[u32]| {
        let batch = Batch {
            tokens: &prompt,
            blocks: &[5, 4, 3],
            sequences: &[BatchSequence {
                rows: 0..prompt.len(),
                context_len: prompt.len(),
                blocks: 0..3,
            }],
            outputs,
        };
        let mut logits = vec![1.0];
        model.lm.forward(&batch, &mut logits).unwrap();
        logits
    };
    let row = |row: usize| &all[row * vocab..(row + 1) * vocab];
    assert_eq!(forward(&[44, 7]), [row(44), row(7)].concat());
    assert!(forward(&[]).is_empty());
}

#[test]
fn both_spellings_of_a_config_are_one_model() {
    let name = "llama3-gqa-tied-sharded";
    let mut files = fixture_files(name);
    let newer = files
        .iter()
        .find(|(file, _)| *file == "config.transformers5.json")
        .unwrap()
        .1;
    files.retain(|(file, _)| *file != "config.json");
    files.push(("config.json", newer));
    let reference = reference(name);
    let mut model = Model::load(&ModelFiles::embedded(files.leak()), 1);
    assert_eq!(model.lm.config(), Model::fixture(name).lm.config());
    let mut sequence = Sequence::new(&reference.prompt, 0, 1);
    model.generate(&mut sequence, usize::MAX, reference.greedy.len());
    assert_eq!(sequence.tokens, reference.greedy);
}

#[test]
fn end_tokens_come_from_the_generation_config() {
    let eos = |name| Model::fixture(name).lm.config().eos_token_ids.clone();
    assert_eq!(eos("llama3-gqa-f16"), [2, 3]);
    assert_eq!(eos("llama2-mha"), [2]);
}

#[test]
fn fingerprints_are_equal_for_equal_models_only() {
    let print = |files: Vec<_>| ModelFiles::embedded(files.leak()).fingerprint().unwrap();
    let mut prints = Vec::new();
    for name in FIXTURES {
        let embedded = print(fixture_files(name));
        let directory = ModelFiles::directory(fixture_path(name))
            .fingerprint()
            .unwrap();
        assert_eq!(embedded, directory);
        assert_eq!(embedded.len(), 64);
        prints.push(embedded);
    }
    let mut files = fixture_files(FIXTURES[0]);
    files.push(("tokenizer.json", b"{}"));
    prints.push(print(files));
    let mut files = fixture_files(FIXTURES[0]);
    for (name, content) in &mut files {
        if *name == "model.safetensors" {
            let mut changed = content.to_vec();
            *changed.last_mut().unwrap() ^= 1;
            *content = changed.leak();
        }
    }
    prints.push(print(files));
    let count = prints.len();
    prints.sort();
    prints.dedup();
    assert_eq!(prints.len(), count);
}
