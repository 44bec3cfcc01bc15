//! Which rate to try next: doubling until one does not hold, then bisection.

use super::RateRange;

/// Significant digits of a rate that is tried.
const DIGITS: i32 = 3;

#[derive(Clone, Debug)]
pub(super) struct Search {
    range: RateRange,
    /// The bounds are as near as this: a share of the lower, above 0.
    precision: f64,
    held: Option<f64>,
    missed: Option<f64>,
}

impl Search {
    pub(super) fn new(range: RateRange, precision: f64) -> Search {
        Search {
            range,
            precision,
            held: None,
            missed: None,
        }
    }

    /// The rate to try; `None`: what there is to know is known.
    pub(super) fn next(&self) -> Option<f64> {
        match (self.held, self.missed) {
            (None, None) => Some(self.range.from),
            (None, Some(_)) => None,
            (Some(held), None) => (held < self.range.to).then(|| (held * 2.0).min(self.range.to)),
            (Some(held), Some(missed)) => between(held, missed)
                .filter(|_| missed > held * (1.0 + self.precision) * (1.0 + 1e-9)),
        }
    }

    pub(super) fn judge(&mut self, rate: f64, holds: bool) {
        let bound = match holds {
            true => &mut self.held,
            false => &mut self.missed,
        };
        *bound = Some(rate);
    }

    /// The highest rate that held.
    pub(super) fn held(&self) -> Option<f64> {
        self.held
    }

    /// The lowest rate that did not.
    pub(super) fn missed(&self) -> Option<f64> {
        self.missed
    }
}

/// The geometric mean in few digits, if that is between the two.
fn between(low: f64, high: f64) -> Option<f64> {
    let mean = (low * high).sqrt();
    let unit = 10_f64.powi(mean.log10().floor() as i32 + 1 - DIGITS);
    let rounded = (mean / unit).round() * unit;
    // Digits that binary fractions add.
    let rounded = (rounded * 1e9).round() / 1e9;
    (low < rounded && rounded < high).then_some(rounded)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rates(from: f64, to: f64, precision: f64, limit: f64) -> (Search, Vec<f64>) {
        let mut search = Search::new(RateRange { from, to }, precision);
        let mut tried = Vec::new();
        while let Some(rate) = search.next() {
            tried.push(rate);
            search.judge(rate, rate <= limit);
            assert!(tried.len() < 200, "{tried:?}");
        }
        (search, tried)
    }

    #[test]
    fn doubles_until_a_rate_misses_and_bisects_then() {
        let (search, tried) = rates(1.0, 1000.0, 0.05, 41.5);
        assert_eq!(
            tried,
            [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 45.3, 38.1, 41.5, 43.4]
        );
        assert_eq!((search.held(), search.missed()), (Some(41.5), Some(43.4)));
    }

    #[test]
    fn ends_at_the_range() {
        let (search, tried) = rates(3.0, 10.0, 0.05, 1e9);
        assert_eq!(tried, [3.0, 6.0, 10.0]);
        assert_eq!((search.held(), search.missed()), (Some(10.0), None));
        let (search, tried) = rates(3.0, 10.0, 0.05, 2.9);
        assert_eq!(tried, [3.0]);
        assert_eq!((search.held(), search.missed()), (None, Some(3.0)));
    }

    proptest! {
        #[test]
        fn any_limit_is_found_to_the_precision(
            limit in 0.02_f64..50_000.0,
            precision in 0.01_f64..0.5,
        ) {
            let (search, tried) = rates(0.01, 100_000.0, precision, limit);
            let (held, missed) = (search.held().unwrap(), search.missed().unwrap());
            prop_assert!(held <= limit && limit < missed);
            prop_assert!(missed <= held * (1.0 + precision) * 1.000_001, "{held} {missed}");
            prop_assert!(tried.len() < 40, "{tried:?}");
        }
    }
}
