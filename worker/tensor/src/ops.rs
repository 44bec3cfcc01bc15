//! The parameters of operations: which shapes, which variant.

use crate::error::DeviceError;

/// What the products of a forward pass are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// Queries, keys and values.
    Qkv,
    /// Attention's output.
    Output,
    /// The choice of experts.
    Router,
    GateUp,
    Down,
    /// Logits.
    Head,
    Other,
}

/// Root-mean-square norm over each of `rows` rows of `cols` (Zhang and Sennrich
/// 2019).
#[derive(Clone, Copy, Debug)]
pub struct RmsNorm {
    pub rows: usize,
    pub cols: usize,
    pub eps: f32,
}

/// Some columns of each row of a matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Columns {
    /// Numbers from one row to the next.
    pub stride: usize,
    pub first: usize,
    pub width: usize,
}

impl Columns {
    /// All columns of rows of `width`.
    pub fn whole(width: usize) -> Columns {
        Columns {
            stride: width,
            first: 0,
            width,
        }
    }
}

/// Rotary position embedding of `heads` heads per token (Su et al. 2021).
#[derive(Clone, Copy, Debug)]
pub struct Rotation {
    pub heads: usize,
    /// What is rotated of a head; the rest stays as it is.
    pub columns: Columns,
    pub pairs: RotaryPairs,
}

/// Which two numbers are the coordinates that are rotated together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RotaryPairs {
    /// One of the first half and one of the second.
    Halves,
    /// Neighbours.
    Adjacent,
}

/// Attention of `heads` query heads; the pool says the KV heads, which are
/// shared by groups of `heads / kv_heads` (Ainslie et al. 2023, GQA).
#[derive(Debug)]
pub struct Attention<'a, B> {
    pub heads: usize,
    /// What scores are multiplied with.
    pub scale: f32,
    /// How many positions a token sees, its own included; `None`: all.
    pub window: Option<usize>,
    /// Scores become `cap * tanh(score / cap)` (Gemma 2).
    pub soft_cap: Option<f32>,
    /// `[heads]`: one more score of each head, which takes weight and has no
    /// value (Xiao et al. 2023, attention sinks).
    pub sinks: Option<&'a B>,
}

/// The activation of a gated feed-forward network, `f(gate) * up` (Shazeer 2020,
/// GLU variants).
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Activation {
    /// `gate / (1 + e^-gate) * up`
    Silu,
    /// The tanh form of GELU (Hendrycks and Gimpel 2016).
    GeluTanh,
    /// `gate * sigmoid(alpha * gate) * (up + 1)` of gate at most `limit` and up
    /// within it (gpt-oss).
    ClampedSwiglu { alpha: f32, limit: f32 },
}

/// How a router's logits choose experts for a token (Shazeer et al. 2017).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Routing {
    pub experts: usize,
    /// Experts that a token goes to.
    pub top_k: usize,
    pub score: RouterScore,
    /// Only experts of the best groups are chosen.
    pub groups: Option<ExpertGroups>,
    /// Weights of a token's experts are divided by their sum.
    pub normalise: bool,
    /// What weights are multiplied with in the end.
    pub scale: f32,
}

impl Routing {
    /// `Ok` if there are as many experts and groups as are chosen.
    pub fn validate(&self) -> Result<(), DeviceError> {
        let choosable = match self.groups {
            None => self.experts,
            Some(ExpertGroups { groups, kept, best }) => {
                let size = self.experts.checked_div(groups).unwrap_or(0);
                let fits = size * groups == self.experts
                    && (1..=groups).contains(&kept)
                    && (1..=size).contains(&best);
                if fits { kept * size } else { 0 }
            }
        };
        match (1..=choosable).contains(&self.top_k) {
            true => Ok(()),
            false => Err(DeviceError::Shape {
                what: "the experts and groups that a token's experts are chosen from",
                found: choosable,
                expected: self.top_k,
            }),
        }
    }
}

/// What logits become, over a token's experts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouterScore {
    Softmax,
    Sigmoid,
}

/// Experts in groups of equal size, neighbours together (DeepSeek-V2 and V3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpertGroups {
    pub groups: usize,
    /// Groups whose experts may be chosen.
    pub kept: usize,
    /// A group counts for the sum of its so many best experts.
    pub best: usize,
}

/// What an expert's product reads.
#[derive(Debug)]
pub enum ExpertInput<'a, B> {
    /// `[rows, in]`: each token's numbers go to all of its experts.
    Tokens(&'a B),
    /// `[routes, in]`: what another expert product wrote.
    Routes(&'a B),
}
