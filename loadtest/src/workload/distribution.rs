//! Lengths and times as they are written on the command line: a constant or a
//! named distribution with limits.

use std::str::FromStr;
use std::time::Duration;

use rand::Rng;
use rand_distr::Distribution as _;
use runtime::config::HumanDuration;

/// A number of tokens or turns, at least 1.
#[derive(Clone, Debug, PartialEq)]
pub struct Length(Distribution);

/// A time, at least 0.
#[derive(Clone, Debug, PartialEq)]
pub struct Time(Distribution);

/// A text is no distribution.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DistributionError {
    #[error("{0:?} is no number that is allowed here")]
    Number(String),
    #[error("{0} is not given")]
    Missing(&'static str),
    #[error("{0:?} has no meaning here")]
    Unknown(String),
    #[error("{0}")]
    Range(&'static str),
    #[error(
        "allowed are a number, uniform:LOW..HIGH, normal:mean=M,sd=S, lognormal:mean=M,sigma=S, \
         exponential:mean=M and zipf:max=N,s=S, each with @MAX or ,min=L,max=H as limits"
    )]
    Kind,
}

#[derive(Clone, Debug, PartialEq)]
struct Distribution {
    shape: Shape,
    /// Draws beyond the limits count as the limit.
    min: f64,
    max: f64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Shape {
    Constant(f64),
    Uniform(rand_distr::Uniform<f64>),
    Normal(rand_distr::Normal<f64>),
    LogNormal(rand_distr::LogNormal<f64>),
    Exponential(rand_distr::Exp<f64>),
    Zipf(rand_distr::Zipf<f64>),
}

/// Reads a number in the unit of the value: tokens, or seconds.
type Number = fn(&str) -> Option<f64>;

impl Length {
    pub fn constant(tokens: u32) -> Length {
        Length(Distribution::of(Shape::Constant(f64::from(tokens))))
    }

    pub fn draw(&self, rng: &mut impl Rng) -> u32 {
        // The cast saturates.
        (self.0.draw(rng).round() as u32).max(1)
    }

    /// The value if it is always the same.
    pub fn fixed(&self) -> Option<u32> {
        match self.0.shape {
            Shape::Constant(value) => Some(value as u32),
            _ => None,
        }
    }
}

impl Time {
    pub fn draw(&self, rng: &mut impl Rng) -> Duration {
        Duration::try_from_secs_f64(self.0.draw(rng).max(0.0)).unwrap_or(Duration::MAX)
    }
}

impl FromStr for Length {
    type Err = DistributionError;

    fn from_str(text: &str) -> Result<Length, DistributionError> {
        let whole: Number = |text| Some(f64::from(text.parse::<u32>().ok()?));
        let parsed = Distribution::parse(text, whole)?;
        match parsed.shape {
            Shape::Constant(value) if value < 1.0 => {
                Err(DistributionError::Range("it must be at least 1"))
            }
            _ => Ok(Length(parsed)),
        }
    }
}

impl FromStr for Time {
    type Err = DistributionError;

    fn from_str(text: &str) -> Result<Time, DistributionError> {
        let seconds: Number = |text| Some(text.parse::<HumanDuration>().ok()?.0.as_secs_f64());
        Ok(Time(Distribution::parse(text, seconds)?))
    }
}

impl Distribution {
    fn of(shape: Shape) -> Distribution {
        Distribution {
            shape,
            min: 0.0,
            max: f64::INFINITY,
        }
    }

    fn draw(&self, rng: &mut impl Rng) -> f64 {
        let value = match &self.shape {
            Shape::Constant(value) => *value,
            Shape::Uniform(it) => it.sample(rng),
            Shape::Normal(it) => it.sample(rng),
            Shape::LogNormal(it) => it.sample(rng),
            Shape::Exponential(it) => it.sample(rng),
            Shape::Zipf(it) => it.sample(rng),
        };
        value.clamp(self.min, self.max)
    }

