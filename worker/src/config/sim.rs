//! How fast the simulated device is.

use std::time::Duration;

use clap::Args;
use engine::sim::StepCost;
use runtime::config::{ByteSize, Check, HumanDuration};

/// Of `--device sim`. The defaults are about one H100 with a model of 8 billion
/// parameters.
#[derive(Clone, Debug, Args)]
#[group(skip)]
#[command(next_help_heading = "Simulated device")]
pub struct SimFlags {
    /// Prompt tokens computed per second
    #[arg(long, value_name = "RATE", default_value_t = 25_000.0)]
    pub sim_prefill_tokens_per_second: f64,

    /// Time of every step, whatever is in it
    #[arg(long, value_name = "TIME", default_value = "6500us")]
    pub sim_step_time: HumanDuration,

    /// Time that each decoding sequence adds to a step
    #[arg(long, value_name = "TIME", default_value = "15us")]
    pub sim_decode_time: HumanDuration,

    /// Time that each 1000 tokens of context of decoding sequences add to a
    /// step
    #[arg(long, value_name = "TIME", default_value = "55us")]
    pub sim_context_time: HumanDuration,

    /// So many times as fast as all of these say
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0)]
    pub sim_speed: f64,

    /// Probability that a token ends its sequence; 0: only max_tokens does
    #[arg(long, value_name = "PROBABILITY", default_value_t = 0.0)]
    pub sim_eos_rate: f64,

    /// Size of a KV block when it moves between workers; at least 136 bytes
    #[arg(long, value_name = "SIZE", default_value = "136B")]
    pub sim_block_bytes: ByteSize,
}

impl SimFlags {
    pub fn cost(&self) -> StepCost {
        let scaled = |time: HumanDuration| {
            Duration::try_from_secs_f64(time.0.as_secs_f64() / self.sim_speed)
                .unwrap_or(Duration::MAX)
        };
        StepCost {
            base: scaled(self.sim_step_time),
            prefill_tokens_per_second: self.sim_prefill_tokens_per_second * self.sim_speed,
            decode_per_sequence: scaled(self.sim_decode_time),
            decode_per_1000_context_tokens: scaled(self.sim_context_time),
        }
    }
}

impl Check for SimFlags {
    fn check(&self, mistakes: &mut Vec<String>) {
        let positive = |value: f64| value.is_finite() && value > 0.0;
        if !positive(self.sim_prefill_tokens_per_second) {
            mistakes.push("--sim-prefill-tokens-per-second must be above 0".to_owned());
        }
        if !positive(self.sim_speed) {
            mistakes.push("--sim-speed must be above 0".to_owned());
        }
        if !(0.0..=1.0).contains(&self.sim_eos_rate) {
            mistakes.push("--sim-eos-rate must be from 0 to 1".to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::Config;

    #[test]
    fn speed_scales_every_cost() {
        let mut flags = Config::default().sim;
        let normal = flags.cost();
        flags.sim_speed = 10.0;
        let fast = flags.cost();
        assert_eq!(fast.base * 10, normal.base);
        assert_eq!(fast.decode_per_sequence * 10, normal.decode_per_sequence);
        assert_eq!(
            fast.decode_per_1000_context_tokens * 10,
            normal.decode_per_1000_context_tokens
        );
        assert_eq!(
            fast.prefill_tokens_per_second,
            normal.prefill_tokens_per_second * 10.0
        );
    }
}
