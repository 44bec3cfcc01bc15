//! Rates over time: pieces that are constant or change evenly.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use runtime::config::HumanDuration;

/// Requests per second over time; some piece has a rate above 0.
#[derive(Clone, Debug, PartialEq)]
pub struct Rate {
    pieces: Vec<Piece>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Piece {
    /// Requests per second at its beginning and end, at least 0.
    pub from: f64,
    pub to: f64,
    /// `None`: without end; then `from` is `to`, and above 0.
    pub lasts: Option<Duration>,
}

/// A text is no rate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RateError {
    #[error("{0:?} is no number of requests per second")]
    Number(String),
    #[error("{0:?} is no time such as 30s or 2m")]
    Time(String),
    #[error("{0:?} needs its time, as in 10..100@2m")]
    Endless(String),
    #[error("no request is ever sent")]
    Zero,
}

impl Rate {
    /// The same for ever; `None` unless above 0.
    pub fn constant(per_second: f64) -> Option<Rate> {
        let piece = Piece {
            from: per_second,
            to: per_second,
            lasts: None,
        };
        (per_second.is_finite() && per_second > 0.0).then(|| Rate {
            pieces: vec![piece],
        })
    }

    pub fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// How long requests are sent; `None`: without end.
    pub fn lasts(&self) -> Option<Duration> {
        self.pieces.iter().map(|it| it.lasts).sum()
    }
}

impl FromStr for Rate {
    type Err = RateError;

    fn from_str(text: &str) -> Result<Rate, RateError> {
        let parts: Vec<&str> = text.split(',').map(str::trim).collect();
        let last = parts.len() - 1;
        let mut pieces = Vec::new();
        for (at, part) in parts.into_iter().enumerate() {
            let piece = Piece::parse(part)?;
            if piece.lasts.is_none() && (at != last || piece.from != piece.to) {
                return Err(RateError::Endless(part.to_owned()));
            }
            if piece.lasts.is_none() && piece.from == 0.0 {
                return Err(RateError::Zero);
            }
            pieces.push(piece);
        }
        if pieces.iter().all(|it| it.from == 0.0 && it.to == 0.0) {
            return Err(RateError::Zero);
        }
        Ok(Rate { pieces })
    }
}

impl Piece {
    fn parse(text: &str) -> Result<Piece, RateError> {
        let (rate, time) = match text.split_once('@') {
            Some((rate, time)) => (rate, Some(time)),
            None => (text, None),
        };
        let (from, to) = rate.split_once("..").unwrap_or((rate, rate));
        let number = |text: &str| {
            let parsed = text.trim().parse::<f64>().ok();
            let allowed = parsed.filter(|it| it.is_finite() && *it >= 0.0);
            allowed.ok_or_else(|| RateError::Number(text.to_owned()))
        };
        let lasts = time.map(|time| {
            let parsed = time.parse::<HumanDuration>().ok();
            let above_0 = parsed.filter(|it| !it.0.is_zero());
            above_0.ok_or_else(|| RateError::Time(time.to_owned()))
        });
        Ok(Piece {
            from: number(from)?,
            to: number(to)?,
            lasts: lasts.transpose()?.map(|it| it.0),
        })
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, piece) in self.pieces.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            write!(f, "{comma}{}", piece.from)?;
            if piece.from != piece.to {
                write!(f, "..{}", piece.to)?;
            }
            if let Some(lasts) = piece.lasts {
                write!(f, "@{}", HumanDuration(lasts))?;
            }
        }
        Ok(())
    }
}
