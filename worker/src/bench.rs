//! `kvasir worker bench`: how fast a model runs on this machine, and why not
//! faster.
//!
//! Decode and prefill go through the model and runner that serve, without
//! scheduler and network. Each round also measures what the machine can do at
//! most, so that figures come with a share of the limit, and every operation
//! of a step with its share of the time; and how long loading took, and how
//! much memory there was at most.

mod measure;
mod memory;
mod report;
#[cfg(test)]
mod tests;

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use clap::Args;
use engine::RunError;
use models::{
    Compute, CpuOptions, DeviceError, Isa, KvDtype, Limits, LoadError, LoadOptions, Meter,
    ModelConfig, Quantize,
};

use crate::config::{Bf16, ModelSource};
use crate::model::{Found, MAIN, Origin, OriginError, all_cpus};
use crate::model_runner::ModelRunner;
use measure::{Bench, Sample};
use report::Subject;
pub use report::{Figures, Loading, Machine, Memory, Report};

/// Tokens in a KV block.
const BLOCK_SIZE: usize = 16;

/// What is measured.
#[derive(Clone, Debug, Args)]
#[group(skip)]
pub struct Config {
    /// Directory of a checkpoint in Hugging Face layout, a file that ends in
    /// .gguf, a model of the Hugging Face hub (owner/name, owner/name:Q4_K_M or
    /// owner/name:file.gguf), or demo for the embedded model
    #[arg(long, value_name = "DIR|FILE|NAME|demo", default_value = "demo")]
    pub model: ModelSource,

    /// Branch, tag or commit of a model of the hub
    #[arg(long, value_name = "NAME", default_value = MAIN)]
    pub revision: String,

    /// How the hub is reached; from the environment, as for its other tools.
    #[arg(skip)]
    pub hub: hub::Settings,

    /// Threads that compute. Default: one per CPU
    #[arg(long, value_name = "N")]
    pub threads: Option<NonZeroUsize>,

    /// Instruction set to compute with. Default: the largest of this processor
    #[arg(long, value_name = "NAME")]
    pub cpu_isa: Option<Isa>,

    /// Activations that meet weights in bf16
    #[arg(long, value_enum, default_value = "rounded")]
    pub bf16_activations: Bf16,

    /// Quantise weights on load to 8 or 4 bits
    #[arg(long, value_name = "q8|q4")]
    pub quantize: Option<Quantize>,

    /// How keys and values are kept
    #[arg(long, value_name = "f32|bf16|int8", default_value = "bf16")]
    pub kv_dtype: KvDtype,

