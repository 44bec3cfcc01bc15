//! Kinds of workers: how fast they compute, how much they hold, how fast KV
//! leaves them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use engine::sim::{KvCheck, StepCost};
use engine::{Engine, EngineConfig, SimConfig, SimRunner};
use runtime::config::HumanDuration;
use serde::Deserialize;

/// Profiles that are always there.
const SHIPPED: &str = include_str!("profiles.toml");

/// One kind of worker.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    #[serde(skip)]
    pub name: String,
    /// One line.
    pub about: String,
    /// Where the figures come from.
    pub source: String,
    pub prefill_tokens_per_second: f64,
    /// Of every step, whatever is in it.
    #[serde(deserialize_with = "duration")]
    pub step: Duration,
    #[serde(deserialize_with = "duration")]
    pub decode_per_sequence: Duration,
    #[serde(deserialize_with = "duration")]
    pub decode_per_1000_context_tokens: Duration,
    pub kv_blocks: usize,
    pub kv_bytes_per_token: f64,
    /// Of its port, each way.
    pub network_gbit_per_second: f64,
    #[serde(default = "default_block_size")]
    pub block_size: usize,
    #[serde(default = "default_max_batch_tokens")]
    pub max_batch_tokens: usize,
    #[serde(default = "default_max_sequences")]
    pub max_sequences: usize,
    /// Longest sequence.
    #[serde(default = "default_max_model_len")]
    pub max_model_len: usize,
    /// Everything but the network so many times as fast.
    #[serde(default = "default_speed")]
    pub speed: f64,
}

/// The known profiles by name.
#[derive(Clone, Debug)]
pub struct Profiles(BTreeMap<String, Arc<Profile>>);

impl Profiles {
    /// Those shipped, and those of `more`, a TOML file's text, which may replace
    /// shipped ones.
    pub fn read(more: Option<&str>) -> Result<Profiles, String> {
        let mut profiles = BTreeMap::new();
        for text in [Some(SHIPPED), more].into_iter().flatten() {
            let table: BTreeMap<String, Profile> =
                toml::from_str(text).map_err(|error| error.to_string())?;
            for (name, mut profile) in table {
                profile.check().map_err(|why| format!("[{name}] {why}"))?;
                profile.name.clone_from(&name);
                profiles.insert(name, Arc::new(profile));
            }
        }
        Ok(Profiles(profiles))
    }

    pub fn get(&self, name: &str) -> Result<Arc<Profile>, String> {
        self.0.get(name).cloned().ok_or_else(|| {
            let known: Vec<&str> = self.0.keys().map(String::as_str).collect();
            format!("there is no profile `{name}`; known: {}", known.join(", "))
        })
    }
}

impl Profile {
    /// A worker's engine.
    pub(super) fn engine(&self) -> Engine {
        let config = EngineConfig {
            max_batch_tokens: self.max_batch_tokens,
            max_sequences: self.max_sequences,
            max_waiting: usize::MAX,
            ..EngineConfig::default()
        };
        let runner = SimRunner::new(SimConfig {
            // Any token is one.
            vocab_size: u32::MAX as usize,
            max_model_len: self.max_model_len,
            block_size: self.block_size,
            total_blocks: self.kv_blocks,
            eos_token_ids: Vec::new(),
            cost: self.cost(),
            check: KvCheck::Off,
            ..SimConfig::default()
        });
        Engine::new(config, Box::new(runner))
    }

    /// How long the KV of so many blocks takes through its port.
    pub(super) fn transfer_time(&self, blocks: usize) -> Duration {
        let bytes = (blocks * self.block_size) as f64 * self.kv_bytes_per_token;
        Duration::from_secs_f64(bytes * 8.0 / (self.network_gbit_per_second * 1e9))
    }

    fn cost(&self) -> StepCost {
        StepCost {
            base: self.step.div_f64(self.speed),
            prefill_tokens_per_second: self.prefill_tokens_per_second * self.speed,
            decode_per_sequence: self.decode_per_sequence.div_f64(self.speed),
            decode_per_1000_context_tokens: self.decode_per_1000_context_tokens.div_f64(self.speed),
        }
    }

    fn check(&self) -> Result<(), String> {
        let positive = [
            ("prefill_tokens_per_second", self.prefill_tokens_per_second),
            ("kv_blocks", self.kv_blocks as f64),
            ("network_gbit_per_second", self.network_gbit_per_second),
            ("block_size", self.block_size as f64),
            ("max_batch_tokens", self.max_batch_tokens as f64),
            ("max_sequences", self.max_sequences as f64),
            ("max_model_len", self.max_model_len as f64),
            ("speed", self.speed),
        ];
        for (name, value) in positive {
            if !(value.is_finite() && value > 0.0) {
                return Err(format!("{name} must be above 0"));
            }
        }
        let bytes = self.kv_bytes_per_token;
        match bytes.is_finite() && bytes >= 0.0 {
            true => Ok(()),
            false => Err("kv_bytes_per_token must be 0 or more".to_owned()),
        }
    }
}

fn duration<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    let parsed: Result<HumanDuration, _> = text.parse();
    parsed.map(|it| it.0).map_err(serde::de::Error::custom)
}

fn default_block_size() -> usize {
    16
}

fn default_max_batch_tokens() -> usize {
    EngineConfig::default().max_batch_tokens
}

fn default_max_sequences() -> usize {
    EngineConfig::default().max_sequences
}

fn default_max_model_len() -> usize {
    131_072
}

fn default_speed() -> f64 {
    1.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shipped_profiles_are_whole_and_state_their_sources() {
        let profiles = Profiles::read(None).expect("valid");
        for name in ["h100", "h200", "l40s"] {
            let profile = profiles.get(name).expect("shipped");
            assert!(profile.source.contains("datasheet"), "{name}");
        }
        let error = profiles.get("h1000").expect_err("unknown");
        assert!(error.contains("h100, h200, l40s"), "{error}");
    }

    #[test]
    fn own_profiles_are_added_and_mistakes_are_named() {
        let own = |kv_blocks: i64| {
            format!(
                "[mine]\nabout = \"a\"\nsource = \"b\"\nprefill_tokens_per_second = 1e3\n\
                 step = \"1ms\"\ndecode_per_sequence = \"1us\"\nspeed = 2\n\
                 decode_per_1000_context_tokens = \"1us\"\nkv_blocks = {kv_blocks}\n\
                 kv_bytes_per_token = 1e6\nnetwork_gbit_per_second = 8\n"
            )
        };
        let profiles = Profiles::read(Some(&own(10))).expect("valid");
        let mine = profiles.get("mine").expect("known");
        assert_eq!(mine.cost().base, Duration::from_micros(500));
        assert_eq!(mine.transfer_time(1), Duration::from_millis(16));
        let error = Profiles::read(Some(&own(0))).expect_err("no blocks");
        assert_eq!(error, "[mine] kv_blocks must be above 0");
        assert!(Profiles::read(Some("[mine]\nspeeed = 1")).is_err());
    }
}
