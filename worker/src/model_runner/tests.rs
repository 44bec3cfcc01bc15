//! Over the reference checkpoints of `models`.

mod under_load;

use std::ops::Range;

use engine::{SamplingParams, SequenceId};
use models::{Batch, BatchSequence, KvDtype, LoadOptions, ModelFiles, load};

use super::*;

static SAMPLING: SamplingParams = SamplingParams {
    temperature: 0.0,
    top_p: 1.0,
    top_k: 0,
    min_p: 0.0,
    seed: 0,
    repetition_penalty: 1.0,
    presence_penalty: 0.0,
    frequency_penalty: 0.0,
    ignore_eos: true,
    stop_token_ids: Vec::new(),
    tokens: engine::TokenRules {
        bias: Vec::new(),
        allowed: Vec::new(),
        banned: Vec::new(),
    },
    logprobs: Some(2),
    prompt_logprobs: Some(3),
    max_tokens: 64,
    min_tokens: 0,
};

fn model() -> Box<dyn CausalLm> {
    model_on(1)
}

fn model_on(threads: usize) -> Box<dyn CausalLm> {
    loaded(models::CpuOptions::new(threads), KvDtype::F32, 12)
}

fn model_of(kv_dtype: KvDtype, total_blocks: usize) -> Box<dyn CausalLm> {
    loaded(models::CpuOptions::new(1), kv_dtype, total_blocks)
}

fn loaded(cpu: models::CpuOptions, kv_dtype: KvDtype, total_blocks: usize) -> Box<dyn CausalLm> {
    let folder = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/models/tests/fixtures/llama3-gqa-tied-sharded"
    );
    let options = LoadOptions {
        cpu,
        quantize: None,
        kv_dtype,
        block_size: 16,
        total_blocks,
    };
    load(&ModelFiles::directory(folder), &options).unwrap()
}

fn prompt() -> Vec<u32> {
    (0..37).map(|i| (i * i * 7 + 3) % 128).collect()
}

/// A chunk of `tokens[start..end]`, drawing if it reaches their end.
fn chunk<'a>(tokens: &'a [u32], start: usize, end: usize, blocks: &'a [BlockId]) -> Chunk<'a> {
    Chunk {
        id: SequenceId(1),
        tokens,
        prompt_len: 37,
        start,
        end,
        blocks,
        sample: end == tokens.len(),
        prompt_logprobs: true,
        sampling: &SAMPLING,
        constraint: None,
        pooled: end..end,
    }
}

const FIRST: [BlockId; 3] = [BlockId(7), BlockId(0), BlockId(4)];
const SECOND: [BlockId; 3] = [BlockId(1), BlockId(11), BlockId(2)];
const THIRD: [BlockId; 3] = [BlockId(3), BlockId(5), BlockId(6)];

fn run(runner: &mut ModelRunner, chunks: Vec<Chunk<'_>>) -> StepResult {
    runner.run(&Step { chunks }).unwrap()
}

#[test]
fn describes_the_model() {
    let runner = ModelRunner::new(model()).unwrap();
    let shape = runner.shape();
    assert_eq!((shape.vocab_size, shape.max_model_len), (128, 192));
    assert_eq!((shape.block_size, shape.total_blocks), (16, 12));
    assert_eq!(shape.eos_token_ids, [2]);
    assert_eq!(shape.kv.block_bytes, 2 * 2 * 16 * 2 * 16 * 4);
}

#[test]
fn draws_and_scores_from_the_right_rows() {
    let prompt = prompt();
    let mut model = model();
    let mut logits = Vec::new();
    let rows: Vec<u32> = (0..37).collect();
    let sequence = BatchSequence {
        rows: 0..37,
        context_len: 37,
        blocks: 0..3,
    };
    let batch = Batch {
        tokens: &prompt,
        blocks: &[0, 1, 2],
        sequences: &[sequence],
        outputs: &rows,
    };
    model.forward(&batch, &mut logits).unwrap();
    let row = |row: usize| &logits[row * 128..(row + 1) * 128];
    let expected: Vec<Sampled> = (0..36)
        .map(|position| score(row(position), prompt[position + 1], 3))
        .collect();
    let best = (0..128u32)
        .max_by(|a, b| row(36)[*a as usize].total_cmp(&row(36)[*b as usize]))
        .unwrap();

    let mut runner = ModelRunner::new(model).unwrap();
    let whole = run(&mut runner, vec![chunk(&prompt, 0, 37, &FIRST)]);
    assert_eq!(whole.prompt_logprobs.len(), 1);
    assert_eq!(whole.prompt_logprobs[0], expected);
    let drawn = whole.sampled[0].clone().unwrap();
    assert_eq!(drawn.token, best);
    assert_eq!(drawn.top.len(), 2);
    assert_eq!(whole.simulated, None);

    let mut scored = Vec::new();
    for (start, end) in [(0, 5), (5, 32), (32, 36), (36, 37)] {
        let other = chunk(&prompt, 0, 20, &SECOND);
        let mine = chunk(&prompt, start, end, &FIRST);
        let mut result = run(&mut runner, vec![other, mine]);
        assert_eq!(result.sampled[0], None);
        assert_eq!(result.prompt_logprobs[0], expected[..20]);
        scored.append(&mut result.prompt_logprobs[1]);
        let last = (end == 37).then(|| drawn.clone());
        assert_eq!(result.sampled[1], last);
    }
    assert_eq!(scored, expected);
}

