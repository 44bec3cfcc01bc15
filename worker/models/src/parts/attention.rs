//! Self-attention with rotary positions over paged KV.

use tensor::{AttentionHeads, Device, DeviceError};

use super::{Linear, Loader};
use crate::config::ModelConfig;
use crate::error::LoadError;

pub(crate) struct Attention<D: Device> {
    layer: usize,
    q: Linear<D>,
    k: Linear<D>,
    v: Linear<D>,
    o: Linear<D>,
    heads: AttentionHeads,
    kv_heads: AttentionHeads,
}

/// What the attention of every layer reads and writes.
pub(crate) struct PagedKv<D: Device> {
    pub(crate) pool: D::KvPool,
    pub(crate) inputs: D::Inputs,
    pub(crate) rope_table: D::Buffer,
}

/// Activations inside attention: queries and results are `[rows, heads,
/// head_dim]`, keys and values `[rows, kv_heads, head_dim]`.
pub(crate) struct AttentionBuffers<D: Device> {
    q: D::Buffer,
    k: D::Buffer,
    v: D::Buffer,
    attended: D::Buffer,
}

impl<D: Device> AttentionBuffers<D> {
    pub(crate) fn new(device: &D, config: &ModelConfig, rows: usize) -> Result<Self, DeviceError> {
        let len = rows * config.heads * config.head_dim;
        let kv_len = rows * config.kv_heads * config.head_dim;
        Ok(AttentionBuffers {
            q: device.buffer(len)?,
            k: device.buffer(kv_len)?,
            v: device.buffer(kv_len)?,
            attended: device.buffer(len)?,
        })
    }
}

impl<D: Device> Attention<D> {
    pub(crate) fn load(
        loader: &Loader<'_, D>,
        name: &str,
        config: &ModelConfig,
        layer: usize,
    ) -> Result<Attention<D>, LoadError> {
        let hidden = config.hidden_size;
        let width = config.heads * config.head_dim;
        let kv_width = config.kv_heads * config.head_dim;
        let linear =
            |part, shape| loader.linear(&format!("{name}.{part}"), shape, config.attention_bias);
        let heads = |heads| AttentionHeads {
            heads,
            head_dim: config.head_dim,
        };
        Ok(Attention {
            layer,
            q: linear("q_proj", (width, hidden))?,
            k: linear("k_proj", (kv_width, hidden))?,
            v: linear("v_proj", (kv_width, hidden))?,
            o: linear("o_proj", (hidden, width))?,
            heads: heads(config.heads),
            kv_heads: heads(config.kv_heads),
        })
    }

    /// Stores the rows' KV and lets them attend to all of their sequence so
    /// far; x and out are `[rows, hidden]`.
    pub(crate) fn forward(
        &self,
        device: &D,
        kv: &mut PagedKv<D>,
        (x, rows): (&D::Buffer, usize),
        buffers: &mut AttentionBuffers<D>,
        out: &mut D::Buffer,
    ) -> Result<(), DeviceError> {
        let AttentionBuffers { q, k, v, attended } = buffers;
        let PagedKv {
            pool,
            inputs,
            rope_table,
        } = kv;
        self.q.forward(device, x, rows, q)?;
        self.k.forward(device, x, rows, k)?;
        self.v.forward(device, x, rows, v)?;
        device.rope(rope_table, inputs, self.heads, q)?;
        device.rope(rope_table, inputs, self.kv_heads, k)?;
        device.kv_write(pool, self.layer, inputs, (k, v))?;
        device.paged_attention(q, self.heads, (pool, self.layer), inputs, attended)?;
        self.o.forward(device, attended, rows, out)
    }
}
