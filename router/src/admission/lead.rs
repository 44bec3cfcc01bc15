//! How long a request that runs takes to its first token.

use std::time::Duration;

/// Weight of the newest in the means.
const NEWEST: f64 = 0.1;
/// So many times what it lately differed from the mean is allowed for: one that
/// starts at the last moment shall not be late by a little.
const DEVIATIONS: f64 = 2.0;

/// From a turn to the first token, and how much that differs: means in which the
/// last ten or so count.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lead {
    mean: Option<f64>,
    deviation: f64,
}

impl Lead {
    pub fn learn(&mut self, took: Duration) {
        let took = took.as_secs_f64();
        let mean = self.mean.unwrap_or(took);
        self.deviation += NEWEST * ((took - mean).abs() - self.deviation);
        self.mean = Some(mean + NEWEST * (took - mean));
    }

    /// Within so long nearly all have their first token. Zero while nothing is
    /// known.
    pub fn expected(&self) -> Duration {
        let mean = self.mean.unwrap_or(0.0);
        Duration::from_secs_f64(mean + DEVIATIONS * self.deviation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expects_what_it_saw_and_more_where_that_differs() {
        let ms = Duration::from_millis;
        let mut lead = Lead::default();
        assert_eq!(lead.expected(), Duration::ZERO);
        lead.learn(ms(100));
        assert_eq!(lead.expected(), ms(100));
        lead.learn(ms(200));
        assert_eq!(lead.expected(), ms(130));
        (0..200).for_each(|_| lead.learn(ms(500)));
        assert!((ms(499)..=ms(501)).contains(&lead.expected()));
    }
}
