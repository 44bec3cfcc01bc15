//! The decoder that all families are described as: layers of attention and a
//! feed-forward network on a residual stream.

use tensor::{Batch, Device, DeviceError, KvShape, Part};

use crate::causal_lm::CausalLm;
use crate::checkpoint::Checkpoint;
use crate::config::ModelConfig;
use crate::error::LoadError;
use crate::loaded::{Loaded, Tally};
use crate::parts::{
    FeedForward, FeedForwardBuffers, LayerKv, Linear, Loader, RmsNorm, RopeTables, SelfAttention,
};

pub(crate) struct Decoder<D: Device, A: SelfAttention<D>> {
    config: ModelConfig,
    attention: A::Config,
    kv_shape: KvShape,
    device: D,
    embed_tokens: D::Weight,
    layers: Vec<Layer<D, A>>,
    norm: RmsNorm<D>,
    /// `None`: the embedding matrix.
    lm_head: Option<Linear<D>>,
    pool: D::KvPool,
    inputs: D::Inputs,
    rope_tables: RopeTables<D>,
    activations: Activations<D, A>,
    loaded: Loaded,
}

struct Layer<D: Device, A> {
    /// How many positions attention sees; `None`: all.
    window: Option<usize>,
    rope: Option<usize>,
    /// What this layer's parts add to the residual stream is multiplied with.
    residual: f32,
    before_attention: RmsNorm<D>,
    attention: A,
    after_attention: Option<RmsNorm<D>>,
    before_feed_forward: RmsNorm<D>,
    feed_forward: FeedForward<D>,
    after_feed_forward: Option<RmsNorm<D>>,
}

/// Room for the largest batch so far.
struct Activations<D: Device, A: SelfAttention<D>> {
    rows: usize,
    outputs: usize,
    /// The residual stream and the values of one step on it, `[rows, hidden]`.
    hidden: D::Buffer,
    normed: D::Buffer,
    update: D::Buffer,
    attention: A::Buffers,
    feed_forward: FeedForwardBuffers<D>,
    /// `[outputs, vocab]`
    logits: D::Buffer,
}

/// The pool and tables of a pass over all layers.
struct Pass<'a, D: Device> {
    device: &'a D,
    pool: &'a mut D::KvPool,
    inputs: &'a D::Inputs,
    rope_tables: &'a RopeTables<D>,
    rows: usize,
}

impl<D: Device, A: SelfAttention<D>> Decoder<D, A> {
    pub(crate) fn load(
        device: D,
        (config, attention): (ModelConfig, A::Config),
        kv_shape: KvShape,
        checkpoint: &Checkpoint,
    ) -> Result<Self, LoadError> {
        let loader = Loader {
            device: &device,
            checkpoint,
            tally: Tally::default(),
        };
        let root = root(checkpoint, config.roots);
        let (vocab, hidden) = (config.vocab_size, config.hidden_size);
        // The largest matrices first: while one is packed it is there twice.
        let embed_tokens = loader.matrix(&format!("{root}.embed_tokens"), vocab, hidden)?;
        let lm_head = (!config.tie_word_embeddings)
            .then(|| loader.linear("lm_head", (vocab, hidden), false))
            .transpose()?;
        let layers = (0..config.layers.len())
            .map(|layer| Layer::load(&loader, (root, layer), &config, &attention))
            .collect::<Result<_, _>>()?;
        let eps = (config.norms.eps, config.norms.offset);
        let norm = loader.rms_norm(&format!("{root}.norm"), hidden, eps)?;
        let pool = device.kv_pool(&kv_shape)?;
        // No position is beyond the pool.
        let positions =
            (kv_shape.block_size * kv_shape.total_blocks).min(config.max_position_embeddings);
        Ok(Decoder {
            activations: Activations::new(&device, (&config, &attention), 1, 1)?,
            rope_tables: RopeTables::new(&device, config.ropes.clone(), positions)?,
            inputs: device.inputs(&kv_shape),
            loaded: loader.tally.loaded(),
            config,
            attention,
            kv_shape,
            device,
            embed_tokens,
            layers,
            norm,
            lm_head,
            pool,
        })
    }

