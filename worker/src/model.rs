//! The model this worker serves: its runner, its name and its files.

mod limited;
mod origin;

use std::time::Instant;

use bytes::Bytes;
use engine::{RunError, Runner, SimConfig, SimRunner};
use models::{
    Bf16Activations, CpuOptions, DeviceError, LoadError, LoadOptions, Loaded, ModelConfig,
    ModelFiles,
};
use runtime::config::ByteSize;

use crate::config::{Bf16, Config, Device};
use crate::model_runner::ModelRunner;
use limited::Limited;
pub use origin::OriginError;
pub(crate) use origin::{Found, MAIN, Origin};

/// A model that is ready to run.
pub struct LoadedModel {
    pub runner: Box<dyn Runner>,
    /// In requests.
    pub name: String,
    /// Equal only if weights, tokenizer and template are equal.
    pub fingerprint: String,
    /// What a router needs to render and tokenise: name and content.
    pub files: Vec<(String, Bytes)>,
}

/// Why the model can't be served.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    #[error("can't load the model: {0}")]
    Load(#[from] LoadError),
    #[error("can't load the model: {0}")]
    Origin(#[from] OriginError),
    #[error("can't run the model: {0}")]
    Run(#[from] RunError),
    #[error("can't run the model: {0}")]
    Device(#[from] DeviceError),
    #[error("--kv-memory {memory} holds no KV block of this model, which takes {block}; raise it")]
    NoBlock { memory: ByteSize, block: ByteSize },
    #[error("--max-model-len {asked} is more than the {limit} tokens this model was made for")]
    TooLong { asked: usize, limit: usize },
}

/// Loads what `config` names. Reads files, or downloads them first, and may take
/// minutes: not for async threads.
pub fn load(config: &Config) -> Result<LoadedModel, ModelError> {
    let origin = Origin {
        source: &config.model,
        hub: &config.hub,
        revision: &config.revision,
        weights: config.device != Device::Sim,
    };
    let Found { files, name } = origin.find()?;
    let model = ModelConfig::read(&files)?;
    let (runner, fingerprint) = match config.device {
        Device::Cpu => (cpu(config, &files, &model)?, files.fingerprint()?),
        Device::Sim => (simulated(config, &model), sim_fingerprint(&files)?),
    };
    let small_files = files.tokenizer_files()?;
    Ok(LoadedModel {
        runner,
        name: config.served_model_name.clone().unwrap_or(name),
        fingerprint,
        files: small_files
            .into_iter()
            .map(|(name, content)| (name.to_owned(), content))
            .collect(),
    })
}

impl Bf16 {
    pub(crate) fn activations(self) -> Bf16Activations {
        match self {
            Bf16::Rounded => Bf16Activations::Rounded,
            Bf16::Exact => Bf16Activations::Exact,
        }
    }
}

fn cpu(
    config: &Config,
    files: &ModelFiles,
    model: &ModelConfig,
) -> Result<Box<dyn Runner>, ModelError> {
    let limit = model.max_position_embeddings;
    if let Some(asked) = config.max_model_len
        && asked > limit
    {
        return Err(ModelError::TooLong { asked, limit });
    }
    let options = LoadOptions {
        cpu: CpuOptions {
            threads: config.threads.unwrap_or_else(all_cpus),
            isa: config.cpu_isa,
            bf16_activations: config.bf16_activations.activations(),
        },
        quantize: config.quantize,
        kv_dtype: config.kv_dtype,
        block_size: config.block_size,
        total_blocks: total_blocks(config, model)?,
    };
    let start = Instant::now();
    let loaded = models::load(files, &options)?;
    let Loaded {
        weight_bytes,
        packing,
    } = loaded.loaded();
    tracing::info!(
        weight_bytes,
        load_seconds = start.elapsed().as_secs_f64(),
        packing_seconds = packing.as_secs_f64(),
        "model loaded"
    );
    let runner = ModelRunner::new(loaded)?;
    Ok(match config.max_model_len {
        Some(max_model_len) => Box::new(Limited::new(runner, max_model_len)),
        None => Box::new(runner),
    })
}

fn total_blocks(config: &Config, model: &ModelConfig) -> Result<usize, ModelError> {
    if let Some(blocks) = config.kv_blocks {
        return Ok(blocks);
    }
    let shape = model.kv_shape(config.kv_dtype, config.block_size, 1);
    let block = shape.block_bytes()?;
    let memory = usize::try_from(config.kv_memory.0).unwrap_or(usize::MAX);
    match memory / block {
        0 => Err(ModelError::NoBlock {
            memory: config.kv_memory,
            block: ByteSize(block as u64),
        }),
        blocks => Ok(blocks),
    }
}

fn simulated(config: &Config, model: &ModelConfig) -> Box<dyn Runner> {
    let defaults = SimConfig::default();
    Box::new(SimRunner::new(SimConfig {
        vocab_size: model.vocab_size,
        max_model_len: config
            .max_model_len
            .unwrap_or(model.max_position_embeddings),
        block_size: config.block_size,
        total_blocks: config.kv_blocks.unwrap_or(defaults.total_blocks),
        eos_token_ids: model.eos_token_ids.clone(),
        eos_rate: config.sim.sim_eos_rate,
        kv_block_bytes: usize::try_from(config.sim.sim_block_bytes.0).unwrap_or(usize::MAX),
        cost: config.sim.cost(),
        check: defaults.check,
    }))
}

/// Covers no weights: a simulated model needs none.
fn sim_fingerprint(files: &ModelFiles) -> Result<String, ModelError> {
    let mut hasher =
        blake3::Hasher::new_derive_key("kvasir 2026-11-21 simulated model fingerprint");
    for (name, content) in files.tokenizer_files()? {
        for part in [name.as_bytes(), &content] {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
    }
    Ok(hasher.finalize().to_hex().to_string())
}

pub(crate) fn all_cpus() -> usize {
    std::thread::available_parallelism().map_or(1, |cpus| cpus.get())
}

#[cfg(test)]
mod tests {
    use models::KvDtype;

    use super::*;
    use crate::config::ModelSource;

    const FIXTURE: &str = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/models/tests/fixtures/llama3-gqa-tied-sharded"
    );

    fn config(change: impl FnOnce(&mut Config)) -> Config {
        let mut config = Config {
            model: ModelSource::Directory(FIXTURE.into()),
            threads: Some(1),
            kv_blocks: Some(8),
            ..Config::default()
        };
        change(&mut config);
        config
    }

    #[test]
    fn loads_a_checkpoint_under_its_folders_name() {
        let model = load(&config(|_| {})).unwrap();
        assert_eq!(model.name, "llama3-gqa-tied-sharded");
        assert_eq!(model.runner.shape().total_blocks, 8);
        assert_eq!(model.runner.shape().kv.dtype, "bf16");
        assert!(model.files.iter().any(|(name, _)| name == "config.json"));
        let named = load(&config(|it| it.served_model_name = Some("m".into()))).unwrap();
        assert_eq!(named.name, "m");
    }

    #[test]
    fn a_simulated_model_has_the_real_ones_vocabulary_but_not_its_kv() {
        let real = load(&config(|_| {})).unwrap();
        let sim = load(&config(|it| it.device = Device::Sim)).unwrap();
        assert_eq!(sim.name, real.name);
        assert_eq!(sim.files, real.files);
        let (sim_shape, real_shape) = (sim.runner.shape(), real.runner.shape());
        assert_eq!(sim_shape.vocab_size, real_shape.vocab_size);
        assert_eq!(sim_shape.eos_token_ids, real_shape.eos_token_ids);
        assert_ne!(sim.fingerprint, real.fingerprint);
    }

    #[test]
    fn kv_memory_decides_how_many_blocks_there_are() {
        let block = load(&config(|_| {})).unwrap().runner.shape().kv.block_bytes as u64;
        let with_memory = |bytes: u64| {
            load(&config(|it| {
                it.kv_blocks = None;
                it.kv_memory = ByteSize(bytes);
            }))
        };
        let model = with_memory(block * 5 + 1).unwrap();
        assert_eq!(model.runner.shape().total_blocks, 5);
        assert!(matches!(
            with_memory(block - 1),
            Err(ModelError::NoBlock { .. })
        ));
    }

    #[test]
    fn narrow_kv_makes_more_blocks_of_the_same_memory() {
        let blocks = |kv_dtype| {
            let model = load(&config(|it| {
                it.kv_blocks = None;
                it.kv_memory = ByteSize(1 << 20);
                it.kv_dtype = kv_dtype;
            }));
            let shape = model.unwrap().runner.shape().clone();
            assert_eq!(shape.kv.dtype, kv_dtype.name());
            assert!(shape.total_blocks * shape.kv.block_bytes <= 1 << 20);
            shape.total_blocks
        };
        let wide = blocks(KvDtype::F32);
        assert_eq!(blocks(KvDtype::Bf16), wide * 2);
        // Heads of 16 numbers, with 4 bytes of scale each.
        assert_eq!(blocks(KvDtype::Int8), wide * 64 / 20);
    }

    #[test]
    fn the_context_can_be_limited_but_not_stretched() {
        let model = load(&config(|it| it.max_model_len = Some(50))).unwrap();
        assert_eq!(model.runner.shape().max_model_len, 50);
        let stretched = load(&config(|it| it.max_model_len = Some(1 << 20)));
        assert!(matches!(stretched, Err(ModelError::TooLong { .. })));
    }

    /// A cache in which a tool of the hub has left the fixture.
    struct Cache(std::path::PathBuf);

    impl Cache {
        const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

        fn new() -> Cache {
            let name = format!("kvasir-worker-hub-{}", std::process::id());
            let cache = Cache(std::env::temp_dir().join(name));
            let model = cache.0.join("models--owner--model");
            let snapshot = model.join("snapshots").join(Cache::COMMIT);
            std::fs::create_dir_all(&snapshot).unwrap();
            std::fs::create_dir_all(model.join("refs")).unwrap();
            std::fs::write(model.join("refs/main"), Cache::COMMIT).unwrap();
            for entry in std::fs::read_dir(FIXTURE).unwrap() {
                let entry = entry.unwrap();
                std::fs::copy(entry.path(), snapshot.join(entry.file_name())).unwrap();
            }
            cache
        }
    }

    impl Drop for Cache {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_model_of_the_hub_is_called_by_its_whole_name() {
        let cache = Cache::new();
        let hub = hub::Settings {
            cache: Some(cache.0.clone()),
            offline: true,
            ..hub::Settings::default()
        };
        let at = |revision: &str, name: &str| {
            load(&config(|it| {
                it.hub = hub.clone();
                it.revision = revision.to_owned();
                let Ok(source) = name.parse();
                it.model = source;
            }))
        };
        let model = at(MAIN, "owner/model").unwrap();
        assert_eq!(model.name, "owner/model");
        let same = load(&config(|_| {})).unwrap();
        assert_eq!(model.fingerprint, same.fingerprint);
        assert!(at(Cache::COMMIT, "hf://owner/model").is_ok());
        let error = at("v2", "owner/model").err().unwrap().to_string();
        assert!(error.contains("lacks revision v2"), "{error}");
        let error = at("v2", FIXTURE).err().unwrap().to_string();
        assert!(error.contains("leave it out"), "{error}");
    }
}
