//! How long a sequence spent in each stage on this worker.

use std::time::Duration;

/// Where a sequence is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Waits to be scheduled.
    Queue,
    /// Its prompt is computed.
    Prefill,
    /// Its prompt's KV comes from, or goes to, another worker.
    Transfer,
    /// Its tokens are drawn.
    Decode,
}

/// Time in each stage so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StageTimes {
    pub queued: Duration,
    pub prefill: Duration,
    pub transfer: Duration,
    pub decode: Duration,
}

impl StageTimes {
    pub fn total(&self) -> Duration {
        self.queued + self.prefill + self.transfer + self.decode
    }
}

/// Times one sequence; every moment belongs to one stage.
#[derive(Clone, Debug)]
pub struct StageClock {
    stage: Stage,
    since: Duration,
    times: StageTimes,
}

impl StageClock {
    /// The sequence came into the queue.
    pub fn start(now: Duration) -> StageClock {
        StageClock {
            stage: Stage::Queue,
            since: now,
            times: StageTimes::default(),
        }
    }

    pub fn stage(&self) -> Stage {
        self.stage
    }

    pub fn enter(&mut self, stage: Stage, now: Duration) {
        self.times = self.times(now);
        self.stage = stage;
        self.since = now;
    }

    /// Up to `now`.
    pub fn times(&self, now: Duration) -> StageTimes {
        let mut times = self.times;
        let time = match self.stage {
            Stage::Queue => &mut times.queued,
            Stage::Prefill => &mut times.prefill,
            Stage::Transfer => &mut times.transfer,
            Stage::Decode => &mut times.decode,
        };
        *time += now.saturating_sub(self.since);
        times
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_moment_belongs_to_one_stage() {
        let ms = Duration::from_millis;
        let mut clock = StageClock::start(ms(10));
        clock.enter(Stage::Transfer, ms(15));
        clock.enter(Stage::Prefill, ms(18));
        clock.enter(Stage::Decode, ms(40));
        let times = clock.times(ms(100));
        assert_eq!(
            times,
            StageTimes {
                queued: ms(5),
                prefill: ms(22),
                transfer: ms(3),
                decode: ms(60),
            }
        );
        assert_eq!(times.total(), ms(90));
    }
}
