//! A causal language model on some device, whatever its family.

use std::sync::Arc;

use tensor::{
    Batch, Clock, CpuDevice, CpuOptions, Device, DeviceError, KvDtype, KvShape, Meter, Timed,
};

use crate::checkpoint::Checkpoint;
use crate::config::{AttentionConfig, ModelConfig};
use crate::decoder::Decoder;
use crate::error::LoadError;
use crate::files::ModelFiles;
use crate::loaded::Loaded;
use crate::parts::{GroupedAttention, LatentAttention};
use crate::quantize::Quantize;

/// A loaded model and the KV pool that its sequences live in.
pub trait CausalLm: Send {
    fn config(&self) -> &ModelConfig;

    fn kv_shape(&self) -> &KvShape;

    /// What loading it took.
    fn loaded(&self) -> Loaded;

    /// The longest sequence: what the model is made for, or what the pool holds.
    fn max_model_len(&self) -> usize {
        let pool = self.kv_shape().block_size * self.kv_shape().total_blocks;
        self.config().max_position_embeddings.min(pool)
    }

    /// Rows that are best computed in one batch, at most.
    fn rows_at_once(&self) -> usize;

    /// Computes the batch's rows and stores their KV. `logits` becomes
    /// `[batch.outputs, vocab_size]`.
    fn forward(&mut self, batch: &Batch<'_>, logits: &mut Vec<f32>) -> Result<(), DeviceError> {
        self.forward_with_hidden(batch, 0, (logits, &mut Vec::new()))
    }

    /// As [`CausalLm::forward`], but the last `hidden` of the batch's outputs
    /// have no logits: their final hidden states, after the last norm, become
    /// `[hidden, hidden_size]`.
    fn forward_with_hidden(
        &mut self,
        batch: &Batch<'_>,
        hidden: usize,
        logits_and_states: (&mut Vec<f32>, &mut Vec<f32>),
    ) -> Result<(), DeviceError>;

    /// Calls `work` once with each number below `parts`, on what threads the model
    /// is computed with, and returns when all have returned.
    fn side_by_side(&self, parts: usize, work: &(dyn Fn(usize) + Sync));

    /// Makes block `to` what block `from` is.
    fn copy_block(&mut self, from: u32, to: u32) -> Result<(), DeviceError>;

    /// Appends the wire form of a block, as [`KvShape::block_bytes`] says it.
    fn export_block(&self, block: u32, out: &mut Vec<u8>) -> Result<(), DeviceError>;

    /// Fills a block from its wire form.
    fn import_block(&mut self, block: u32, bytes: &[u8]) -> Result<(), DeviceError>;
}

/// How to run a model.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    pub cpu: CpuOptions,
    /// What weights that are floats become; `None`: they stay.
    pub quantize: Option<Quantize>,
    pub kv_dtype: KvDtype,
    /// Tokens in a KV block.
    pub block_size: usize,
    pub total_blocks: usize,
}

/// Loads a model on the CPU. Floats stay in the files they are mapped from, unless
/// they are quantised; quantised weights are packed.
pub fn load(files: &ModelFiles, options: &LoadOptions) -> Result<Box<dyn CausalLm>, LoadError> {
    load_on(CpuDevice::new(&options.cpu)?, files, options)
}

/// The same model, whose operations are timed.
pub fn load_timed(
    files: &ModelFiles,
    options: &LoadOptions,
    clock: Clock,
) -> Result<(Box<dyn CausalLm>, Arc<Meter>), LoadError> {
    let device = Timed::new(CpuDevice::new(&options.cpu)?, clock);
    let meter = device.meter();
    Ok((load_on(device, files, options)?, meter))
}

fn load_on<D: Device>(
    device: D,
    files: &ModelFiles,
    options: &LoadOptions,
) -> Result<Box<dyn CausalLm>, LoadError> {
    let config = ModelConfig::read(files)?;
    let checkpoint = Checkpoint::open(files)?.quantized(options.quantize);
    let kv = config.kv_shape(options.kv_dtype, options.block_size, options.total_blocks);
    Ok(match config.attention.clone() {
        AttentionConfig::Grouped(heads) => Box::new(Decoder::<_, GroupedAttention<_>>::load(
            device,
            (config, heads),
            kv,
            &checkpoint,
        )?),
        AttentionConfig::Latent(heads) => Box::new(Decoder::<_, LatentAttention<_>>::load(
            device,
            (config, heads),
            kv,
            &checkpoint,
        )?),
    })
}