    /// Final norm of the outputs, and the output matrix of the first
    /// `outputs - hidden` of them.
    fn head(&mut self, outputs: usize, hidden: usize) -> Result<(), DeviceError> {
        let (config, device, a) = (&self.config, &self.device, &mut self.activations);
        self.norm
            .forward(device, &a.hidden, outputs, &mut a.normed)?;
        let outputs = outputs - hidden;
        if outputs == 0 {
            return Ok(());
        }
        device.part(Part::Head);
        let (x, logits) = (&a.normed, &mut a.logits);
        match &self.lm_head {
            Some(head) => head.forward(device, x, outputs, logits)?,
            None => device.linear(&self.embed_tokens, None, x, outputs, logits)?,
        }
        let len = outputs * config.vocab_size;
        scale(device, logits, config.multipliers.logits, len)?;
        match config.logit_cap {
            Some(cap) => device.soft_cap(logits, cap, len),
            None => Ok(()),
        }
    }
}

/// What the names of this checkpoint's tensors start with.
fn root(checkpoint: &Checkpoint, roots: &'static [&'static str]) -> &'static str {
    let has = |root: &&str| checkpoint.has(&format!("{root}.embed_tokens.weight"));
    let found = roots.iter().copied().find(has);
    found.or(roots.first().copied()).unwrap_or("model")
}

/// `x *= factor`, unless that changes nothing.
fn scale<D: Device>(
    device: &D,
    x: &mut D::Buffer,
    factor: f32,
    len: usize,
) -> Result<(), DeviceError> {
    match factor == 1.0 {
        true => Ok(()),
        false => device.scale(x, factor, len),
    }
}

impl<D: Device, A: SelfAttention<D>> Layer<D, A> {
    fn load(
        loader: &Loader<'_, D>,
        (root, layer): (&str, usize),
        config: &ModelConfig,
        attention: &A::Config,
    ) -> Result<Self, LoadError> {
        let (norms, hidden) = (&config.norms, config.hidden_size);
        let name = format!("{root}.layers.{layer}");
        let norm = |part| {
            let eps = (norms.eps, norms.offset);
            loader.rms_norm(&format!("{name}.{part}"), hidden, eps)
        };
        let layer = &config.layers[layer];
        Ok(Layer {
            window: layer.window,
            rope: layer.rope,
            residual: config.multipliers.residual,
            before_attention: norm(norms.before_attention)?,
            attention: A::load(loader, &format!("{name}.self_attn"), config, attention)?,
            after_attention: norms.after_attention.map(norm).transpose()?,
            before_feed_forward: norm(norms.before_feed_forward)?,
            feed_forward: FeedForward::load(loader, &name, hidden, &layer.feed_forward)?,
            after_feed_forward: norms.after_feed_forward.map(norm).transpose()?,
        })
    }

    /// The first half of `h += attention(norm(h)); h += feed_forward(norm(h))`:
    /// leaves in `update` what attention adds.
    fn attend(
        &self,
        layer: usize,
        pass: &mut Pass<'_, D>,
        a: &mut Activations<D, A>,
    ) -> Result<(), DeviceError> {
        let (device, rows) = (pass.device, pass.rows);
        self.before_attention
            .forward(device, &a.hidden, rows, &mut a.normed)?;
        let mut kv = LayerKv {
            device,
            pool: &mut *pass.pool,
            inputs: pass.inputs,
            layer,
            window: self.window,
            rope_table: pass.rope_tables.get(self.rope),
        };
        let x = (&a.normed, rows);
        self.attention
            .forward(&mut kv, x, &mut a.attention, &mut a.update)
    }

    /// Adds what attention left, and the other half.
    fn feed(&self, device: &D, rows: usize, a: &mut Activations<D, A>) -> Result<(), DeviceError> {
        self.add_update(device, rows, self.after_attention.as_ref(), a)?;
        self.before_feed_forward
            .forward(device, &a.hidden, rows, &mut a.normed)?;
        let x = (&a.normed, rows);
        self.feed_forward
            .forward(device, x, &mut a.feed_forward, &mut a.update)?;
        self.add_update(device, rows, self.after_feed_forward.as_ref(), a)
    }

    /// Adds a part's output to the residual stream. A communicator will sum it
    /// over ranks here, before the norm.
    fn add_update(
        &self,
        device: &D,
        rows: usize,
        norm: Option<&RmsNorm<D>>,
        a: &mut Activations<D, A>,
    ) -> Result<(), DeviceError> {
        if let Some(norm) = norm {
            norm.in_place(device, &mut a.update, rows)?;
        }
        let len = rows * self.before_attention.cols;
        device.add(&mut a.hidden, &a.update, self.residual, len)
    }
}

