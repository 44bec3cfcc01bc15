//! The device trait.

use crate::batch::Batch;
use crate::encoding::StoredMatrix;
use crate::error::DeviceError;
use crate::kv_shape::KvShape;
use crate::ops::{Activation, Attention, Columns, ExpertInput, Part, RmsNorm, Rotation, Routing};

type Result<T> = std::result::Result<T, DeviceError>;

/// A product with activations that others may read too.
pub struct Product<'a, D: Device> {
    pub weight: &'a D::Weight,
    pub bias: Option<&'a D::Buffer>,
    pub out: &'a mut D::Buffer,
}

/// A device: memory behind handles, and operations on it. Activations are f32,
/// row-major. Buffers may be longer than an operation needs; what is beyond
/// stays as it was. `rows` always counts tokens of the batch (or, after
/// [`Device::gather`], its outputs).
pub trait Device: Send + Sized + 'static {
    /// Activations and small parameters, f32.
    type Buffer: Send;
    /// A matrix in the form that products and `embed` read.
    type Weight: Send;
    /// Paged keys and values of all layers.
    type KvPool: Send;
    /// A batch's tokens, positions, slots and block tables on the device.
    type Inputs: Send;
    /// Which experts a batch's tokens go to. A route is a token and one of its
    /// experts; routes lie expert after expert.
    type Routes: Send + Default;

    /// Says what products after this call are for; only who measures listens.
    fn part(&self, _part: Part) {}

    /// Rows of a batch at most of which more make no product faster, but take
    /// more memory.
    fn rows_at_once(&self) -> usize {
        usize::MAX
    }

    /// Calls `work` once with each number below `parts`, on what threads the
    /// device has on the host, and returns when all have returned.
    fn side_by_side(&self, parts: usize, work: &(dyn Fn(usize) + Sync)) {
        (0..parts).for_each(work);
    }

    /// `len` zeros.
    fn buffer(&self, len: usize) -> Result<Self::Buffer>;

    fn upload(&self, values: &[f32]) -> Result<Self::Buffer>;

    fn weight(&self, matrix: StoredMatrix) -> Result<Self::Weight>;

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

    /// [`Device::rms_norm`] whose result takes the place of `x`.
    fn rms_norm_in_place(
        &self,
        x: &mut Self::Buffer,
        weight: &Self::Buffer,
        norm: RmsNorm,
    ) -> Result<()>;

    /// `out = x w^T + bias` of each product: x is `[rows, in]`, w `[out, in]`,
    /// out `[rows, out]`.
    fn linears(
        &self,
        x: &Self::Buffer,
        rows: usize,
        products: &mut [Product<'_, Self>],
    ) -> Result<()>;

    /// One of [`Device::linears`].
    fn linear(
        &self,
        weight: &Self::Weight,
        bias: Option<&Self::Buffer>,
        x: &Self::Buffer,
        rows: usize,
        out: &mut Self::Buffer,
    ) -> Result<()> {
        self.linears(x, rows, &mut [Product { weight, bias, out }])
    }

    /// A product of its own for each head: `out[row][head] = x[row][head] w^T`
    /// with the head's matrix, all `[out, in]`; columns are those of a head.
    fn head_linear(
        &self,
        heads: &[Self::Weight],
        x: (&Self::Buffer, Columns),
        rows: usize,
        out: (&mut Self::Buffer, Columns),
    ) -> Result<()>;

    /// `out[row] = x[row]`, of columns that are equally wide.
    fn copy_columns(
        &self,
        x: (&Self::Buffer, Columns),
        rows: usize,
        out: (&mut Self::Buffer, Columns),
    ) -> Result<()>;

    /// Rotates columns of each head of `x`, `[rows, heads, stride]`, by its
    /// row's position. `table` is from [`crate::rope_table`].
    fn rope(
        &self,
        table: &Self::Buffer,
        inputs: &Self::Inputs,
        rotation: Rotation,
        x: &mut Self::Buffer,
    ) -> Result<()>;

    /// Stores keys and values, `[rows, kv_heads, head_dim]`, at the rows' slots;
    /// values only if the pool keeps them beside keys.
    fn kv_write(
        &self,
        pool: &mut Self::KvPool,
        layer: usize,
        inputs: &Self::Inputs,
        kv: (&Self::Buffer, Option<&Self::Buffer>),
    ) -> Result<()>;

    /// Causal attention of `q`, `[rows, heads, head_dim]`, over each row's
    /// sequence in a layer of the pool, its own position included; out is
    /// `[rows, heads, value_dim]`.
    fn paged_attention(
        &self,
        q: &Self::Buffer,
        attention: Attention<'_, Self::Buffer>,
        kv: (&Self::KvPool, usize),
        inputs: &Self::Inputs,
        out: &mut Self::Buffer,
    ) -> Result<()>;

    /// `gate = activation(gate, up)` over `len` numbers.
    fn gated(
        &self,
        activation: Activation,
        gate: &mut Self::Buffer,
        up: &Self::Buffer,
        len: usize,
    ) -> Result<()>;

    /// `x += scale * y` over `len` numbers.
    fn add(&self, x: &mut Self::Buffer, y: &Self::Buffer, scale: f32, len: usize) -> Result<()>;

    /// `x *= factor` over `len` numbers.
    fn scale(&self, x: &mut Self::Buffer, factor: f32, len: usize) -> Result<()>;

    /// `x = cap * tanh(x / cap)` over `len` numbers.
    fn soft_cap(&self, x: &mut Self::Buffer, cap: f32, len: usize) -> Result<()>;

    /// Chooses experts from logits, `[rows, experts]`. A bias beside them,
    /// `[experts]`, is added to scores for the choice only, not for the weights.
    fn route(
        &self,
        routing: &Routing,
        logits: (&Self::Buffer, Option<&Self::Buffer>),
        rows: usize,
        routes: &mut Self::Routes,
    ) -> Result<()>;

    /// `out[route] = x w^T + bias` with the matrix and bias of the route's
    /// expert: matrices are `[out, in]`, biases `[experts, out]`, out is
    /// `[routes, out]`.
    fn expert_linear(
        &self,
        experts: &[Self::Weight],
        bias: Option<&Self::Buffer>,
        x: ExpertInput<'_, Self::Buffer>,
        routes: &Self::Routes,
        out: &mut Self::Buffer,
    ) -> Result<()>;

    /// `out[row]` becomes the weighted sum of the row's routes; y is `[routes,
    /// cols]`, out `[rows, cols]`.
    fn combine(
        &self,
        y: &Self::Buffer,
        cols: usize,
        routes: &Self::Routes,
        out: &mut Self::Buffer,
    ) -> Result<()>;

    /// The batch's output rows of `x`, `[rows, cols]`, to `out`,
    /// `[outputs, cols]`.
    fn gather(
        &self,
        x: &Self::Buffer,
        cols: usize,
        inputs: &Self::Inputs,
        out: &mut Self::Buffer,
    ) -> Result<()>;

    /// Makes block `to` what block `from` is.
    fn kv_copy(&self, pool: &mut Self::KvPool, from: u32, to: u32) -> Result<()>;

    /// Appends the wire form of `block`, as [`KvShape::block_bytes`] says it.
    fn kv_export(&self, pool: &Self::KvPool, block: u32, out: &mut Vec<u8>) -> Result<()>;

    /// Fills `block` from its wire form; on error it stays as it was.
    fn kv_import(&self, pool: &mut Self::KvPool, block: u32, bytes: &[u8]) -> Result<()>;
}
