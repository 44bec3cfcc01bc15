//! Sequences on a model, stepped by hand.

use std::path::{Path, PathBuf};

use models::{Batch, BatchSequence, CausalLm, CpuOptions, KvDtype, LoadOptions, ModelFiles, load};
use safetensors::{Dtype, SafeTensors};

pub const BLOCK: usize = 16;
pub const TOTAL_BLOCKS: usize = 64;

/// The reference checkpoints in `tests/fixtures`.
pub const FIXTURES: [&str; 4] = [
    "llama2-mha",
    "llama3-gqa-tied-sharded",
    "llama-bias-bf16",
    "llama3-gqa-f16",
];

pub fn fixture_path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name)
}

/// The families in `tests/families`, whose weights follow from their names.
pub const FAMILIES: [&str; 20] = [
    "mistral-window",
    "qwen2",
    "qwen2-yarn-window",
    "qwen3",
    "qwen3-moe",
    "qwen3-moe-raw",
    "granite",
    "granite4-dense",
    "granite4-nope",
    "gemma2",
    "gemma3",
    "phi3",
    "phi3-long",
    "phi4-partial",
    "mixtral",
    "deepseek-v2-lite",
    "deepseek-v2",
    "deepseek-v3",
    "gpt-oss",
    "gpt-oss-mxfp4",
];

/// What transformers computed for a fixture.
pub struct Reference {
    pub prompt: Vec<u32>,
    /// `[prompt, vocab]`
    pub logits: Vec<f32>,
    /// Prompt and greedy continuation.
    pub greedy: Vec<u32>,
}

pub fn reference(name: &str) -> Reference {
    reference_in(&fixture_path(name))
}

pub fn reference_in(folder: &Path) -> Reference {
    let bytes = std::fs::read(folder.join("reference.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let ids = |name: &str| {
        let tensor = file.tensor(name).unwrap();
        assert_eq!(tensor.dtype(), Dtype::I64);
        let id = |b: &[u8]| u32::try_from(i64::from_le_bytes(b.try_into().unwrap())).unwrap();
        tensor.data().chunks_exact(8).map(id).collect()
    };
    let logits = file.tensor("logits").unwrap();
    assert_eq!(logits.dtype(), Dtype::F32);
    Reference {
        prompt: ids("prompt"),
        greedy: ids("greedy"),
        logits: logits
            .data()
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
            .collect(),
    }
}

pub struct Model {
    pub lm: Box<dyn CausalLm>,
    logits: Vec<f32>,
}

/// A sequence and the blocks it has.
#[derive(Clone)]
pub struct Sequence {
    pub tokens: Vec<u32>,
    pub computed: usize,
    pub blocks: Vec<u32>,
}

impl Sequence {
    /// In every `stride`-th block from `first` on, round the pool: tables that
    /// are in no order.
    pub fn new(tokens: &[u32], first: u32, stride: u32) -> Sequence {
        let blocks = (0..16)
            .map(|i| (first + i * stride) % TOTAL_BLOCKS as u32)
            .collect();
        Sequence {
            tokens: tokens.to_vec(),
            computed: 0,
            blocks,
        }
    }
}

impl Model {
    pub fn load(files: &ModelFiles, threads: usize) -> Model {
        Model::keeping(KvDtype::F32, files, threads)
    }

    /// Its KV is kept as `kv_dtype`.
    pub fn keeping(kv_dtype: KvDtype, files: &ModelFiles, threads: usize) -> Model {
        Model::load_blocks(files, threads, (kv_dtype, TOTAL_BLOCKS))
    }

    pub fn load_blocks(
        files: &ModelFiles,
        threads: usize,
        (kv_dtype, total_blocks): (KvDtype, usize),
    ) -> Model {
        let options = LoadOptions {
            cpu: CpuOptions::new(threads),
            quantize: None,
            kv_dtype,
            block_size: BLOCK,
            total_blocks,
        };
        Model {
            lm: load(files, &options).unwrap(),
            logits: Vec::new(),
        }
    }

    pub fn fixture(name: &str) -> Model {
        Model::load(&ModelFiles::directory(fixture_path(name)), 1)
    }

    /// Computes so many more tokens of each sequence in one batch; returns the
    /// logits of all rows, `[rows, vocab]`.
    pub fn step(&mut self, work: &mut [(&mut Sequence, usize)]) -> &[f32] {
        let (mut tokens, mut blocks, mut sequences) = (Vec::new(), Vec::new(), Vec::new());
        for (sequence, count) in work {
            let end = sequence.computed + *count;
            sequences.push(BatchSequence {
                rows: tokens.len()..tokens.len() + *count,
                context_len: end,
                blocks: blocks.len()..blocks.len() + sequence.blocks.len(),
            });
            tokens.extend(&sequence.tokens[sequence.computed..end]);
            blocks.extend(&sequence.blocks);
            sequence.computed = end;
        }
        let batch = Batch {
            tokens: &tokens,
            blocks: &blocks,
            sequences: &sequences,
            outputs: &(0..tokens.len() as u32).collect::<Vec<_>>(),
        };
        self.lm.forward(&batch, &mut self.logits).unwrap();
        assert_eq!(self.logits.len(), tokens.len() * self.vocab());
        &self.logits
    }

    /// Computes what is left, `chunk` tokens at a time; returns the logits of
    /// these rows.
    pub fn prefill(&mut self, sequence: &mut Sequence, chunk: usize) -> Vec<f32> {
        let mut logits = Vec::new();
        while sequence.computed < sequence.tokens.len() {
            let count = chunk.min(sequence.tokens.len() - sequence.computed);
            logits.extend_from_slice(self.step(&mut [(&mut *sequence, count)]));
        }
        logits
    }

    /// Prefills in chunks, then draws greedily until the sequence is `len` long.
    pub fn generate(&mut self, sequence: &mut Sequence, chunk: usize, len: usize) {
        while sequence.tokens.len() < len {
            let logits = self.prefill(sequence, chunk);
            let next = greedy(&logits[logits.len() - self.vocab()..]);
            sequence.tokens.push(next);
        }
    }

    pub fn vocab(&self) -> usize {
        self.lm.config().vocab_size
    }
}

pub fn greedy(logits: &[f32]) -> u32 {
    let best = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b]));
    best.unwrap() as u32
}
