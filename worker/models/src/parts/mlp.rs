//! The gated feed-forward network (Shazeer 2020, GLU variants).

use tensor::{Device, DeviceError, Part};

use super::{Linear, Loader};
use crate::config::{Dense, DenseLayout};
use crate::error::LoadError;

pub(crate) struct Mlp<D: Device> {
    gate: Linear<D>,
    up: Linear<D>,
    down: Linear<D>,
    config: Dense,
}

/// Activations inside the network, `[rows, intermediate]`.
pub(crate) struct MlpBuffers<D: Device> {
    gate: D::Buffer,
    up: D::Buffer,
}

impl<D: Device> MlpBuffers<D> {
    /// For networks of at most so many intermediate numbers.
    pub(crate) fn new(device: &D, rows: usize, widest: usize) -> Result<Self, DeviceError> {
        Ok(MlpBuffers {
            gate: device.buffer(rows * widest)?,
            up: device.buffer(rows * widest)?,
        })
    }
}

impl<D: Device> Mlp<D> {
    /// The network of the layer of this name.
    pub(crate) fn load(
        loader: &Loader<'_, D>,
        layer: &str,
        hidden: usize,
        config: &Dense,
    ) -> Result<Mlp<D>, LoadError> {
        let Dense {
            intermediate, bias, ..
        } = *config;
        let linear = |part, outputs, inputs| {
            loader.linear(&format!("{layer}.{part}"), (outputs, inputs), bias)
        };
        let ([gate, up], down) = match config.layout {
            DenseLayout::Separate { gate, up, down } => {
                let gate = linear(gate, intermediate, hidden)?;
                ([gate, linear(up, intermediate, hidden)?], down)
            }
            DenseLayout::Fused { gate_up, down } => {
                let name = format!("{layer}.{gate_up}");
                let stored = loader.stored_linear(&name, (2 * intermediate, hidden), bias)?;
                let gate = stored.cut(loader, 0..intermediate)?;
                let up = stored.cut(loader, intermediate..2 * intermediate)?;
                ([gate, up], down)
            }
        };
        Ok(Mlp {
            gate,
            up,
            down: linear(down, hidden, intermediate)?,
            config: *config,
        })
    }

    /// `out = down(activation(gate(x), up(x)))`; x and out are `[rows, hidden]`.
    pub(crate) fn forward(
        &self,
        device: &D,
        (x, rows): (&D::Buffer, usize),
        buffers: &mut MlpBuffers<D>,
        out: &mut D::Buffer,
    ) -> Result<(), DeviceError> {
        let MlpBuffers { gate, up } = buffers;
        device.part(Part::GateUp);
        let products = &mut [self.gate.product(gate), self.up.product(up)];
        device.linears(x, rows, products)?;
        let len = rows * self.config.intermediate;
        device.gated(self.config.activation, gate, up, len)?;
        device.part(Part::Down);
        self.down.forward(device, gate, rows, out)
    }
}
