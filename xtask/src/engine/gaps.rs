//! Times between tokens of the same stream, and how they are distributed.

use std::time::Instant;

/// From a token of a stream to its next.
#[derive(Clone, Copy, Debug)]
pub struct Gap {
    pub from: Instant,
    pub to: Instant,
}

/// Of gaps, in milliseconds.
#[derive(Clone, Copy, Debug)]
pub struct Spread {
    pub p50: f64,
    pub p99: f64,
    pub max: f64,
}

impl Gap {
    /// The tokens between which it is came within the window.
    pub fn is_within(self, from: Instant, to: Instant) -> bool {
        from <= self.from && self.to <= to
    }

    pub fn overlaps(self, from: Instant, to: Instant) -> bool {
        self.from < to && from < self.to
    }
}

impl Spread {
    /// `None` of nothing.
    pub fn of(gaps: impl Iterator<Item = Gap>) -> Option<Spread> {
        let mut times: Vec<f64> = gaps
            .map(|gap| (gap.to - gap.from).as_secs_f64() * 1e3)
            .collect();
        times.sort_by(f64::total_cmp);
        let max = *times.last()?;
        // The smallest that at least this share does not exceed.
        let quantile = |share: f64| {
            let rank = (share * times.len() as f64).ceil() as usize;
            times[rank.max(1) - 1]
        };
        Some(Spread {
            p50: quantile(0.5),
            p99: quantile(0.99),
            max,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn gap(start: Instant, from: u64, to: u64) -> Gap {
        Gap {
            from: start + Duration::from_millis(from),
            to: start + Duration::from_millis(to),
        }
    }

    #[test]
    fn a_gap_that_reaches_into_a_window_overlaps_it_but_is_not_within() {
        let start = Instant::now();
        let window = gap(start, 10, 20);
        // From, to, overlaps, is within.
        let cases = [
            (5, 10, false, false),
            (5, 11, true, false),
            (10, 20, true, true),
            (5, 25, true, false),
            (19, 25, true, false),
            (20, 25, false, false),
        ];
        for (from, to, overlaps, within) in cases {
            let gap = gap(start, from, to);
            assert_eq!(
                gap.overlaps(window.from, window.to),
                overlaps,
                "{from} {to}"
            );
            assert_eq!(gap.is_within(window.from, window.to), within, "{from} {to}");
        }
    }

    #[test]
    fn quantiles_are_of_the_nearest_rank() {
        let start = Instant::now();
        let spread = Spread::of((1..=200).map(|ms| gap(start, 0, ms))).unwrap();
        assert_eq!((spread.p50, spread.p99, spread.max), (100.0, 198.0, 200.0));
        let one = Spread::of([gap(start, 3, 10)].into_iter()).unwrap();
        assert_eq!((one.p50, one.p99, one.max), (7.0, 7.0, 7.0));
        assert!(Spread::of(std::iter::empty()).is_none());
    }
}
