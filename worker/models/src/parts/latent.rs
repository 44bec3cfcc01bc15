//! Multi-head latent attention (DeepSeek-AI 2024, DeepSeek-V2), absorbed.
//!
//! Keys and values of all heads are products of one latent. Queries are brought
//! to the latent instead, and what they attend to is brought to values after,
//! so only the latent and the one rotated key are kept of a token: one KV head,
//! whose values are the first part of its keys. Prompts are computed in the
//! same way as single tokens, or chunks would change bits.

use tensor::{Attention, Columns, Device, DeviceError, Part, Rotation};

use super::{LayerKv, Linear, Loader, RmsNorm, SelfAttention};
use crate::config::{LatentHeads, ModelConfig};
use crate::error::LoadError;

/// Of the norms of latents; configs don't say it.
const LATENT_EPS: f32 = 1e-6;

pub(crate) struct LatentAttention<D: Device> {
    heads: LatentHeads,
    query: Query<D>,
    /// The latent and the rotated key of a hidden state.
    latent: Linear<D>,
    rotary_key: Linear<D>,
    latent_norm: RmsNorm<D>,
    /// Of each head: `[kv_rank, plain_dim]`, to the latent.
    absorb: Vec<D::Weight>,
    /// Of each head: `[value_dim, kv_rank]`, from the latent.
    values: Vec<D::Weight>,
    o: Linear<D>,
}

/// What queries are made by.
enum Query<D: Device> {
    Direct(Linear<D>),
    /// By a latent of their own.
    Latent {
        down: Linear<D>,
        norm: RmsNorm<D>,
        up: Linear<D>,
    },
}

pub(crate) struct LatentBuffers<D: Device> {
    /// `[rows, query_rank]`
    query_latent: D::Buffer,
    /// `[rows, heads, plain_dim + rotary_dim]`
    q: D::Buffer,
    /// `[rows, heads, kv_rank + rotary_dim]`
    absorbed: D::Buffer,
    /// `[rows, kv_rank]` and `[rows, rotary_dim]`
    latent: D::Buffer,
    rotary_key: D::Buffer,
    /// `[rows, kv_rank + rotary_dim]`
    key: D::Buffer,
    /// `[rows, heads, kv_rank]`
    attended: D::Buffer,
    /// `[rows, heads, value_dim]`
    values: D::Buffer,
}

impl<D: Device> Query<D> {
    fn load(
        loader: &Loader<'_, D>,
        name: &str,
        hidden: usize,
        heads: &LatentHeads,
    ) -> Result<Query<D>, LoadError> {
        let name = |part| format!("{name}.{part}");
        let width = heads.heads * heads.query_dim();
        let Some(rank) = heads.query_rank else {
            let linear = loader.linear(&name("q_proj"), (width, hidden), false)?;
            return Ok(Query::Direct(linear));
        };
        Ok(Query::Latent {
            down: loader.linear(&name("q_a_proj"), (rank, hidden), heads.bias)?,
            norm: loader.rms_norm(&name("q_a_layernorm"), rank, (LATENT_EPS, 0.0))?,
            up: loader.linear(&name("q_b_proj"), (width, rank), false)?,
        })
    }

    fn forward(
        &self,
        device: &D,
        (x, rows): (&D::Buffer, usize),
        latent: &mut D::Buffer,
        q: &mut D::Buffer,
    ) -> Result<(), DeviceError> {
        match self {
            Query::Direct(linear) => linear.forward(device, x, rows, q),
            Query::Latent { down, norm, up } => {
                down.forward(device, x, rows, latent)?;
                norm.in_place(device, latent, rows)?;
                up.forward(device, latent, rows, q)
            }
        }
    }
}

impl<D: Device> LatentAttention<D> {
    /// The matrices of each head between the latent and its keys and values,
    /// which are stored as one.
    #[allow(clippy::type_complexity)]
    fn load_heads(
        loader: &Loader<'_, D>,
        name: &str,
        heads: &LatentHeads,
    ) -> Result<(Vec<D::Weight>, Vec<D::Weight>), LoadError> {
        let per_head = heads.plain_dim + heads.value_dim;
        let name = format!("{name}.kv_b_proj");
        let stored = loader.host_matrix(&name, heads.heads * per_head, heads.kv_rank)?;
        let (mut absorb, mut values) = (Vec::new(), Vec::new());
        for head in 0..heads.heads {
            let first = head * per_head;
            let keys = stored.slice_rows(first, heads.plain_dim);
            let of_values = stored.slice_rows(first + heads.plain_dim, heads.value_dim);
            absorb.push(loader.put(keys.transpose_columns(0, 1))?);
            values.push(loader.put(of_values)?);
        }
        Ok((absorb, values))
    }

    /// The rows' keys: their normalised latent, then their rotated key.
    fn keys(
        &self,
        kv: &LayerKv<'_, D>,
        (x, rows): (&D::Buffer, usize),
        b: &mut LatentBuffers<D>,
    ) -> Result<(), DeviceError> {
        let (device, heads) = (kv.device, &self.heads);
        let latent = self.latent.product(&mut b.latent);
        let rotary_key = self.rotary_key.product(&mut b.rotary_key);
        device.linears(x, rows, &mut [latent, rotary_key])?;
        self.latent_norm.in_place(device, &mut b.latent, rows)?;
        let of_key = |first, width| Columns {
            stride: heads.key_dim(),
            first,
            width,
        };
        let latent = (&b.latent, Columns::whole(heads.kv_rank));
        device.copy_columns(latent, rows, (&mut b.key, of_key(0, heads.kv_rank)))?;
        let rotated = of_key(heads.kv_rank, heads.rotary_dim);
        let key = (&b.rotary_key, Columns::whole(heads.rotary_dim));
        device.copy_columns(key, rows, (&mut b.key, rotated))?;
        self.rotate(kv, 1, &mut b.key)
    }

