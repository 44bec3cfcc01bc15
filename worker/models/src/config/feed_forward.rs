//! Feed-forward networks as families describe them.

use tensor::{Activation, Routing};

use super::fields::Fields;
use crate::error::LoadError;

/// What follows attention in a layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum FeedForward {
    Dense(Dense),
    Experts(Experts),
}

/// A gated network (Shazeer 2020): `down(activation(gate(x), up(x)))`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dense {
    pub intermediate: usize,
    pub activation: Activation,
    pub bias: bool,
    pub layout: DenseLayout,
}

/// How a network's matrices are named, after the layer's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DenseLayout {
    Separate {
        gate: &'static str,
        up: &'static str,
        down: &'static str,
    },
    /// Gate and up are one matrix, gate first.
    Fused {
        gate_up: &'static str,
        down: &'static str,
    },
}

/// A mixture of gated networks, of which each token takes some (Shazeer et al.
/// 2017).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Experts {
    /// Of each expert.
    pub intermediate: usize,
    pub activation: Activation,
    pub routing: Routing,
    pub layout: ExpertLayout,
    /// The router's matrix, by its name in the layer.
    pub router: &'static str,
    pub router_bias: bool,
    /// The tensor that is added to scores for the choice, by its name in the
    /// layer.
    pub choice_bias: Option<&'static str>,
    /// A network that all tokens take too.
    pub shared: Option<Dense>,
}

/// How experts' matrices are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExpertLayout {
    /// Each by itself: `{experts}.{index}.{gate}.weight`.
    Named {
        experts: &'static str,
        gate: &'static str,
        up: &'static str,
        down: &'static str,
    },
    /// gpt-oss: all experts in one tensor, gate and up in turns, with biases.
    Stacked { format: StackFormat },
}

/// How stacked experts' numbers are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StackFormat {
    /// `[experts, in, out]`
    Plain,
    /// `[experts, out, in]` in blocks of 32 four-bit numbers with a common
    /// exponent (OCP Microscaling Formats 1.0, MXFP4).
    Mxfp4,
}

impl From<Dense> for FeedForward {
    fn from(dense: Dense) -> FeedForward {
        FeedForward::Dense(dense)
    }
}

impl From<Experts> for FeedForward {
    fn from(experts: Experts) -> FeedForward {
        FeedForward::Experts(experts)
    }
}

impl FeedForward {
    /// The dense network that all tokens take, if there is one.
    pub(crate) fn dense(&self) -> Option<&Dense> {
        match self {
            FeedForward::Dense(dense) => Some(dense),
            FeedForward::Experts(experts) => experts.shared.as_ref(),
        }
    }

    pub(crate) fn experts(&self) -> Option<&Experts> {
        match self {
            FeedForward::Dense(_) => None,
            FeedForward::Experts(experts) => Some(experts),
        }
    }
}

impl Dense {
    /// Llama's, under `mlp`.
    pub(crate) fn read(fields: &Fields<'_>) -> Result<Dense, LoadError> {
        Ok(Dense {
            intermediate: fields.size("intermediate_size")?,
            activation: fields.activation("silu")?,
            bias: false,
            layout: DenseLayout::Separate {
                gate: "mlp.gate_proj",
                up: "mlp.up_proj",
                down: "mlp.down_proj",
            },
        })
    }
}
