//! How fast the engine is, from its recent steps.
//!
//! Medians over a window: one step that was held up, or was small, does not
//! move them. How fast the queue drains is a mean over time, as it is made of
//! fast steps and of long waits for memory.

use std::collections::VecDeque;
use std::time::Duration;

/// Steps remembered of each kind.
const WINDOW: usize = 33;

/// What one engine step did and how long it took.
#[derive(Clone, Copy, Debug)]
pub struct StepTime {
    pub prefill_tokens: usize,
    pub decode_tokens: usize,
    /// Of sequences let in: tokens that were cached.
    pub cached_tokens: usize,
    /// Sequences that were not let in.
    pub left_waiting: usize,
    pub time: Duration,
}

/// Time after which a step counts for 1/e in the rate of the queue.
const DRAIN_MEMORY_SECONDS: f64 = 5.0;
/// Time after which a step counts for 1/e in the time between two tokens.
const INTER_TOKEN_MEMORY_SECONDS: f64 = 3.0;
/// Until so much time has been seen, the rate of the queue is mostly that of
/// prefill.
const DRAIN_PRIOR_SECONDS: f64 = 0.2;

/// Recent steps.
#[derive(Debug, Default)]
pub struct Rates {
    /// Steps with prefill: tokens, and seconds each took.
    prefill: VecDeque<(usize, f64)>,
    /// What they come to, in tokens per second.
    prefill_rate: f32,
    /// Steps without prefill, in seconds.
    decode: VecDeque<f64>,
    /// Steps that left sequences waiting: tokens that left the queue, and
    /// seconds; older ones count less.
    drained: (f64, f64),
    /// Steps in which sequences decoded: their number, and seconds; older ones
    /// count less.
    decoded: (f64, f64),
    /// All steps.
    all: VecDeque<Duration>,
}

impl Rates {
    pub fn record(&mut self, step: StepTime) {
        let seconds = step.time.as_secs_f64();
        if step.left_waiting > 0 {
            let keeps = (-seconds / DRAIN_MEMORY_SECONDS).exp();
            let tokens = (step.prefill_tokens + step.cached_tokens) as f64;
            self.drained.0 = self.drained.0 * keeps + tokens;
            self.drained.1 = self.drained.1 * keeps + seconds;
        }
        if step.decode_tokens > 0 {
            let keeps = (-seconds / INTER_TOKEN_MEMORY_SECONDS).exp();
            self.decoded.0 = self.decoded.0 * keeps + 1.0;
            self.decoded.1 = self.decoded.1 * keeps + seconds;
        }
        push(&mut self.all, step.time);
        if step.prefill_tokens == 0 {
            if step.decode_tokens > 0 {
                push(&mut self.decode, seconds);
            }
            return;
        }
        // What the decodes in the same step would take alone is not prefill's;
        // but the share of a fused step can't be told, so leave at least half.
        let decode = if step.decode_tokens > 0 {
            self.decode_step().unwrap_or(0.0)
        } else {
            0.0
        };
        let prefill = (seconds - decode).max(seconds / 2.0);
        push(&mut self.prefill, (step.prefill_tokens, prefill));
        self.prefill_rate = self.median_prefill_rate();
    }

    /// 0 while unknown. The median by tokens: half of all recent prompt tokens
    /// went faster.
    pub fn prefill_tokens_per_second(&self) -> f32 {
        self.prefill_rate
    }

    /// To compute one token of a prompt; 0 while unknown.
    pub fn prefill_token_seconds(&self) -> f64 {
        match self.prefill_rate > 0.0 {
            true => 1.0 / f64::from(self.prefill_rate),
            false => 0.0,
        }
    }

    fn median_prefill_rate(&self) -> f32 {
        let mut rates: Vec<(f64, usize)> = self
            .prefill
            .iter()
            .filter(|(_, seconds)| *seconds > 0.0)
            .map(|&(tokens, seconds)| (tokens as f64 / seconds, tokens))
            .collect();
        rates.sort_by(|a, b| a.0.total_cmp(&b.0));
        let half = rates
            .iter()
            .map(|(_, tokens)| tokens)
            .sum::<usize>()
            .div_ceil(2);
        let mut sum = 0;
        for (rate, tokens) in rates {
            sum += tokens;
            if sum >= half {
                return rate as f32;
            }
        }
        0.0
    }

    /// Prompt tokens that leave the queue per second while there is one,
    /// whether they are computed or cached, and pauses without memory counted
    /// in; 0 while unknown.
    pub fn drain_tokens_per_second(&self) -> f32 {
        let (tokens, seconds) = self.drained;
        let prior = f64::from(self.prefill_tokens_per_second()) * DRAIN_PRIOR_SECONDS;
        ((tokens + prior) / (seconds + DRAIN_PRIOR_SECONDS)) as f32
    }

