//! What follows attention in a layer: a dense network, or experts.

use tensor::{Device, DeviceError};

use super::Loader;
use super::experts::{ExpertBuffers, MixtureOfExperts};
use super::mlp::{Mlp, MlpBuffers};
use crate::config::{self, ModelConfig};
use crate::error::LoadError;

pub(crate) enum FeedForward<D: Device> {
    Dense(Mlp<D>),
    Experts {
        experts: Box<MixtureOfExperts<D>>,
        /// What all tokens take too.
        shared: Option<Mlp<D>>,
    },
}

/// Activations of any layer's network.
pub(crate) struct FeedForwardBuffers<D: Device> {
    dense: MlpBuffers<D>,
    experts: ExpertBuffers<D>,
    /// `[rows, hidden]`, of shared experts.
    shared: D::Buffer,
}

impl<D: Device> FeedForwardBuffers<D> {
    pub(crate) fn new(device: &D, config: &ModelConfig, rows: usize) -> Result<Self, DeviceError> {
        let networks = || config.layers.iter().map(|layer| &layer.feed_forward);
        let dense = networks().filter_map(config::FeedForward::dense);
        let experts = || networks().filter_map(config::FeedForward::experts);
        let widest = dense.map(|dense| dense.intermediate).max().unwrap_or(0);
        let shares = experts().any(|experts| experts.shared.is_some());
        let shared = if shares { rows * config.hidden_size } else { 0 };
        Ok(FeedForwardBuffers {
            dense: MlpBuffers::new(device, rows, widest)?,
            experts: ExpertBuffers::new(device, (rows, config.hidden_size), experts())?,
            shared: device.buffer(shared)?,
        })
    }
}

impl<D: Device> FeedForward<D> {
    /// The network of the layer of this name.
    pub(crate) fn load(
        loader: &Loader<'_, D>,
        layer: &str,
        hidden: usize,
        config: &config::FeedForward,
    ) -> Result<FeedForward<D>, LoadError> {
        let dense = |dense| Mlp::load(loader, layer, hidden, dense);
        Ok(match config {
            config::FeedForward::Dense(config) => FeedForward::Dense(dense(config)?),
            config::FeedForward::Experts(experts) => FeedForward::Experts {
                experts: Box::new(MixtureOfExperts::load(loader, layer, hidden, experts)?),
                shared: experts.shared.as_ref().map(dense).transpose()?,
            },
        })
    }

    /// x and out are `[rows, hidden]`. The output may be a part of a sum over
    /// ranks.
    pub(crate) fn forward(
        &self,
        device: &D,
        (x, rows): (&D::Buffer, usize),
        buffers: &mut FeedForwardBuffers<D>,
        out: &mut D::Buffer,
    ) -> Result<(), DeviceError> {
        let FeedForwardBuffers {
            dense,
            experts: inner,
            shared: sum,
        } = buffers;
        match self {
            FeedForward::Dense(mlp) => mlp.forward(device, (x, rows), dense, out),
            FeedForward::Experts { experts, shared } => {
                experts.forward(device, (x, rows), inner, out)?;
                let Some(shared) = shared else {
                    return Ok(());
                };
                shared.forward(device, (x, rows), dense, sum)?;
                device.add(out, sum, 1.0, rows * experts.hidden())
            }
        }
    }
}
