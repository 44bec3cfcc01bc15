//! How frequencies are scaled to contexts longer than those of training.

use std::f64::consts::TAU;

use super::Rope;
use crate::config::fields::Fields;
use crate::error::LoadError;

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
    /// Pairs before `kept` are kept, those from `divided` on are divided by
    /// `factor`, those between are blended (Peng et al. 2023, YaRN).
    Yarn {
        factor: f64,
        kept: f64,
        divided: f64,
        magnitude: f64,
        /// What attention's scores are multiplied with besides, for models that
        /// ask for it.
        score_multiplier: f64,
    },
    /// Each pair's frequency is divided by a number of its own (Ding et al.
    /// 2024, LongRoPE).
    LongRope {
        factors: Vec<f64>,
        magnitude: f64,
    },
}

impl RopeScaling {
    /// Of `parameters`, as far as they say it, and the whole config.
    pub(super) fn parse(
        config: &Fields<'_>,
        parameters: Option<&Fields<'_>>,
        dim: usize,
        theta: f64,
    ) -> Result<RopeScaling, LoadError> {
        let Some(fields) = parameters else {
            return Ok(RopeScaling::None);
        };
        let kind = match fields.text("rope_type")? {
            Some(kind) => Some(kind),
            None => fields.text("type")?,
        };
        match kind.unwrap_or("default") {
            "default" => Ok(RopeScaling::None),
            "linear" => Ok(RopeScaling::Linear {
                factor: fields.positive("factor")?,
            }),
            "llama3" => llama3(fields),
            "yarn" => yarn(config, fields, dim, theta),
            "longrope" | "su" => long_rope(config, fields, dim),
            other => Err(LoadError::Unsupported {
                what: format!("rope type {other}"),
                supported: "default, linear, llama3, yarn, longrope".to_owned(),
            }),
        }
    }

    /// The scaled frequency of a pair.
    pub(super) fn scale(&self, rope: &Rope, pair: usize) -> f64 {
        let frequency = rope.plain_frequency(pair);
        let blend = |kept: f64, factor: f64| frequency * (kept + (1.0 - kept) / factor);
        match self {
            RopeScaling::None => frequency,
            RopeScaling::Linear { factor } => frequency / factor,
            RopeScaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_max_position_embeddings,
            } => {
                let turns = *original_max_position_embeddings as f64 * frequency / TAU;
                let smooth = (turns - low_freq_factor) / (high_freq_factor - low_freq_factor);
                blend(smooth.clamp(0.0, 1.0), *factor)
            }
            RopeScaling::Yarn {
                factor,
                kept,
                divided,
                ..
            } => {
                let ramp = (pair as f64 - kept) / (divided - kept);
                blend(1.0 - ramp.clamp(0.0, 1.0), *factor)
            }
            RopeScaling::LongRope { factors, .. } => {
                frequency / factors.get(pair).copied().unwrap_or(1.0)
            }
        }
    }

    pub(super) fn magnitude(&self) -> f64 {
        match self {
            RopeScaling::Yarn { magnitude, .. } | RopeScaling::LongRope { magnitude, .. } => {
                *magnitude
            }
            _ => 1.0,
        }
    }
}

fn llama3(fields: &Fields<'_>) -> Result<RopeScaling, LoadError> {
    let low_freq_factor = fields.positive("low_freq_factor")?;
    let high_freq_factor = fields.positive("high_freq_factor")?;
    if high_freq_factor <= low_freq_factor {
        return Err(fields.error("high_freq_factor", "above low_freq_factor"));
    }
    Ok(RopeScaling::Llama3 {
        factor: fields.positive("factor")?,
        low_freq_factor,
        high_freq_factor,
        original_max_position_embeddings: fields.size("original_max_position_embeddings")?,
    })
}

/// The context of training, and how often the model's longest is longer.
fn contexts(config: &Fields<'_>, fields: &Fields<'_>) -> Result<(usize, f64), LoadError> {
    let longest = config.size("max_position_embeddings")?;
    let field = "original_max_position_embeddings";
    let original = match config.optional_size(field)? {
        Some(original) => original,
        None => fields.optional_size(field)?.unwrap_or(longest),
    };
    let factor = fields
        .optional_positive("factor")?
        .unwrap_or(longest as f64 / original as f64);
    Ok((original, factor))
}

fn yarn(
    config: &Fields<'_>,
    fields: &Fields<'_>,
    dim: usize,
    theta: f64,
) -> Result<RopeScaling, LoadError> {
    let (original, factor) = contexts(config, fields)?;
    if theta <= 1.0 {
        return Err(config.error("rope_theta", "above 1 for rope type yarn"));
    }
    // The pair that turns so often in the context of training.
    let pair_of =
        |turns: f64| dim as f64 * (original as f64 / (turns * TAU)).ln() / (2.0 * theta.ln());
    let mut kept = pair_of(fields.optional_positive("beta_fast")?.unwrap_or(32.0));
    let mut divided = pair_of(fields.optional_positive("beta_slow")?.unwrap_or(1.0));
    if fields.optional_flag("truncate")?.unwrap_or(true) {
        (kept, divided) = (kept.floor(), divided.ceil());
    }
    kept = kept.max(0.0);
    divided = divided.min((dim - 1) as f64);
    if kept == divided {
        divided += 0.001;
    }
    let mscale = fields.optional_number("mscale")?.filter(|m| *m != 0.0);
    let all_dim = fields
        .optional_number("mscale_all_dim")?
        .filter(|m| *m != 0.0);
    let of = |mscale: f64| match factor > 1.0 {
        true => 0.1 * mscale * factor.ln() + 1.0,
        false => 1.0,
    };
    let magnitude = match (
        fields.optional_positive("attention_factor")?,
        mscale,
        all_dim,
    ) {
        (Some(magnitude), ..) => magnitude,
        (None, Some(mscale), Some(all_dim)) => of(mscale) / of(all_dim),
        _ => of(1.0),
    };
    Ok(RopeScaling::Yarn {
        factor,
        kept,
        divided,
        magnitude,
        score_multiplier: all_dim.map_or(1.0, |all_dim| of(all_dim).powi(2)),
    })
}

/// Short and long contexts have factors of their own. A sequence's keys are
/// kept while it grows, so one choice must hold for all lengths and all
/// workers: the long one if the model is made for more than its training.
fn long_rope(
    config: &Fields<'_>,
    fields: &Fields<'_>,
    dim: usize,
) -> Result<RopeScaling, LoadError> {
    let (original, factor) = contexts(config, fields)?;
    let name = match config.size("max_position_embeddings")? > original {
        true => "long_factor",
        false => "short_factor",
    };
    let factors = fields.positives(name)?;
    if factors.len() != dim / 2 {
        return Err(fields.error(name, "one number for each rotated pair of a head"));
    }
    let magnitude = match fields.optional_positive("attention_factor")? {
        Some(magnitude) => magnitude,
        None if factor > 1.0 && original > 1 => (1.0 + factor.ln() / (original as f64).ln()).sqrt(),
        None => 1.0,
    };
    Ok(RopeScaling::LongRope { factors, magnitude })
}