    /// 0 while unknown.
    pub fn decode_step_ms(&self) -> f32 {
        self.decode_step().map_or(0.0, |seconds| seconds * 1e3) as f32
    }

    /// Mean time between two tokens of a sequence that decodes, prompts computed in
    /// between counted in; 0 while unknown.
    pub fn inter_token_ms(&self) -> f32 {
        let (steps, seconds) = self.decoded;
        match steps > 0.0 {
            true => (seconds / steps * 1e3) as f32,
            false => 0.0,
        }
    }

    /// 0 while unknown.
    pub fn longest_step(&self) -> Duration {
        self.all.iter().max().copied().unwrap_or_default()
    }

    fn decode_step(&self) -> Option<f64> {
        let mut steps: Vec<f64> = self.decode.iter().copied().collect();
        steps.sort_by(f64::total_cmp);
        steps.get(steps.len() / 2).copied()
    }
}

fn push<T>(window: &mut VecDeque<T>, sample: T) {
    if window.len() == WINDOW {
        window.pop_front();
    }
    window.push_back(sample);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(steps: &[(usize, usize, u64)]) -> Rates {
        let mut rates = Rates::default();
        for &(prefill_tokens, decode_tokens, ms) in steps {
            rates.record(StepTime {
                prefill_tokens,
                decode_tokens,
                cached_tokens: 0,
                left_waiting: 0,
                time: Duration::from_millis(ms),
            });
        }
        rates
    }

    #[test]
    fn unknown_rates_are_zero() {
        let rates = rates(&[(0, 0, 5)]);
        assert_eq!(rates.prefill_tokens_per_second(), 0.0);
        assert_eq!(rates.decode_step_ms(), 0.0);
    }

    #[test]
    fn one_slow_step_does_not_move_the_rates() {
        let rates = rates(&[
            (100, 0, 10),
            (100, 0, 10),
            (100, 0, 900),
            (0, 3, 4),
            (0, 3, 4),
            (0, 3, 700),
        ]);
        assert_eq!(rates.prefill_tokens_per_second(), 10_000.0);
        assert_eq!(rates.decode_step_ms(), 4.0);
    }

    #[test]
    fn small_prompts_count_by_their_tokens() {
        let rates = rates(&[(1, 0, 10), (1, 0, 10), (1, 0, 10), (1000, 0, 100)]);
        assert_eq!(rates.prefill_tokens_per_second(), 10_000.0);
    }

    #[test]
    fn decodes_in_a_prefill_step_are_taken_off() {
        let rates = rates(&[(0, 3, 4), (100, 3, 14)]);
        assert_eq!(rates.prefill_tokens_per_second(), 10_000.0);
    }

    #[test]
    fn a_queue_that_waits_for_memory_drains_slower_than_prefill() {
        let mut rates = rates(&[(1000, 0, 100)]);
        assert_eq!(rates.drain_tokens_per_second(), 10_000.0);
        for step in 0..1000 {
            let waits = step % 10 != 0;
            rates.record(StepTime {
                prefill_tokens: if waits { 0 } else { 1000 },
                decode_tokens: 5,
                cached_tokens: if waits { 0 } else { 500 },
                left_waiting: 3,
                time: Duration::from_millis(100),
            });
        }
        let rate = rates.drain_tokens_per_second();
        assert!((1350.0..2500.0).contains(&rate), "{rate}");
    }

    #[test]
    fn prompts_computed_in_between_hold_tokens_up() {
        assert_eq!(rates(&[(100, 0, 70)]).inter_token_ms(), 0.0);
        let mixed = rates(&[(0, 3, 10), (100, 3, 90)]).inter_token_ms();
        assert!((50.0..52.0).contains(&mixed), "{mixed}");
        let mut steps = vec![(0, 3, 90); 20];
        steps.extend([(0, 3, 10); 900]);
        let later = rates(&steps).inter_token_ms();
        assert!((10.0..11.0).contains(&later), "{later}");
    }

    #[test]
    fn the_longest_step_counts_whatever_its_kind() {
        assert_eq!(rates(&[]).longest_step(), Duration::ZERO);
        let steps = [(0, 1, 5), (100, 1, 70), (0, 1, 6)];
        assert_eq!(rates(&steps).longest_step(), Duration::from_millis(70));
    }

    #[test]
    fn old_steps_are_forgotten() {
        let mut steps = vec![(0, 1, 50); WINDOW];
        steps.extend(vec![(0, 1, 5); WINDOW]);
        assert_eq!(rates(&steps).decode_step_ms(), 5.0);
        assert_eq!(rates(&steps).longest_step(), Duration::from_millis(5));
    }
}