#[test]
fn scores_no_generated_token() {
    let mut tokens = prompt();
    tokens.extend([5, 6]);
    let mut runner = ModelRunner::new(model()).unwrap();
    let result = run(&mut runner, vec![chunk(&tokens, 0, 39, &FIRST)]);
    assert_eq!(result.prompt_logprobs[0].len(), 36);
    assert!(result.sampled[0].is_some());
}

#[test]
fn a_sequence_goes_on_from_imported_blocks() {
    let mut tokens = prompt();
    let mut first = ModelRunner::new(model()).unwrap();
    let mut second = ModelRunner::new(model()).unwrap();
    let drawn = run(&mut first, vec![chunk(&tokens, 0, 37, &FIRST)]);
    for (from, to) in FIRST.into_iter().zip(SECOND) {
        let mut wire = Vec::new();
        first.export_block(from, &mut wire).unwrap();
        second.import_block(to, &wire).unwrap();
    }
    tokens.push(drawn.sampled[0].as_ref().unwrap().token);
    let stayed = run(&mut first, vec![chunk(&tokens, 37, 38, &FIRST)]);
    let moved = run(&mut second, vec![chunk(&tokens, 37, 38, &SECOND)]);
    assert_eq!(moved.sampled, stayed.sampled);
    assert!(second.import_block(BlockId(12), &[]).is_err());
}

#[test]
fn a_step_that_does_not_fit_the_pool_is_an_error() {
    let prompt = prompt();
    let mut runner = ModelRunner::new(model()).unwrap();
    let outside = [BlockId(0), BlockId(1), BlockId(12)];
    let step = Step {
        chunks: vec![chunk(&prompt, 0, 37, &outside)],
    };
    assert!(runner.run(&step).is_err());
}

#[test]
fn pooled_states_do_not_depend_on_chunks_or_what_else_is_drawn() {
    let tokens = prompt();
    let pooled = |start, end, blocks, range: Range<usize>| Chunk {
        pooled: range,
        sample: false,
        prompt_logprobs: false,
        ..chunk(&tokens, start, end, blocks)
    };
    let mut runner = ModelRunner::new(model()).unwrap();
    let whole = run(&mut runner, vec![pooled(0, 37, &FIRST, 0..37)]);
    let (_, whole) = &whole.pooled[0];
    let size = whole.len() / 37;
    let mut parts = run(&mut runner, vec![pooled(0, 20, &SECOND, 3..20)]).pooled;
    let beside = vec![
        chunk(&tokens, 36, 37, &FIRST),
        pooled(20, 37, &SECOND, 36..37),
    ];
    let last = run(&mut runner, beside);
    assert!(last.sampled[0].is_some() && last.sampled[1].is_none());
    parts.extend(last.pooled);
    assert_eq!(parts[0].1, whole[3 * size..20 * size]);
    assert_eq!(parts[1], (1, whole[36 * size..].to_vec()));
}

/// Allows one token, or nothing.
#[derive(Debug)]
struct Only(Option<u32>);

impl engine::Constraint for Only {
    fn allow(&self, _: &[u32], mask: &mut TokenMask) -> Result<bool, Violation> {
        if let Some(token) = self.0 {
            mask.allow(token);
        }
        Ok(false)
    }
}

#[test]
fn batches_of_few_rows_give_what_one_of_all_gives() {
    let prompt = prompt();
    let of = |blocks, pooled: Range<usize>| Chunk {
        pooled,
        ..chunk(&prompt, 0, 37, blocks)
    };
    let chunks = || vec![of(&FIRST, 30..37), of(&SECOND, 0..0), of(&THIRD, 5..20)];
    let mut runner = ModelRunner::new(model()).unwrap();
    assert!(runner.rows_at_once > 3 * 37);
    let once = run(&mut runner, chunks());
    for rows in [1, 16, 37, 40, 74] {
        runner.rows_at_once = rows;
        let several = run(&mut runner, chunks());
        assert_eq!(several.sampled, once.sampled, "{rows}");
        assert_eq!(several.prompt_logprobs, once.prompt_logprobs, "{rows}");
        assert_eq!(several.pooled, once.pooled, "{rows}");
    }
}

#[test]
fn sequences_drawn_side_by_side_get_what_each_would_get_alone() {
    let prompt = prompt();
    let constraints = [
        None,
        Some(Only(Some(9))),
        Some(Only(None)),
        None,
        Some(Only(Some(70))),
    ];
    let samplings = [0.0, 1.0, 1.0, 0.7, 0.0].map(|temperature| SamplingParams {
        temperature,
        ..SAMPLING.clone()
    });
    let blocks = [0, 1, 2, 3].map(|first| [first, first + 4, first + 8].map(BlockId));
    let of = |number: usize, blocks| Chunk {
        sampling: &samplings[number],
        constraint: constraints[number]
            .as_ref()
            .map(|it| it as &dyn engine::Constraint),
        prompt_logprobs: false,
        ..chunk(&prompt, 0, 37, blocks)
    };
    let mut runner = ModelRunner::new(model_on(3)).unwrap();
    runner.side_by_side = 0;
    for those in [0..4, 1..5] {
        let together = those
            .clone()
            .zip(&blocks)
            .map(|(it, blocks)| of(it, blocks));
        let together = run(&mut runner, together.collect());
        let mut violations = Vec::new();
        for (at, number) in those.enumerate() {
            let alone = run(&mut runner, vec![of(number, &blocks[0])]);
            assert_eq!(together.sampled[at], alone.sampled[0], "{number}");
            violations.extend(alone.violations.into_iter().map(|(_, why)| (at, why)));
        }
        assert_eq!(together.violations, violations);
        assert_eq!(violations.len(), 1);
    }
}
