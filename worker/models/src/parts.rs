//! What model families are put together from.

mod attention;
mod experts;
mod feed_forward;
mod latent;
mod loader;
mod mlp;
mod mxfp4;
mod rope;

use tensor::{Device, DeviceError, Product};

use crate::config::ModelConfig;
use crate::error::LoadError;
pub(crate) use attention::GroupedAttention;
pub(crate) use feed_forward::{FeedForward, FeedForwardBuffers};
pub(crate) use latent::LatentAttention;
pub(crate) use loader::Loader;
pub(crate) use rope::RopeTables;

/// A kind of self-attention.
pub(crate) trait SelfAttention<D: Device>: Sized + Send {
    /// The part of the model's config that describes it.
    type Config: Clone + Send;
    /// Activations inside it.
    type Buffers: Send;

    fn load(
        loader: &Loader<'_, D>,
        name: &str,
        config: &ModelConfig,
        own: &Self::Config,
    ) -> Result<Self, LoadError>;

    fn buffers(device: &D, own: &Self::Config, rows: usize) -> Result<Self::Buffers, DeviceError>;

    /// Stores the rows' KV and lets them attend to their sequence so far; x and
    /// out are `[rows, hidden]`. The output may be a part of a sum over ranks.
    fn forward(
        &self,
        kv: &mut LayerKv<'_, D>,
        x: (&D::Buffer, usize),
        buffers: &mut Self::Buffers,
        out: &mut D::Buffer,
    ) -> Result<(), DeviceError>;
}

/// What one layer's attention reads and writes besides activations.
pub(crate) struct LayerKv<'a, D: Device> {
    pub(crate) device: &'a D,
    pub(crate) pool: &'a mut D::KvPool,
    pub(crate) inputs: &'a D::Inputs,
    pub(crate) layer: usize,
    /// How many positions are seen; `None`: all.
    pub(crate) window: Option<usize>,
    pub(crate) rope_table: Option<&'a D::Buffer>,
}

/// A matrix `[out, in]` and perhaps a bias.
pub(crate) struct Linear<D: Device> {
    pub(crate) weight: D::Weight,
    pub(crate) bias: Option<D::Buffer>,
}

impl<D: Device> Linear<D> {
    pub(crate) fn forward(
        &self,
        device: &D,
        x: &D::Buffer,
        rows: usize,
        out: &mut D::Buffer,
    ) -> Result<(), DeviceError> {
        device.linear(&self.weight, self.bias.as_ref(), x, rows, out)
    }

    /// What it computes, beside other products with the same activations.
    pub(crate) fn product<'a>(&'a self, out: &'a mut D::Buffer) -> Product<'a, D> {
        Product {
            weight: &self.weight,
            bias: self.bias.as_ref(),
            out,
        }
    }
}

/// Root-mean-square norm with a learned scale.
pub(crate) struct RmsNorm<D: Device> {
    pub(crate) weight: D::Buffer,
    pub(crate) cols: usize,
    pub(crate) eps: f32,
}

impl<D: Device> RmsNorm<D> {
    pub(crate) fn forward(
        &self,
        device: &D,
        x: &D::Buffer,
        rows: usize,
        out: &mut D::Buffer,
    ) -> Result<(), DeviceError> {
        device.rms_norm(x, &self.weight, self.of_rows(rows), out)
    }

    pub(crate) fn in_place(
        &self,
        device: &D,
        x: &mut D::Buffer,
        rows: usize,
    ) -> Result<(), DeviceError> {
        device.rms_norm_in_place(x, &self.weight, self.of_rows(rows))
    }

    fn of_rows(&self, rows: usize) -> tensor::RmsNorm {
        tensor::RmsNorm {
            rows,
            cols: self.cols,
            eps: self.eps,
        }
    }
}