impl<D: Device, A: SelfAttention<D>> Activations<D, A> {
    fn new(
        device: &D,
        (config, attention): (&ModelConfig, &A::Config),
        rows: usize,
        outputs: usize,
    ) -> Result<Self, DeviceError> {
        let hidden = || device.buffer(rows * config.hidden_size);
        Ok(Activations {
            rows,
            outputs,
            hidden: hidden()?,
            normed: hidden()?,
            update: hidden()?,
            attention: A::buffers(device, attention, rows)?,
            feed_forward: FeedForwardBuffers::new(device, config, rows)?,
            logits: device.buffer(outputs * config.vocab_size)?,
        })
    }

    /// Leaves of the residual stream, and of what is to be added to it, the rows
    /// that are wanted.
    fn keep_outputs(
        &mut self,
        device: &D,
        cols: usize,
        inputs: &D::Inputs,
    ) -> Result<(), DeviceError> {
        device.gather(&self.hidden, cols, inputs, &mut self.normed)?;
        std::mem::swap(&mut self.hidden, &mut self.normed);
        device.gather(&self.update, cols, inputs, &mut self.normed)?;
        std::mem::swap(&mut self.update, &mut self.normed);
        Ok(())
    }

    /// Grows, by doubling, to what a batch needs.
    fn reserve(
        &mut self,
        device: &D,
        config: (&ModelConfig, &A::Config),
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

impl<D: Device, A: SelfAttention<D>> CausalLm for Decoder<D, A> {
    fn config(&self) -> &ModelConfig {
        &self.config
    }

    fn kv_shape(&self) -> &KvShape {
        &self.kv_shape
    }

    fn loaded(&self) -> Loaded {
        self.loaded
    }

    fn forward_with_hidden(
        &mut self,
        batch: &Batch<'_>,
        hidden: usize,
        (logits, states): (&mut Vec<f32>, &mut Vec<f32>),
    ) -> Result<(), DeviceError> {
        let (config, device) = (&self.config, &self.device);
        device.load_inputs(batch, &mut self.inputs)?;
        let longest = batch.sequences.iter().map(|sequence| sequence.context_len);
        self.rope_tables
            .reserve(device, longest.max().unwrap_or(0))?;
        let a = &mut self.activations;
        a.reserve(device, (config, &self.attention), batch)?;
        let rows = batch.tokens.len();
        device.embed(&self.embed_tokens, &self.inputs, &mut a.hidden)?;
        let embedding = config.multipliers.embedding;
        scale(device, &mut a.hidden, embedding, rows * config.hidden_size)?;
        let mut pass = Pass {
            device,
            pool: &mut self.pool,
            inputs: &self.inputs,
            rope_tables: &self.rope_tables,
            rows,
        };
        let outputs = batch.outputs.len();
        for (index, layer) in self.layers.iter().enumerate() {
            layer.attend(index, &mut pass, a)?;
            // Nothing reads the other rows of the last layer.
            let rows = if index + 1 == self.layers.len() {
                a.keep_outputs(device, config.hidden_size, &self.inputs)?;
                outputs
            } else {
                rows
            };
            layer.feed(device, rows, a)?;
        }
        let hidden = hidden.min(outputs);
        self.head(outputs, hidden)?;
        states.clear();
        if hidden > 0 {
            let size = self.config.hidden_size;
            self.device
                .read(&self.activations.normed, outputs * size, states)?;
            states.drain(..(outputs - hidden) * size);
        }
        let len = (outputs - hidden) * self.config.vocab_size;
        self.device.read(&self.activations.logits, len, logits)
    }

    fn rows_at_once(&self) -> usize {
        // Rows are divided among experts, of which each should get many.
        let mut layers = self.config.layers.iter();
        match layers.all(|layer| layer.feed_forward.experts().is_none()) {
            true => self.device.rows_at_once(),
            false => usize::MAX,
        }
    }

    fn side_by_side(&self, parts: usize, work: &(dyn Fn(usize) + Sync)) {
        self.device.side_by_side(parts, work);
    }

    fn copy_block(&mut self, from: u32, to: u32) -> Result<(), DeviceError> {
        self.device.kv_copy(&mut self.pool, from, to)
    }

    fn export_block(&self, block: u32, out: &mut Vec<u8>) -> Result<(), DeviceError> {
        self.device.kv_export(&self.pool, block, out)
    }

    fn import_block(&mut self, block: u32, bytes: &[u8]) -> Result<(), DeviceError> {
        self.device.kv_import(&mut self.pool, block, bytes)
    }
}
