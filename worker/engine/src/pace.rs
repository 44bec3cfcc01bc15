//! How many prompt tokens a step may take beside sequences that decode.
//!
//! A step's target time, less what decoding takes, buys prompt tokens at what
//! they lately cost beside decodes. So streams go on at their pace whatever
//! prompts come, on fast and slow devices, and a prompt takes its share of the
//! time: half of it with the usual target of twice a step without prompts.

use std::collections::VecDeque;
use std::time::Duration;

use crate::rates::{Rates, StepTime};

/// Steps remembered.
const WINDOW: usize = 15;
/// Prompt tokens in a step at least: fewer bring prompts nowhere.
const LEAST_TOKENS: usize = 4;
/// Beside decodes a prompt token costs at least this share of what it costs on
/// the whole: what seems less is decodes that went faster than they did before.
const LEAST_SHARE: f64 = 0.5;
/// [`TargetStep::Auto`]: a step without prompts so many times.
const SLOWDOWN: f64 = 1.9;

/// How long a step may take in which sequences decode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TargetStep {
    /// As long as it takes.
    #[default]
    Off,
    /// Not quite twice as long as one without prompts, unless it gives as many
    /// first tokens as there are sequences that it holds up.
    Auto,
    Time(Duration),
}

/// What prompt tokens cost beside decodes.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    /// Seconds that each prompt token added to a step.
    costs: VecDeque<f64>,
}

impl Pace {
    pub(crate) fn record(&mut self, step: StepTime, rates: &Rates) {
        let decode = f64::from(rates.decode_step_ms()) / 1e3;
        if step.prefill_tokens == 0 || step.decode_tokens == 0 || decode == 0.0 {
            return;
        }
        let added = (step.time.as_secs_f64() - decode).max(0.0);
        if self.costs.len() == WINDOW {
            self.costs.pop_front();
        }
        self.costs.push_back(added / step.prefill_tokens as f64);
    }

    /// Prompt tokens that fit beside decodes.
    pub(crate) fn prefill_budget(&self, target: TargetStep, rates: &Rates) -> usize {
        let decode = f64::from(rates.decode_step_ms()) / 1e3;
        let target = match target {
            TargetStep::Off => return usize::MAX,
            TargetStep::Auto => decode * SLOWDOWN,
            TargetStep::Time(time) => time.as_secs_f64(),
        };
        let cost = self.token_seconds(rates);
        if decode == 0.0 || cost == 0.0 {
            return usize::MAX;
        }
        (((target - decode) / cost) as usize).max(LEAST_TOKENS)
    }

    /// 0 while unknown.
    fn token_seconds(&self, rates: &Rates) -> f64 {
        let on_the_whole = rates.prefill_token_seconds();
        let mut costs: Vec<f64> = self.costs.iter().copied().collect();
        costs.sort_by(f64::total_cmp);
        match costs.get(costs.len() / 2) {
            Some(cost) => cost.max(on_the_whole * LEAST_SHARE),
            None => on_the_whole,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// A device on which a step takes 10 ms, and each prompt token `cost` more.
    struct Device {
        rates: Rates,
        pace: Pace,
        cost: Duration,
    }

    impl Device {
        fn new(cost: Duration) -> Device {
            let mut device = Device {
                rates: Rates::default(),
                pace: Pace::default(),
                cost,
            };
            (0..5).for_each(|_| device.step(0));
            device
        }

        fn step(&mut self, prefill_tokens: usize) {
            let step = StepTime {
                prefill_tokens,
                decode_tokens: 8,
                cached_tokens: 0,
                left_waiting: 0,
                time: 10 * MS + self.cost * prefill_tokens as u32,
            };
            self.rates.record(step);
            self.pace.record(step, &self.rates);
        }

        fn budget(&self, target: TargetStep) -> usize {
            self.pace.prefill_budget(target, &self.rates)
        }
    }

    #[test]
    fn steps_settle_at_their_target_whatever_tokens_cost() {
        for (cost, tokens) in [(Duration::from_micros(100), 90), (MS / 2, 18), (5 * MS, 4)] {
            let mut device = Device::new(cost);
            device.step(64);
            let budget = device.budget(TargetStep::Auto);
            assert!(budget.abs_diff(tokens) <= 1, "{cost:?}: {budget}");
        }
        let mut device = Device::new(MS / 10);
        device.step(64);
        let budget = device.budget(TargetStep::Time(15 * MS));
        assert!(budget.abs_diff(50) <= 1, "{budget}");
    }

    #[test]
    fn a_step_that_was_held_up_does_not_count_and_what_lasts_does() {
        let mut device = Device::new(MS / 10);
        (0..5).for_each(|_| device.step(90));
        device.cost = 100 * MS;
        device.step(90);
        assert!(device.budget(TargetStep::Auto) >= 89);
        device.cost = MS;
        (0..WINDOW).for_each(|_| device.step(20));
        assert!(device.budget(TargetStep::Auto).abs_diff(9) <= 1);
    }

    #[test]
    fn tokens_that_seem_free_do_not_make_steps_long() {
        let mut device = Device::new(MS / 10);
        device.step(90);
        // Decodes take half of what they took, so steps with prompts no longer
        // take more than those without did.
        device.cost = Duration::from_micros(1);
        (0..WINDOW).for_each(|_| device.step(90));
        let budget = device.budget(TargetStep::Auto);
        assert!(budget < 400, "{budget}");
    }

    #[test]
    fn what_is_not_known_limits_nothing() {
        let device = Device::new(MS);
        assert_eq!(device.budget(TargetStep::Auto), usize::MAX);
        assert_eq!(device.budget(TargetStep::Off), usize::MAX);
    }
}
