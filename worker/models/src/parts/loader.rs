//! From named tensors of a checkpoint to parts on a device.

use tensor::Device;

use super::{Linear, RmsNorm};
use crate::checkpoint::{Checkpoint, WeightSpec};
use crate::error::LoadError;

pub(crate) struct Loader<'a, D: Device> {
    pub(crate) device: &'a D,
    pub(crate) checkpoint: &'a Checkpoint,
}

impl<D: Device> Loader<'_, D> {
    /// `{name}.weight`, `[rows, cols]`.
    pub(crate) fn matrix(
        &self,
        name: &str,
        rows: usize,
        cols: usize,
    ) -> Result<D::Weight, LoadError> {
        let spec = WeightSpec::matrix(format!("{name}.weight"), rows, cols);
        Ok(self.device.weight(self.checkpoint.take(&spec)?)?)
    }

    /// `{name}.weight`, `[outputs, inputs]`, and `{name}.bias` if it has one.
    pub(crate) fn linear(
        &self,
        name: &str,
        (outputs, inputs): (usize, usize),
        bias: bool,
    ) -> Result<Linear<D>, LoadError> {
        let bias = bias.then(|| WeightSpec::vector(format!("{name}.bias"), outputs));
        Ok(Linear {
            weight: self.matrix(name, outputs, inputs)?,
            bias: bias.map(|spec| self.vector(&spec)).transpose()?,
        })
    }

    /// `{name}.weight`, `[cols]`.
    pub(crate) fn rms_norm(
        &self,
        name: &str,
        cols: usize,
        eps: f32,
    ) -> Result<RmsNorm<D>, LoadError> {
        let spec = WeightSpec::vector(format!("{name}.weight"), cols);
        Ok(RmsNorm {
            weight: self.vector(&spec)?,
            cols,
            eps,
        })
    }

    fn vector(&self, spec: &WeightSpec) -> Result<D::Buffer, LoadError> {
        Ok(self.device.upload(&self.checkpoint.take(spec)?.to_f32())?)
    }
}
