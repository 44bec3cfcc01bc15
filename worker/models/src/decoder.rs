//! The Llama family (Touvron et al. 2023): pre-norm attention and SwiGLU
//! blocks on a residual stream.

use tensor::{Batch, Device, DeviceError, KvShape, rope_table};

use crate::causal_lm::CausalLm;
use crate::checkpoint::Checkpoint;
use crate::config::ModelConfig;
use crate::error::LoadError;
use crate::parts::{
    Attention, AttentionBuffers, Linear, Loader, Mlp, MlpBuffers, PagedKv, RmsNorm,
};

pub(crate) struct Llama<D: Device> {
    config: ModelConfig,
    kv_shape: KvShape,
    device: D,
    embed_tokens: D::Weight,
    layers: Vec<Layer<D>>,
    norm: RmsNorm<D>,
    /// `None`: the embedding matrix.
    lm_head: Option<Linear<D>>,
    kv: PagedKv<D>,
    activations: Activations<D>,
}

struct Layer<D: Device> {
    input_norm: RmsNorm<D>,
    attention: Attention<D>,
    post_attention_norm: RmsNorm<D>,
    mlp: Mlp<D>,
}

/// Room for the largest batch so far.
struct Activations<D: Device> {
    rows: usize,
    outputs: usize,
    /// The residual stream and the values of one step on it, `[rows, hidden]`.
    hidden: D::Buffer,
    normed: D::Buffer,
    update: D::Buffer,
    attention: AttentionBuffers<D>,
    mlp: MlpBuffers<D>,
    /// `[outputs, vocab]`
    logits: D::Buffer,
}

impl<D: Device> Llama<D> {
    pub(crate) fn load(
        device: D,
        config: ModelConfig,
        kv_shape: KvShape,
        checkpoint: &Checkpoint,
    ) -> Result<Llama<D>, LoadError> {
        let loader = Loader {
            device: &device,
            checkpoint,
        };
        let (vocab, hidden) = (config.vocab_size, config.hidden_size);
        let embed_tokens = loader.matrix("model.embed_tokens", vocab, hidden)?;
        let layers = (0..config.layers)
            .map(|layer| Layer::load(&loader, &config, layer))
            .collect::<Result<_, _>>()?;
        let norm = loader.rms_norm("model.norm", hidden, config.rms_norm_eps)?;
        let lm_head = (!config.tie_word_embeddings)
            .then(|| loader.linear("lm_head", (vocab, hidden), false))
            .transpose()?;
        let pool = device.kv_pool(&kv_shape)?;
        // No position is beyond the pool.
        let positions =
            (kv_shape.block_size * kv_shape.total_blocks).min(config.max_position_embeddings);
        let frequencies = config.rope.inverse_frequencies(config.head_dim);
        let kv = PagedKv {
            pool,
            inputs: device.inputs(&kv_shape),
            rope_table: device.upload(&rope_table(&frequencies, positions))?,
        };
        Ok(Llama {
            activations: Activations::new(&device, &config, 1, 1)?,
            config,
            kv_shape,
            device,
            embed_tokens,
            layers,
            norm,
            lm_head,
            kv,
        })
    }
}

impl<D: Device> Layer<D> {
    fn load(
        loader: &Loader<'_, D>,
        config: &ModelConfig,
        layer: usize,
    ) -> Result<Layer<D>, LoadError> {
        let name = |part| format!("model.layers.{layer}.{part}");
        let norm = |part| loader.rms_norm(&name(part), config.hidden_size, config.rms_norm_eps);
        Ok(Layer {
            input_norm: norm("input_layernorm")?,
            attention: Attention::load(loader, &name("self_attn"), config, layer)?,
            post_attention_norm: norm("post_attention_layernorm")?,
            mlp: Mlp::load(loader, &name("mlp"), config)?,
        })
    }

    /// `h += attention(norm(h)); h += mlp(norm(h))`
    fn forward(
        &self,
        device: &D,
        kv: &mut PagedKv<D>,
        rows: usize,
        a: &mut Activations<D>,
    ) -> Result<(), DeviceError> {
        let len = rows * self.input_norm.cols;
        self.input_norm
            .forward(device, &a.hidden, rows, &mut a.normed)?;
        let x = (&a.normed, rows);
        self.attention
            .forward(device, kv, x, &mut a.attention, &mut a.update)?;
        device.add(&mut a.hidden, &a.update, len)?;
        self.post_attention_norm
            .forward(device, &a.hidden, rows, &mut a.normed)?;
        self.mlp
            .forward(device, &a.normed, rows, &mut a.mlp, &mut a.update)?;
        device.add(&mut a.hidden, &a.update, len)
    }
}

impl<D: Device> Activations<D> {
    fn new(
        device: &D,
        config: &ModelConfig,
        rows: usize,
        outputs: usize,
    ) -> Result<Activations<D>, DeviceError> {
        let hidden = || device.buffer(rows * config.hidden_size);
        Ok(Activations {
            rows,
            outputs,
            hidden: hidden()?,
            normed: hidden()?,
            update: hidden()?,
            attention: AttentionBuffers::new(device, config, rows)?,
            mlp: MlpBuffers::new(device, config, rows)?,
            logits: device.buffer(outputs * config.vocab_size)?,
        })
    }

    /// Grows, by doubling, to what a batch needs.
    fn reserve(
        &mut self,
        device: &D,
        config: &ModelConfig,
        batch: &Batch<'_>,
    ) -> Result<(), DeviceError> {
        // Outputs pass through the residual stream's buffers too.
        let rows = batch.tokens.len().max(batch.outputs.len());
        if rows > self.rows || batch.outputs.len() > self.outputs {
            let rows = self.rows.max(rows.next_power_of_two());
            let outputs = self.outputs.max(batch.outputs.len().next_power_of_two());
            *self = Activations::new(device, config, rows, outputs)?;
        }
        Ok(())
    }
}

impl<D: Device> CausalLm for Llama<D> {
    fn config(&self) -> &ModelConfig {
        &self.config
    }

    fn kv_shape(&self) -> &KvShape {
        &self.kv_shape
    }

    fn forward(&mut self, batch: &Batch<'_>, logits: &mut Vec<f32>) -> Result<(), DeviceError> {
        let Llama {
            config,
            device,
            kv,
            activations: a,
            ..
        } = self;
        device.load_inputs(batch, &mut kv.inputs)?;
        a.reserve(device, config, batch)?;
        device.embed(&self.embed_tokens, &kv.inputs, &mut a.hidden)?;
        for layer in &self.layers {
            layer.forward(device, kv, batch.tokens.len(), a)?;
        }
        let outputs = batch.outputs.len();
        device.gather(&a.hidden, config.hidden_size, &kv.inputs, &mut a.update)?;
        self.norm
            .forward(device, &a.update, outputs, &mut a.normed)?;
        match &self.lm_head {
            Some(head) => head.forward(device, &a.normed, outputs, &mut a.logits)?,
            None => device.linear(&self.embed_tokens, None, &a.normed, outputs, &mut a.logits)?,
        }
        device.read(&a.logits, outputs * config.vocab_size, logits)
    }

    fn export_block(&self, block: u32, out: &mut Vec<u8>) -> Result<(), DeviceError> {
        self.device.kv_export(&self.kv.pool, block, out)
    }

    fn import_block(&mut self, block: u32, bytes: &[u8]) -> Result<(), DeviceError> {
        self.device.kv_import(&mut self.kv.pool, block, bytes)
    }
}
