//! When requests are sent in an open loop: a renewal process of unit rate,
//! stretched so that it follows the rate over time. With exponential gaps this
//! is the inhomogeneous Poisson process itself (Cinlar 1975).

use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;
use rand_distr::{Distribution, Exp1, Gamma};

use super::{Gaps, OpenLoop, Piece};

/// Times from the start of the run, ascending. Ends with the rate.
#[derive(Debug)]
pub struct Schedule {
    /// Those not yet over, the current one first.
    pieces: std::vec::IntoIter<Piece>,
    current: Option<Piece>,
    /// Seconds: when the current piece began, and how far into it we are.
    began: f64,
    into: f64,
    gaps: GapSource,
    rng: StdRng,
    has_begun: bool,
}

#[derive(Clone, Debug)]
enum GapSource {
    Constant,
    Exponential,
    Gamma(Gamma<f64>),
}

impl Schedule {
    pub(super) fn new(open: &OpenLoop, seed: u64) -> Schedule {
        let gaps = match open.gaps {
            Gaps::Constant => GapSource::Constant,
            Gaps::Exponential => GapSource::Exponential,
            // Of mean 1. A shape that is not above 0 is refused by `Check`.
            Gaps::Gamma { burstiness } => Gamma::new(burstiness, 1.0 / burstiness)
                .map_or(GapSource::Exponential, GapSource::Gamma),
        };
        let mut pieces = open.rate.pieces().to_vec().into_iter();
        Schedule {
            current: pieces.next(),
            pieces,
            began: 0.0,
            into: 0.0,
            gaps,
            rng: StdRng::seed_from_u64(seed),
            has_begun: false,
        }
    }

    /// The next gap, in units of the mean gap.
    fn gap(&mut self) -> f64 {
        match &self.gaps {
            // Evenly spaced requests begin at once.
            GapSource::Constant if !self.has_begun => 0.0,
            GapSource::Constant => 1.0,
            GapSource::Exponential => Exp1.sample(&mut self.rng),
            GapSource::Gamma(gamma) => gamma.sample(&mut self.rng),
        }
    }
}

impl Iterator for Schedule {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let mut requests = self.gap();
        self.has_begun = true;
        loop {
            let piece = self.current?;
            let left = piece.requests_after(self.into);
            if requests < left {
                self.into += piece.time_of(requests, self.into);
                return Duration::try_from_secs_f64(self.began + self.into).ok();
            }
            requests -= left;
            self.began += piece.seconds();
            self.into = 0.0;
            self.current = self.pieces.next();
        }
    }
}

impl Piece {
    fn seconds(&self) -> f64 {
        self.lasts.map_or(f64::INFINITY, |it| it.as_secs_f64())
    }

    /// Change of the rate per second.
    fn slope(&self) -> f64 {
        (self.to - self.from) / self.seconds()
    }

    /// Requests expected from `into` seconds into it to its end.
    fn requests_after(&self, into: f64) -> f64 {
        let left = self.seconds() - into;
        if left.is_infinite() {
            return left;
        }
        let rate = self.from + self.slope() * into;
        left * (rate + self.to) / 2.0
    }

    /// Seconds from `into` until so many requests are expected, which are fewer
    /// than are left.
    fn time_of(&self, requests: f64, into: f64) -> f64 {
        if requests == 0.0 {
            return 0.0;
        }
        let rate = self.from + self.slope() * into;
        // The root of slope/2 x^2 + rate x = requests, in the form that also
        // holds for a slope of 0.
        let root = (rate * rate + 2.0 * self.slope() * requests)
            .max(0.0)
            .sqrt();
        2.0 * requests / (rate + root)
    }
}
