//! The frequencies of rotary position embeddings, and their scaling to longer
//! contexts.

mod scaling;
#[cfg(test)]
mod tests;

use super::fields::Fields;
use crate::error::LoadError;
pub use scaling::RopeScaling;

/// Rotary position embedding (Su et al. 2021).
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Numbers of a head that are rotated. Even.
    pub dim: usize,
    pub theta: f64,
    pub scaling: RopeScaling,
}

impl Rope {
    /// Reads both spellings: `rope_parameters` of transformers 5, and
    /// `rope_theta` with `rope_scaling` before it.
    pub(crate) fn parse(config: &Fields<'_>, dim: usize) -> Result<Rope, LoadError> {
        let parameters = match config.object("rope_parameters", "rope_parameters.")? {
            Some(parameters) => Some(parameters),
            None => config.object("rope_scaling", "rope_scaling.")?,
        };
        Rope::of(config, parameters.as_ref(), ("rope_theta", 10_000.0), dim)
    }

    /// Of `parameters` as far as they say it; `theta` is the field of the config
    /// that has it if they don't, and what it is if that is absent too.
    pub(crate) fn of(
        config: &Fields<'_>,
        parameters: Option<&Fields<'_>>,
        theta: (&str, f64),
        dim: usize,
    ) -> Result<Rope, LoadError> {
        let inner = match parameters {
            Some(parameters) => parameters.optional_positive("rope_theta")?,
            None => None,
        };
        let theta = match inner {
            Some(theta) => theta,
            None => config.optional_positive(theta.0)?.unwrap_or(theta.1),
        };
        Ok(Rope {
            dim,
            theta,
            scaling: RopeScaling::parse(config, parameters, dim, theta)?,
        })
    }

    /// One frequency for each pair of rotated numbers, `[dim / 2]`, in radians
    /// per position.
    pub fn inverse_frequencies(&self) -> Vec<f32> {
        (0..self.dim / 2)
            .map(|pair| self.scaling.scale(self, pair) as f32)
            .collect()
    }

    /// What rotated numbers are multiplied with.
    pub fn magnitude(&self) -> f32 {
        self.scaling.magnitude() as f32
    }

    /// What attention's scores are multiplied with besides, where a model asks
    /// for it (DeepSeek).
    pub(crate) fn score_multiplier(&self) -> f32 {
        match self.scaling {
            RopeScaling::Yarn {
                score_multiplier, ..
            } => score_multiplier as f32,
            _ => 1.0,
        }
    }

    /// A pair's frequency before any scaling.
    fn plain_frequency(&self, pair: usize) -> f64 {
        let exponent = (2 * pair) as f64 / self.dim as f64;
        self.theta.powf(exponent).recip()
    }
}
