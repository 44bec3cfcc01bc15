//! What model families are put together from.

mod attention;
mod loader;
mod mlp;

use tensor::{Device, DeviceError};

pub(crate) use attention::{Attention, AttentionBuffers, PagedKv};
pub(crate) use loader::Loader;
pub(crate) use mlp::{Mlp, MlpBuffers};

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
        let norm = tensor::RmsNorm {
            rows,
            cols: self.cols,
            eps: self.eps,
        };
        device.rms_norm(x, &self.weight, norm, out)
    }
}
