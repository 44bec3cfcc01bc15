//! Self-attention of heads that share keys and values in groups, with rotary
//! positions, over paged KV.

use tensor::{Attention, Columns, Device, DeviceError, Part, RotaryPairs, Rotation};

use super::{LayerKv, Linear, Loader, RmsNorm, SelfAttention};
use crate::config::{GroupedHeads, ModelConfig};
use crate::error::LoadError;

pub(crate) struct GroupedAttention<D: Device> {
    heads: GroupedHeads,
    q: Linear<D>,
    k: Linear<D>,
    v: Linear<D>,
    o: Linear<D>,
    /// Of each head of queries and of keys.
    norms: Option<(RmsNorm<D>, RmsNorm<D>)>,
    sinks: Option<D::Buffer>,
}

/// Queries and results are `[rows, heads, head_dim]`, keys and values `[rows,
/// kv_heads, head_dim]`.
pub(crate) struct GroupedBuffers<D: Device> {
    q: D::Buffer,
    k: D::Buffer,
    v: D::Buffer,
    attended: D::Buffer,
}

impl<D: Device> GroupedAttention<D> {
    /// Queries, keys and values.
    fn load_qkv(
        loader: &Loader<'_, D>,
        name: &str,
        hidden: usize,
        heads: &GroupedHeads,
    ) -> Result<[Linear<D>; 3], LoadError> {
        let width = heads.heads * heads.head_dim;
        let kv_width = heads.kv_heads * heads.head_dim;
        if heads.fused {
            let (keys, values) = (width + kv_width, width + 2 * kv_width);
            let name = format!("{name}.qkv_proj");
            let stored = loader.stored_linear(&name, (values, hidden), heads.qkv_bias)?;
            return Ok([
                stored.cut(loader, 0..width)?,
                stored.cut(loader, width..keys)?,
                stored.cut(loader, keys..values)?,
            ]);
        }
        let linear = |part, outputs| {
            let name = format!("{name}.{part}");
            loader.linear(&name, (outputs, hidden), heads.qkv_bias)
        };
        Ok([
            linear("q_proj", width)?,
            linear("k_proj", kv_width)?,
            linear("v_proj", kv_width)?,
        ])
    }

    /// Normalises and rotates queries and keys.
    fn place(
        &self,
        kv: &LayerKv<'_, D>,
        rows: usize,
        (q, k): (&mut D::Buffer, &mut D::Buffer),
    ) -> Result<(), DeviceError> {
        let heads = &self.heads;
        if let Some((q_norm, k_norm)) = &self.norms {
            q_norm.in_place(kv.device, q, rows * heads.heads)?;
            k_norm.in_place(kv.device, k, rows * heads.kv_heads)?;
        }
        let Some(table) = kv.rope_table else {
            return Ok(());
        };
        let rotation = |count| Rotation {
            heads: count,
            columns: Columns {
                stride: heads.head_dim,
                first: 0,
                width: heads.rotary_dim,
            },
            pairs: RotaryPairs::Halves,
        };
        kv.device.rope(table, kv.inputs, rotation(heads.heads), q)?;
        kv.device
            .rope(table, kv.inputs, rotation(heads.kv_heads), k)
    }
}

impl<D: Device> SelfAttention<D> for GroupedAttention<D> {
    type Config = GroupedHeads;
    type Buffers = GroupedBuffers<D>;

    fn load(
        loader: &Loader<'_, D>,
        name: &str,
        config: &ModelConfig,
        heads: &GroupedHeads,
    ) -> Result<Self, LoadError> {
        let hidden = config.hidden_size;
        let [q, k, v] = GroupedAttention::load_qkv(loader, name, hidden, heads)?;
        let shape = (hidden, heads.heads * heads.head_dim);
        let norm = |part| {
            let eps = (config.norms.eps, config.norms.offset);
            loader.rms_norm(&format!("{name}.{part}"), heads.head_dim, eps)
        };
        let norms = match heads.qk_norm {
            true => Some((norm("q_norm")?, norm("k_norm")?)),
            false => None,
        };
        let sinks = || loader.vector(&format!("{name}.sinks"), heads.heads);
        Ok(GroupedAttention {
            heads: *heads,
            q,
            k,
            v,
            o: loader.linear(&format!("{name}.o_proj"), shape, heads.output_bias)?,
            norms,
            sinks: heads.sinks.then(sinks).transpose()?,
        })
    }

    fn buffers(
        device: &D,
        heads: &GroupedHeads,
        rows: usize,
    ) -> Result<GroupedBuffers<D>, DeviceError> {
        let len = rows * heads.heads * heads.head_dim;
        let kv_len = rows * heads.kv_heads * heads.head_dim;
        Ok(GroupedBuffers {
            q: device.buffer(len)?,
            k: device.buffer(kv_len)?,
            v: device.buffer(kv_len)?,
            attended: device.buffer(len)?,
        })
    }

    fn forward(
        &self,
        kv: &mut LayerKv<'_, D>,
        (x, rows): (&D::Buffer, usize),
        buffers: &mut GroupedBuffers<D>,
        out: &mut D::Buffer,
    ) -> Result<(), DeviceError> {
        let GroupedBuffers { q, k, v, attended } = buffers;
        let device = kv.device;
        device.part(Part::Qkv);
        let products = &mut [self.q.product(q), self.k.product(k), self.v.product(v)];
        device.linears(x, rows, products)?;
        self.place(kv, rows, (&mut *q, &mut *k))?;
        device.kv_write(kv.pool, kv.layer, kv.inputs, (&*k, Some(&*v)))?;
        let attention = Attention {
            heads: self.heads.heads,
            scale: self.heads.scale,
            window: kv.window,
            soft_cap: self.heads.soft_cap,
            sinks: self.sinks.as_ref(),
        };
        let pool = (&*kv.pool, kv.layer);
        device.paged_attention(q, attention, pool, kv.inputs, attended)?;
        device.part(Part::Output);
        self.o.forward(device, attended, rows, out)
    }
}
