//! Doubling waits between failures; short again after a calm as long as the
//! longest wait. A worker that only seems well between two failures is not
//! asked in a hot loop.

use std::time::Duration;

use tokio::time::Instant;

use super::Config;

#[derive(Debug)]
pub(super) struct Backoff {
    min: Duration,
    max: Duration,
    next: Duration,
    calm_at: Option<Instant>,
}

impl Backoff {
    pub fn new(config: &Config) -> Backoff {
        let min = config.reconnect_min.0;
        Backoff {
            min,
            max: config.reconnect_max.0,
            next: min,
            calm_at: None,
        }
    }

    /// How long to wait after a failure at `now`.
    pub fn next(&mut self, now: Instant) -> Duration {
        if self.calm_at.is_some_and(|calm_at| now >= calm_at) {
            self.next = self.min;
        }
        let wait = self.next;
        self.next = (wait * 2).min(self.max);
        self.calm_at = Some(now + wait + self.max);
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::defaults;
    use runtime::config::HumanDuration;

    #[test]
    fn waits_double_until_there_is_calm() {
        let ms = Duration::from_millis;
        let mut backoff = Backoff::new(&Config {
            reconnect_min: HumanDuration(ms(50)),
            reconnect_max: HumanDuration(ms(300)),
            ..defaults()
        });
        let mut now = Instant::now();
        let mut waits = Vec::new();
        for calm in [0, 0, 200, 299, 300, 0] {
            now += ms(calm);
            let wait = backoff.next(now);
            now += wait;
            waits.push(wait.as_millis());
        }
        assert_eq!(waits, [50, 100, 200, 300, 50, 100]);
    }
}
