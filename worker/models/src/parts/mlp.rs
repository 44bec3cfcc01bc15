//! The gated feed-forward network (Shazeer 2020, SwiGLU).

use tensor::{Device, DeviceError};

use super::{Linear, Loader};
use crate::config::ModelConfig;
use crate::error::LoadError;

pub(crate) struct Mlp<D: Device> {
    gate: Linear<D>,
    up: Linear<D>,
    down: Linear<D>,
    intermediate: usize,
}

/// Activations inside the network, `[rows, intermediate]`.
pub(crate) struct MlpBuffers<D: Device> {
    gate: D::Buffer,
    up: D::Buffer,
}

impl<D: Device> MlpBuffers<D> {
    pub(crate) fn new(device: &D, config: &ModelConfig, rows: usize) -> Result<Self, DeviceError> {
        let len = rows * config.intermediate_size;
        Ok(MlpBuffers {
            gate: device.buffer(len)?,
            up: device.buffer(len)?,
        })
    }
}

impl<D: Device> Mlp<D> {
    pub(crate) fn load(
        loader: &Loader<'_, D>,
        name: &str,
        config: &ModelConfig,
    ) -> Result<Mlp<D>, LoadError> {
        let (hidden, intermediate) = (config.hidden_size, config.intermediate_size);
        let linear = |part, shape| loader.linear(&format!("{name}.{part}"), shape, config.mlp_bias);
        Ok(Mlp {
            gate: linear("gate_proj", (intermediate, hidden))?,
            up: linear("up_proj", (intermediate, hidden))?,
            down: linear("down_proj", (hidden, intermediate))?,
            intermediate,
        })
    }

    /// `out = down(silu(gate(x)) * up(x))`; x and out are `[rows, hidden]`.
    pub(crate) fn forward(
        &self,
        device: &D,
        x: &D::Buffer,
        rows: usize,
        buffers: &mut MlpBuffers<D>,
        out: &mut D::Buffer,
    ) -> Result<(), DeviceError> {
        let MlpBuffers { gate, up } = buffers;
        self.gate.forward(device, x, rows, gate)?;
        self.up.forward(device, x, rows, up)?;
        device.silu_mul(gate, up, rows * self.intermediate)?;
        self.down.forward(device, gate, rows, out)
    }
}
