//! The device trait.

use crate::batch::Batch;
use crate::error::DeviceError;
use crate::host::HostTensor;

type Result<T> = std::result::Result<T, DeviceError>;

/// The shape of a KV pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KvShape {
    pub layers: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    /// Tokens in a block.
    pub block_size: usize,
    pub total_blocks: usize,
}

impl KvShape {
    /// Keys and values in one block, of all layers.
    pub fn block_elements(&self) -> Result<usize> {
        product(&[
            2,
            self.layers,
            self.block_size,
            self.kv_heads,
            self.head_dim,
        ])
    }

    /// Bytes of a block in wire form, which is `[layers][k, v][block_size]
    /// [kv_heads][head_dim]` of f32, little endian.
    pub fn block_bytes(&self) -> Result<usize> {
        product(&[self.block_elements()?, size_of::<f32>()])
    }

    /// Keys and values in the whole pool.
    pub fn pool_elements(&self) -> Result<usize> {
        product(&[self.block_bytes()?, self.total_blocks]).map(|bytes| bytes / size_of::<f32>())
    }
}

fn product(sizes: &[usize]) -> Result<usize> {
    sizes
        .iter()
        .try_fold(1usize, |product, &size| product.checked_mul(size))
        .filter(|&product| product > 0 && product <= isize::MAX as usize)
        .ok_or(DeviceError::Size {
            what: "the KV pool",
        })
}

/// Root-mean-square norm over each of `rows` rows of `cols` (Zhang and Sennrich
/// 2019).
#[derive(Clone, Copy, Debug)]
pub struct RmsNorm {
    pub rows: usize,
    pub cols: usize,
    pub eps: f32,
}

/// Query heads of an attention; the pool says the KV heads, which are shared by
/// groups of `heads / kv_heads` (Ainslie et al. 2023, GQA).
#[derive(Clone, Copy, Debug)]
pub struct AttentionHeads {
    pub heads: usize,
    pub head_dim: usize,
}

/// A device: memory behind handles, and operations on it. Activations are f32,
/// row-major. Buffers may be longer than an operation needs; what is beyond
/// stays as it was. `rows` always counts tokens of the batch (or, after
/// [`Device::gather`], its outputs).
pub trait Device: Send + 'static {
    /// Activations and small parameters, f32.
    type Buffer: Send;
    /// A matrix in the form that `linear` and `embed` read.
    type Weight: Send;
    /// Paged keys and values of all layers.
    type KvPool: Send;
    /// A batch's tokens, positions, slots and block tables on the device.
    type Inputs: Send;

    /// `len` zeros.
    fn buffer(&self, len: usize) -> Result<Self::Buffer>;

    fn upload(&self, values: &[f32]) -> Result<Self::Buffer>;

    fn weight(&self, tensor: HostTensor) -> Result<Self::Weight>;

    fn kv_pool(&self, shape: &KvShape) -> Result<Self::KvPool>;

    /// Room for batches whose KV lies in a pool of `shape`.
    fn inputs(&self, shape: &KvShape) -> Self::Inputs;

    /// Brings a batch to the device; fails if it does not fit the pool.
    fn load_inputs(&self, batch: &Batch<'_>, inputs: &mut Self::Inputs) -> Result<()>;

    /// The first `len` numbers of `x`, in place of what `out` held.
    fn read(&self, x: &Self::Buffer, len: usize, out: &mut Vec<f32>) -> Result<()>;

    /// `out[row] = table[token of row]`, `[rows, hidden]`.
    fn embed(
        &self,
        table: &Self::Weight,
        inputs: &Self::Inputs,
        out: &mut Self::Buffer,
    ) -> Result<()>;

    /// `out = x / sqrt(mean(x^2) + eps) * weight`, `[rows, cols]`.
    fn rms_norm(
        &self,
        x: &Self::Buffer,
        weight: &Self::Buffer,
        norm: RmsNorm,
        out: &mut Self::Buffer,
    ) -> Result<()>;

    /// `out = x w^T + bias`: x is `[rows, in]`, w `[out, in]`, out `[rows, out]`.
    fn linear(
        &self,
        weight: &Self::Weight,
        bias: Option<&Self::Buffer>,
        x: &Self::Buffer,
        rows: usize,
        out: &mut Self::Buffer,
    ) -> Result<()>;

    /// Rotates each head of `x`, `[rows, heads, head_dim]`, by its row's
    /// position; the halves of a head are the two coordinates of each pair.
    /// `table` is from [`crate::rope_table`].
    fn rope(
        &self,
        table: &Self::Buffer,
        inputs: &Self::Inputs,
        heads: AttentionHeads,
        x: &mut Self::Buffer,
    ) -> Result<()>;

    /// Stores `k` and `v`, `[rows, kv_heads, head_dim]`, at the rows' slots.
    fn kv_write(
        &self,
        pool: &mut Self::KvPool,
        layer: usize,
        inputs: &Self::Inputs,
        kv: (&Self::Buffer, &Self::Buffer),
    ) -> Result<()>;

    /// Causal attention of `q`, `[rows, heads, head_dim]`, over each row's
    /// sequence in the pool, its own position included; scores are scaled by
    /// `1 / sqrt(head_dim)`.
    fn paged_attention(
        &self,
        q: &Self::Buffer,
        heads: AttentionHeads,
        kv: (&Self::KvPool, usize),
        inputs: &Self::Inputs,
        out: &mut Self::Buffer,
    ) -> Result<()>;

    /// `gate = silu(gate) * up` over `len` numbers (Shazeer 2020, SwiGLU).
    fn silu_mul(&self, gate: &mut Self::Buffer, up: &Self::Buffer, len: usize) -> Result<()>;

    /// `x += y` over `len` numbers.
    fn add(&self, x: &mut Self::Buffer, y: &Self::Buffer, len: usize) -> Result<()>;

    /// The batch's output rows of `x`, `[rows, cols]`, to `out`,
    /// `[outputs, cols]`.
    fn gather(
        &self,
        x: &Self::Buffer,
        cols: usize,
        inputs: &Self::Inputs,
        out: &mut Self::Buffer,
    ) -> Result<()>;

    /// Appends the wire form of `block`, as [`KvShape::block_bytes`] says it.
    fn kv_export(&self, pool: &Self::KvPool, block: u32, out: &mut Vec<u8>) -> Result<()>;

    /// Fills `block` from its wire form; on error it stays as it was.
    fn kv_import(&self, pool: &mut Self::KvPool, block: u32, bytes: &[u8]) -> Result<()>;
}