    fn parse(text: &str, number: Number) -> Result<Distribution, DistributionError> {
        let (text, limit) = match text.split_once('@') {
            Some((text, limit)) => (text, Some(limit)),
            None => (text, None),
        };
        let Some((name, rest)) = text.split_once(':') else {
            return match number(text) {
                Some(value) if limit.is_none() => Ok(Distribution::of(Shape::Constant(value))),
                _ => Err(DistributionError::Kind),
            };
        };
        let mut keys = Keys::read(rest, number)?;
        let shape = keys.shape(name)?;
        let min = keys.take("min")?.unwrap_or(0.0);
        let max = match limit {
            Some(limit) => number(limit).ok_or_else(|| DistributionError::Number(limit.into()))?,
            None => keys.take("max")?.unwrap_or(f64::INFINITY),
        };
        keys.end()?;
        if min > max {
            return Err(DistributionError::Range("min is above max"));
        }
        Ok(Distribution { shape, min, max })
    }
}

/// What follows the name: `LOW..HIGH` and `key=value`, separated by commas.
struct Keys<'a> {
    number: Number,
    values: Vec<(&'a str, &'a str)>,
}

impl<'a> Keys<'a> {
    fn read(text: &'a str, number: Number) -> Result<Keys<'a>, DistributionError> {
        let mut values = Vec::new();
        for part in text.split(',') {
            if let Some((low, high)) = part.split_once("..") {
                values.extend([("low", low), ("high", high)]);
            } else {
                let unknown = || DistributionError::Unknown(part.to_owned());
                values.push(part.split_once('=').ok_or_else(unknown)?);
            }
        }
        Ok(Keys { number, values })
    }

    fn shape(&mut self, name: &str) -> Result<Shape, DistributionError> {
        let refused = DistributionError::Range;
        match name {
            "uniform" => {
                let (low, high) = (self.need("low")?, self.need("high")?);
                rand_distr::Uniform::new_inclusive(low, high)
                    .map(Shape::Uniform)
                    .map_err(|_| refused("LOW is above HIGH"))
            }
            "normal" => {
                let (mean, sd) = (self.need("mean")?, self.need("sd")?);
                rand_distr::Normal::new(mean, sd)
                    .map(Shape::Normal)
                    .map_err(|_| refused("mean and sd must be finite"))
            }
            "lognormal" => {
                let (mean, sigma) = (self.need("mean")?, self.plain("sigma")?);
                // The mean of the distribution is exp(mu + sigma^2 / 2).
                rand_distr::LogNormal::new(mean.ln() - sigma * sigma / 2.0, sigma)
                    .ok()
                    .filter(|_| mean > 0.0 && sigma >= 0.0)
                    .map(Shape::LogNormal)
                    .ok_or(refused("mean must be above 0, sigma at least 0"))
            }
            "exponential" => {
                let mean = self.need("mean")?;
                rand_distr::Exp::new(1.0 / mean)
                    .ok()
                    .filter(|_| mean > 0.0)
                    .map(Shape::Exponential)
                    .ok_or(refused("mean must be above 0"))
            }
            "zipf" => {
                let (max, s) = (self.need("max")?, self.plain("s")?);
                rand_distr::Zipf::new(max, s)
                    .map(Shape::Zipf)
                    .map_err(|_| refused("max must be at least 1, s at least 0"))
            }
            _ => Err(DistributionError::Kind),
        }
    }

    fn text(&mut self, key: &str) -> Option<&'a str> {
        let at = self.values.iter().position(|(name, _)| *name == key)?;
        Some(self.values.remove(at).1)
    }

    fn take(&mut self, key: &str) -> Result<Option<f64>, DistributionError> {
        let read = |text: &str| {
            (self.number)(text).ok_or_else(|| DistributionError::Number(text.to_owned()))
        };
        let at = self.values.iter().find(|(name, _)| *name == key);
        let value = at.map(|(_, text)| read(text)).transpose();
        self.text(key);
        value
    }

    fn need(&mut self, key: &'static str) -> Result<f64, DistributionError> {
        self.take(key)?.ok_or(DistributionError::Missing(key))
    }

    /// A number without unit.
    fn plain(&mut self, key: &'static str) -> Result<f64, DistributionError> {
        let text = self.text(key).ok_or(DistributionError::Missing(key))?;
        let finite = text.parse().ok().filter(|it: &f64| it.is_finite());
        finite.ok_or_else(|| DistributionError::Number(text.to_owned()))
    }

    fn end(self) -> Result<(), DistributionError> {
        match self.values.first() {
            None => Ok(()),
            Some((key, _)) => Err(DistributionError::Unknown((*key).to_owned())),
        }
    }
}

#[cfg(test)]
mod tests;