    /// Sequences that decode together
    #[arg(
        long,
        value_name = "N,N",
        value_delimiter = ',',
        default_value = "1,8,32"
    )]
    pub batch: Vec<NonZeroUsize>,

    /// Tokens of prompts
    #[arg(
        long,
        value_name = "N,N",
        value_delimiter = ',',
        default_value = "512,4096"
    )]
    pub prompt: Vec<NonZeroUsize>,

    /// Tokens that each sequence decodes in a round
    #[arg(long, value_name = "N", default_value = "16")]
    pub steps: NonZeroUsize,

    /// Tokens of a prompt in one step at most
    #[arg(long, value_name = "TOKENS", default_value = "2048")]
    pub max_batch_tokens: NonZeroUsize,

    /// Times that everything is measured; the median is shown
    #[arg(long, value_name = "N", default_value = "5")]
    pub rounds: NonZeroUsize,

    /// Write the figures of all rounds to this file
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// Why there are no figures.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    #[error("can't load the model: {0}")]
    Load(#[from] LoadError),
    #[error("can't load the model: {0}")]
    Origin(#[from] OriginError),
    #[error("can't run the model: {0}")]
    Run(#[from] RunError),
    #[error("can't measure this machine: {0}")]
    Device(#[from] DeviceError),
    #[error("this model takes {longest} tokens at most; ask for shorter --prompt or --steps")]
    TooLong { longest: usize },
}

/// What is timed, as a column of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// So many sequences, a token each.
    Decode(usize),
    /// One prompt of so many tokens.
    Prefill(usize),
}

/// A round: the machine's limits on one thread and on all, and each phase.
pub(crate) struct Round {
    alone: Limits,
    all: Limits,
    samples: Vec<Sample>,
}

/// Loads the model and measures it; takes minutes.
pub fn run(config: &Config) -> Result<Report, BenchError> {
    let threads = config.threads.map_or_else(all_cpus, NonZeroUsize::get);
    let options = CpuOptions {
        threads,
        isa: config.cpu_isa,
        bf16_activations: config.bf16_activations.activations(),
    };
    let loaded = load(config, options.clone())?;
    let (loading, mut memory) = (loaded.loading, loaded.memory);
    let mut bench = Bench::new(config, loaded.runner, loaded.meter)?;
    let limits = |threads| {
        let compute = Compute::new(&CpuOptions {
            threads,
            ..options.clone()
        })?;
        let start = Instant::now();
        Ok::<_, BenchError>((
            compute.isa(),
            Limits::measure(&compute, &|| start.elapsed())?,
        ))
    };
    let phases = config.phases();
    let (isa, _) = limits(1)?;
    // The first pass touches all weights, and is not counted.
    for &phase in &phases[..1] {
        bench.sample(phase)?;
    }
    let mut rounds = Vec::new();
    for _ in 0..config.rounds.get() {
        let (alone, all) = (limits(1)?.1, limits(threads)?.1);
        // What limits were measured with is gone.
        memory::forget_peak();
        let samples = phases.iter().map(|&phase| bench.sample(phase));
        rounds.push(Round {
            alone,
            all,
            samples: samples.collect::<Result<_, _>>()?,
        });
        memory.peak_running = memory.peak_running.max(memory::peak());
    }
    let machine = Machine::this(isa.to_string(), threads);
    let subject = Subject {
        model: config.model.to_string(),
        machine,
        loading,
        memory,
    };
    Ok(Report::new(subject, &phases, &rounds))
}

/// A model that can run, and what it took.
struct Ready {
    runner: ModelRunner,
    meter: Arc<Meter>,
    loading: Loading,
    memory: Memory,
}

fn load(config: &Config, cpu: CpuOptions) -> Result<Ready, BenchError> {
    let origin = Origin {
        source: &config.model,
        hub: &config.hub,
        revision: &config.revision,
        weights: true,
    };
    let Found { files, .. } = origin.find()?;
    let begin = Instant::now();
    let model = ModelConfig::read(&files)?;
    let options = LoadOptions {
        cpu,
        quantize: config.quantize,
        kv_dtype: config.kv_dtype,
        block_size: BLOCK_SIZE,
        total_blocks: config.blocks(),
    };
    let longest = config.longest();
    if longest > model.max_position_embeddings {
        return Err(BenchError::TooLong {
            longest: model.max_position_embeddings,
        });
    }
    let start = Instant::now();
    let clock = Box::new(move || start.elapsed());
    let (model, meter) = models::load_timed(&files, &options, clock)?;
    let loaded = model.loaded();
    let kv = model.kv_shape();
    let kv_bytes = kv.block_bytes()? as u64 * kv.total_blocks as u64;
    // Part of what a worker does before it is ready.
    files.fingerprint()?;
    Ok(Ready {
        runner: ModelRunner::new(model)?,
        meter,
        loading: Loading {
            seconds: begin.elapsed().as_secs_f64(),
            packing_seconds: loaded.packing.as_secs_f64(),
        },
        memory: Memory {
            weights: loaded.weight_bytes,
            kv: kv_bytes,
            peak_loading: memory::peak(),
            peak_running: None,
        },
    })
}

impl Config {
    fn phases(&self) -> Vec<Phase> {
        let decode = self.batch.iter().map(|batch| Phase::Decode(batch.get()));
        let prefill = self.prompt.iter().map(|len| Phase::Prefill(len.get()));
        decode.chain(prefill).collect()
    }

    /// Tokens of the longest sequence.
    fn longest(&self) -> usize {
        let prompt = self.prompt.iter().map(|len| len.get()).max();
        // A sequence has a token before the first that is timed.
        prompt.unwrap_or(0).max(self.steps.get() + 1)
    }

    /// KV blocks for whichever phase needs most.
    fn blocks(&self) -> usize {
        let batch = self
            .batch
            .iter()
            .map(|batch| batch.get())
            .max()
            .unwrap_or(0);
        let decode = batch * (self.steps.get() + 1).div_ceil(BLOCK_SIZE);
        decode.max(self.longest().div_ceil(BLOCK_SIZE))
    }
}
