//! From named tensors of a checkpoint to parts on a device.

use std::ops::Range;

use tensor::{Device, StoredMatrix};

use super::{Linear, RmsNorm};
use crate::checkpoint::{Checkpoint, WeightSpec};
use crate::error::LoadError;
use crate::loaded::Tally;

pub(crate) struct Loader<'a, D: Device> {
    pub(crate) device: &'a D,
    pub(crate) checkpoint: &'a Checkpoint,
    pub(crate) tally: Tally,
}

/// A matrix of several, one after the other, and their biases.
pub(crate) struct StoredLinear {
    matrix: StoredMatrix,
    bias: Option<Vec<f32>>,
}

impl StoredLinear {
    /// Some of its outputs.
    pub(crate) fn cut<D: Device>(
        &self,
        loader: &Loader<'_, D>,
        outputs: Range<usize>,
    ) -> Result<Linear<D>, LoadError> {
        let rows = self.matrix.slice_rows(outputs.start, outputs.len());
        let bias = self.bias.as_ref().map(|bias| &bias[outputs]);
        Ok(Linear {
            weight: loader.put(rows)?,
            bias: bias.map(|bias| loader.device.upload(bias)).transpose()?,
        })
    }
}

impl<D: Device> Loader<'_, D> {
    /// The matrix on the device.
    pub(crate) fn put(&self, matrix: StoredMatrix) -> Result<D::Weight, LoadError> {
        let bytes = matrix.bytes();
        let weight = self.tally.count(bytes, || self.device.weight(matrix))?;
        Ok(weight)
    }

    /// `{name}.weight`, `[rows, cols]`.
    pub(crate) fn matrix(
        &self,
        name: &str,
        rows: usize,
        cols: usize,
    ) -> Result<D::Weight, LoadError> {
        self.put(self.host_matrix(name, rows, cols)?)
    }

    /// The same in host memory, to be cut.
    pub(crate) fn host_matrix(
        &self,
        name: &str,
        rows: usize,
        cols: usize,
    ) -> Result<StoredMatrix, LoadError> {
        let spec = WeightSpec::matrix(format!("{name}.weight"), rows, cols);
        self.checkpoint.take(&spec)
    }

    /// `{name}.weight`, `[outputs, inputs]`, and `{name}.bias` if it has one.
    pub(crate) fn linear(
        &self,
        name: &str,
        (outputs, inputs): (usize, usize),
        bias: bool,
    ) -> Result<Linear<D>, LoadError> {
        self.stored_linear(name, (outputs, inputs), bias)?
            .cut(self, 0..outputs)
    }

    /// The same in host memory, to be cut.
    pub(crate) fn stored_linear(
        &self,
        name: &str,
        (outputs, inputs): (usize, usize),
        bias: bool,
    ) -> Result<StoredLinear, LoadError> {
        let matrix = self.host_matrix(name, outputs, inputs)?;
        let bias_name = format!("{name}.bias");
        let bias = match bias {
            true => Some(self.host_vector(&bias_name, outputs)?),
            false => {
                self.refuse(&bias_name)?;
                None
            }
        };
        Ok(StoredLinear { matrix, bias })
    }

    /// `{name}.weight`, `[cols]`, plus `offset`.
    pub(crate) fn rms_norm(
        &self,
        name: &str,
        cols: usize,
        (eps, offset): (f32, f32),
    ) -> Result<RmsNorm<D>, LoadError> {
        let mut weight = self.host_vector(&format!("{name}.weight"), cols)?;
        weight.iter_mut().for_each(|weight| *weight += offset);
        Ok(RmsNorm {
            weight: self.device.upload(&weight)?,
            cols,
            eps,
        })
    }

    /// A tensor of small parameters.
    pub(crate) fn vector(&self, name: &str, len: usize) -> Result<D::Buffer, LoadError> {
        Ok(self.device.upload(&self.host_vector(name, len)?)?)
    }

    fn host_vector(&self, name: &str, len: usize) -> Result<Vec<f32>, LoadError> {
        let spec = WeightSpec::vector(name, len);
        Ok(self.checkpoint.take(&spec)?.to_f32())
    }

    /// Fails if the checkpoint has a tensor that this model has no use for, and
    /// that would change its numbers.
    fn refuse(&self, name: &str) -> Result<(), LoadError> {
        match self.checkpoint.has(name) {
            false => Ok(()),
            true => Err(LoadError::Unsupported {
                what: format!("tensor {name}"),
                supported: "this layer without it, as its config says".to_owned(),
            }),
        }
    }
}