    /// The rows' queries, brought to where keys are.
    fn queries(
        &self,
        kv: &LayerKv<'_, D>,
        (x, rows): (&D::Buffer, usize),
        b: &mut LatentBuffers<D>,
    ) -> Result<(), DeviceError> {
        let (device, heads) = (kv.device, &self.heads);
        let x = (x, rows);
        self.query
            .forward(device, x, &mut b.query_latent, &mut b.q)?;
        let of_query = |first, width| Columns {
            stride: heads.query_dim(),
            first,
            width,
        };
        let of_key = |first, width| Columns {
            stride: heads.key_dim(),
            first,
            width,
        };
        let plain = (&b.q, of_query(0, heads.plain_dim));
        let latent = (&mut b.absorbed, of_key(0, heads.kv_rank));
        device.head_linear(&self.absorb, plain, rows, latent)?;
        let rotary = (&b.q, of_query(heads.plain_dim, heads.rotary_dim));
        let rotated = (&mut b.absorbed, of_key(heads.kv_rank, heads.rotary_dim));
        device.copy_columns(rotary, rows * heads.heads, rotated)?;
        self.rotate(kv, heads.heads, &mut b.absorbed)
    }

    /// Rotates the ends of keys or queries.
    fn rotate(
        &self,
        kv: &LayerKv<'_, D>,
        heads: usize,
        x: &mut D::Buffer,
    ) -> Result<(), DeviceError> {
        let Some(table) = kv.rope_table else {
            return Ok(());
        };
        let rotation = Rotation {
            heads,
            columns: Columns {
                stride: self.heads.key_dim(),
                first: self.heads.kv_rank,
                width: self.heads.rotary_dim,
            },
            pairs: self.heads.pairs,
        };
        kv.device.rope(table, kv.inputs, rotation, x)
    }
}

impl<D: Device> SelfAttention<D> for LatentAttention<D> {
    type Config = LatentHeads;
    type Buffers = LatentBuffers<D>;

    fn load(
        loader: &Loader<'_, D>,
        name: &str,
        config: &ModelConfig,
        heads: &LatentHeads,
    ) -> Result<Self, LoadError> {
        let hidden = config.hidden_size;
        let of = |part| format!("{name}.{part}");
        let (absorb, values) = LatentAttention::load_heads(loader, name, heads)?;
        let down = (heads.key_dim(), hidden);
        let down = loader.stored_linear(&of("kv_a_proj_with_mqa"), down, heads.bias)?;
        let eps = (LATENT_EPS, 0.0);
        let shape = (hidden, heads.heads * heads.value_dim);
        Ok(LatentAttention {
            heads: *heads,
            query: Query::load(loader, name, hidden, heads)?,
            latent: down.cut(loader, 0..heads.kv_rank)?,
            rotary_key: down.cut(loader, heads.kv_rank..heads.key_dim())?,
            latent_norm: loader.rms_norm(&of("kv_a_layernorm"), heads.kv_rank, eps)?,
            absorb,
            values,
            o: loader.linear(&of("o_proj"), shape, heads.bias)?,
        })
    }

    fn buffers(
        device: &D,
        heads: &LatentHeads,
        rows: usize,
    ) -> Result<LatentBuffers<D>, DeviceError> {
        let buffer = |width| device.buffer(rows * width);
        Ok(LatentBuffers {
            query_latent: buffer(heads.query_rank.unwrap_or(0))?,
            q: buffer(heads.heads * heads.query_dim())?,
            absorbed: buffer(heads.heads * heads.key_dim())?,
            latent: buffer(heads.kv_rank)?,
            rotary_key: buffer(heads.rotary_dim)?,
            key: buffer(heads.key_dim())?,
            attended: buffer(heads.heads * heads.kv_rank)?,
            values: buffer(heads.heads * heads.value_dim)?,
        })
    }

    fn forward(
        &self,
        kv: &mut LayerKv<'_, D>,
        (x, rows): (&D::Buffer, usize),
        b: &mut LatentBuffers<D>,
        out: &mut D::Buffer,
    ) -> Result<(), DeviceError> {
        let (device, heads) = (kv.device, &self.heads);
        device.part(Part::Qkv);
        self.keys(kv, (x, rows), b)?;
        self.queries(kv, (x, rows), b)?;
        device.kv_write(kv.pool, kv.layer, kv.inputs, (&b.key, None))?;
        let attention = Attention {
            heads: heads.heads,
            scale: heads.scale,
            window: kv.window,
            soft_cap: None,
            sinks: None,
        };
        let pool = (&*kv.pool, kv.layer);
        device.paged_attention(&b.absorbed, attention, pool, kv.inputs, &mut b.attended)?;
        device.part(Part::Output);
        let attended = (&b.attended, Columns::whole(heads.kv_rank));
        let values = (&mut b.values, Columns::whole(heads.value_dim));
        device.head_linear(&self.values, attended, rows, values)?;
        self.o.forward(device, &b.values, rows, out)
    }
}
