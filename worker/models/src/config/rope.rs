//! The frequencies of rotary position embeddings, and their scaling to longer
//! contexts.

use std::f64::consts::TAU;

use super::fields::Fields;
use crate::error::LoadError;

/// Rotary position embedding.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    pub theta: f64,
    pub scaling: RopeScaling,
}

#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    None,
    /// All frequencies are divided by `factor` (Chen et al. 2023).
    Linear {
        factor: f64,
    },
    /// Low frequencies are divided by `factor`, high ones are kept, and those
    /// between are blended (Llama 3.1).
    Llama3 {
        factor: f64,
        low_freq_factor: f64,
        high_freq_factor: f64,
        original_max_position_embeddings: usize,
    },
}

impl Rope {
    /// Reads both spellings: `rope_parameters` of transformers 5, and
    /// `rope_theta` with `rope_scaling` before it.
    pub(super) fn parse(config: &Fields<'_>) -> Result<Rope, LoadError> {
        let parameters = config.object("rope_parameters", "rope_parameters.")?;
        let inner_theta = match &parameters {
            Some(parameters) => parameters.optional_positive("rope_theta")?,
            None => None,
        };
        let theta = match inner_theta {
            Some(theta) => theta,
            None => config.optional_positive("rope_theta")?.unwrap_or(10_000.0),
        };
        let scaling = match parameters {
            Some(parameters) => Some(parameters),
            None => config.object("rope_scaling", "rope_scaling.")?,
        };
        let scaling = match scaling {
            Some(scaling) => RopeScaling::parse(&scaling)?,
            None => RopeScaling::None,
        };
        Ok(Rope { theta, scaling })
    }

    /// One frequency for each pair of numbers of a head, `[head_dim / 2]`, in
    /// radians per position.
    pub fn inverse_frequencies(&self, head_dim: usize) -> Vec<f32> {
        (0..head_dim / 2)
            .map(|pair| {
                let exponent = (2 * pair) as f64 / head_dim as f64;
                self.scaling.scale(self.theta.powf(exponent).recip()) as f32
            })
            .collect()
    }
}

impl RopeScaling {
    fn parse(fields: &Fields<'_>) -> Result<RopeScaling, LoadError> {
        let kind = match fields.text("rope_type")? {
            Some(kind) => Some(kind),
            None => fields.text("type")?,
        };
        match kind.unwrap_or("default") {
            "default" => Ok(RopeScaling::None),
            "linear" => Ok(RopeScaling::Linear {
                factor: fields.positive("factor")?,
            }),
            "llama3" => {
                let low_freq_factor = fields.positive("low_freq_factor")?;
                let high_freq_factor = fields.positive("high_freq_factor")?;
                if high_freq_factor <= low_freq_factor {
                    return Err(fields.error("high_freq_factor", "above low_freq_factor"));
                }
                Ok(RopeScaling::Llama3 {
                    factor: fields.positive("factor")?,
                    low_freq_factor,
                    high_freq_factor,
                    original_max_position_embeddings: fields
                        .size("original_max_position_embeddings")?,
                })
            }
            other => Err(LoadError::Unsupported {
                what: format!("rope type {other}"),
                supported: "default, linear, llama3".to_owned(),
            }),
        }
    }

    fn scale(&self, frequency: f64) -> f64 {
        match *self {
            RopeScaling::None => frequency,
            RopeScaling::Linear { factor } => frequency / factor,
            RopeScaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_max_position_embeddings,
            } => {
                let turns = original_max_position_embeddings as f64 * frequency / TAU;
                let smooth = (turns - low_freq_factor) / (high_freq_factor - low_freq_factor);
                let kept = smooth.clamp(0.0, 1.0);
                frequency * (kept + (1.0 - kept) / factor)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn llama3_keeps_high_divides_low_and_blends_between() {
        let rope = Rope {
            theta: 500_000.0,
            scaling: RopeScaling::Llama3 {
                factor: 8.0,
                low_freq_factor: 1.0,
                high_freq_factor: 4.0,
                original_max_position_embeddings: 8192,
            },
        };
        let plain = Rope {
            scaling: RopeScaling::None,
            ..rope.clone()
        };
        let (scaled, plain) = (
            rope.inverse_frequencies(128),
            plain.inverse_frequencies(128),
        );
        assert_eq!(scaled.len(), 64);
        assert_eq!(scaled[0], 1.0);
        assert_eq!(scaled[20], plain[20]);
        assert!((scaled[63] * 8.0 / plain[63] - 1.0).abs() < 1e-6);
        // Pair 32 turns 8192 * 500000^-0.5 / 2 pi = 1.84 times in the original
        // context: 0.2813 of it is kept.
        let kept = (8192.0 * 500_000f64.sqrt().recip() / TAU - 1.0) / 3.0;
        let expected = f64::from(plain[32]) * (kept + (1.0 - kept) / 8.0);
        assert!((f64::from(scaled[32]) / expected - 1.0).abs() < 1e-6);
    }

    #[test]
    fn linear_divides_all() {
        let rope = |scaling| Rope {
            theta: 100.0,
            scaling,
        };
        assert_eq!(
            rope(RopeScaling::Linear { factor: 2.0 }).inverse_frequencies(4),
            [0.5, 0.05]
        );
        assert_eq!(rope(RopeScaling::None).inverse_frequencies(4), [1.0, 0.1]);
    }
}
