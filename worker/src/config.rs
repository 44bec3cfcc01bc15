//! The worker's flags.

mod model_source;
mod sim;
mod target;

use std::net::IpAddr;
use std::time::Duration;

use clap::{Args, FromArgMatches};
use engine::TargetStep;
use models::{Isa, KvDtype, Quantize};
use runtime::config::{ByteSize, Check, HumanDuration};
use runtime::membership::etcd;

use crate::model::MAIN;

pub use model_source::ModelSource;
pub use sim::SimFlags;
pub use target::Target;

/// Tokens in a KV block. Routers compute block identities with it.
const BLOCK_SIZE: usize = 16;

/// What a worker serves, where and with what.
#[derive(Clone, Debug, Args)]
#[group(skip)]
#[command(next_help_heading = "Worker")]
pub struct Config {
    /// Serve on this address; port 0 takes a free one
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:50051")]
    pub listen: String,

    /// Address under which other workers reach this one to pull KV blocks, and
    /// routers that find it by etcd; needed if --listen names all addresses (0.0.0.0). Default: the address
    /// of --listen
    #[arg(long, value_name = "HOST:PORT")]
    pub advertise: Option<String>,

    /// Directory of a checkpoint in Hugging Face layout, a file that ends in
    /// .gguf, a model of the Hugging Face hub (owner/name, owner/name:Q4_K_M or
    /// owner/name:file.gguf), or demo for the embedded model
    #[arg(long, value_name = "DIR|FILE|NAME|demo", default_value = "demo")]
    pub model: ModelSource,

    /// Branch, tag or commit of a model of the hub
    #[arg(long, value_name = "NAME", default_value = MAIN)]
    pub revision: String,

    /// How the hub is reached; from the environment, as for its other tools.
    #[arg(skip)]
    pub hub: hub::Settings,

    /// Name of the model in requests. Default: the directory's or the hub's name
    #[arg(long, value_name = "NAME")]
    pub served_model_name: Option<String>,

    /// What this worker is for: prefill and decode workers do the other's work
    /// only when there is no other
    #[arg(long, default_value = "both")]
    pub role: Role,

    /// Name of this worker, unique in the cluster. Default: host name and port
    #[arg(long, value_name = "NAME")]
    pub id: Option<String>,

    /// cpu computes; sim simulates a device and a model with the tokenizer and
    /// name of --model
    #[arg(long, default_value = "cpu")]
    pub device: Device,

    /// Threads that compute. Default: one per CPU; with several workers on one
    /// machine give each its share
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,

    /// Instruction set to compute with: portable, avx2, avx512, avx512-vnni,
    /// avx512-bf16 or amx. Default: the largest of this processor
    #[arg(long, value_name = "NAME")]
    pub cpu_isa: Option<Isa>,

    /// Activations that meet weights in bf16: rounded to bf16, which is faster,
    /// or exact
    #[arg(long, value_enum, default_value = "rounded")]
    pub bf16_activations: Bf16,

    /// Quantise weights on load to 8 or 4 bits: less memory, faster decode, and
    /// less precise
    #[arg(long, value_name = "q8|q4")]
    pub quantize: Option<Quantize>,

    /// Memory for KV blocks. All sequences that run at a time share it, and
    /// what they leave caches prefixes; not used by --device sim
    #[arg(long, value_name = "SIZE", default_value = "64MiB")]
    pub kv_memory: ByteSize,

    /// Host memory for KV blocks that are evicted from --kv-memory: prompts come
    /// back from there where that is faster than to compute them. 0: none
    #[arg(long, value_name = "SIZE", default_value = "0B")]
    pub kv_host_memory: ByteSize,

    /// How keys and values are kept: bf16 is the precision that models are trained
    /// in, f32 takes twice its memory and loses nothing, int8 takes about half of
    /// it and loses more. Workers that hand prompts over must agree
    #[arg(long, value_name = "f32|bf16|int8", default_value = "bf16")]
    pub kv_dtype: KvDtype,

    /// Number of KV blocks, instead of --kv-memory. Default of --device sim:
    /// 27000
    #[arg(long, value_name = "N")]
    pub kv_blocks: Option<usize>,

    /// Tokens in a KV block; only 16 is supported
    #[arg(long, value_name = "TOKENS", default_value_t = BLOCK_SIZE)]
    pub block_size: usize,

    /// Longest sequence, prompt and completion together. Default: what the
    /// model was made for, as far as the KV blocks hold it
    #[arg(long, value_name = "TOKENS")]
    pub max_model_len: Option<usize>,

    /// Tokens in one engine step at most. More makes prefill faster, and each
    /// decoded token later while prompts are computed
    #[arg(long, value_name = "TOKENS", default_value_t = 2048)]
    pub max_batch_tokens: usize,

    /// How long a step may take in which sequences decode: long prompts get what
    /// decoding leaves of it, so that streams go on. auto: not quite twice a step
    /// without prompts, unless as many prompts end in it as sequences decode; off:
    /// no limit but --max-batch-tokens. Default: auto; off for --device sim
    #[arg(long, value_name = "TIME|auto|off")]
    pub target_step: Option<Target>,

    /// Sequences that run at a time at most
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub max_sequences: usize,

    /// Sequences that wait at most; further ones are refused as busy
    #[arg(long, value_name = "N", default_value_t = 1024)]
    pub max_waiting: usize,

    /// A computed prompt that no decode worker has pulled after this time is
    /// given up
    #[arg(long, value_name = "TIME", default_value = "30s")]
    pub ticket_lease: HumanDuration,

    /// A prefill worker that sends nothing for this time is given up: the
    /// prompt is computed here. More than prompts wait in its queue
    #[arg(long, value_name = "TIME", default_value = "30s")]
    pub transfer_timeout: HumanDuration,

    /// Running sequences may take this time to finish at shutdown
    #[arg(long, value_name = "TIME", default_value = "30s")]
    pub drain_grace: HumanDuration,

    #[command(flatten)]
    pub sim: SimFlags,

    #[command(flatten)]
    pub etcd: etcd::RegisterConfig,
}

/// How precise activations are that meet weights in bf16.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Bf16 {
    /// As precise as the weights
    Rounded,
    /// f32
    Exact,
}

/// What a worker is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Role {
    /// Prefers prefill; decodes when no other worker can
    Prefill,
    /// Prefers decode; prefills when no other worker can
    Decode,
    /// Does both alike
    Both,
}

/// What a worker computes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Device {
    /// The processor
    Cpu,
    /// Nothing: times and tokens are made up
    Sim,
}

impl Default for Config {
    /// What the flags say when none is given.
    fn default() -> Config {
        let command = Config::augment_args(clap::Command::new("worker").no_binary_name(true));
        command
            .try_get_matches_from(std::iter::empty::<&str>())
            .and_then(|matches| Config::from_arg_matches(&matches))
            .expect("no flag is required and every default is valid")
    }
}

impl Check for Config {
    fn check(&self, mistakes: &mut Vec<String>) {
        let mut mistake = |wrong: bool, text: &str| {
            if wrong {
                mistakes.push(text.to_owned());
            }
        };
        mistake(
            self.listens_everywhere() && self.advertise.is_none(),
            "--listen names all addresses: give --advertise HOST:PORT, the address that other workers reach",
        );
        let unroutable =
            |address: &String| address.starts_with("0.0.0.0:") || port(address) == Some(0);
        mistake(
            self.advertise.as_ref().is_some_and(unroutable),
            "--advertise is no address that others can connect to; give a host and a port that is not 0",
        );
        mistake(port(&self.listen).is_none(), "--listen must be HOST:PORT");
        mistake(
            self.advertise.as_ref().is_some_and(|it| port(it).is_none()),
            "--advertise must be HOST:PORT",
        );
        let no_word = |id: &String| id.is_empty() || id.contains(char::is_whitespace);
        mistake(
            self.id.as_ref().is_some_and(no_word),
            "--id must be one word",
        );
        mistake(
            self.block_size != BLOCK_SIZE,
            "--block-size: only 16 is supported",
        );
        let counts = [
            (
                Some(self.max_batch_tokens),
                "--max-batch-tokens must be 1 or more",
            ),
            (
                Some(self.max_sequences),
                "--max-sequences must be 1 or more",
            ),
            (Some(self.max_waiting), "--max-waiting must be 1 or more"),
            (self.threads, "--threads must be 1 or more"),
            (self.kv_blocks, "--kv-blocks must be 1 or more"),
        ];
        for (count, text) in counts {
            mistake(count == Some(0), text);
        }
        mistake(
            self.max_model_len.is_some_and(|len| len < 2),
            "--max-model-len must leave room for a prompt and an answer: 2 or more",
        );
        let times = [
            (self.ticket_lease, "--ticket-lease must be above 0"),
            (self.transfer_timeout, "--transfer-timeout must be above 0"),
        ];
        for (time, text) in times {
            mistake(time.0 == Duration::ZERO, text);
        }
        self.sim.check(mistakes);
        self.etcd.check(mistakes);
    }
}

impl Config {
    /// As it is in effect.
    pub fn target_step(&self) -> TargetStep {
        match (self.target_step, self.device) {
            (Some(Target(target)), _) => target,
            (None, Device::Cpu) => TargetStep::Auto,
            (None, Device::Sim) => TargetStep::Off,
        }
    }

    fn listens_everywhere(&self) -> bool {
        let host = self.listen.rsplit_once(':').map_or("", |(host, _)| host);
        let host = host.trim_start_matches('[').trim_end_matches(']');
        host.parse::<IpAddr>().is_ok_and(|ip| ip.is_unspecified())
    }
}

fn port(address: &str) -> Option<u16> {
    let (host, port) = address.rsplit_once(':')?;
    (!host.is_empty()).then(|| port.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mistakes(change: impl FnOnce(&mut Config)) -> Vec<String> {
        let mut config = Config::default();
        change(&mut config);
        let mut mistakes = Vec::new();
        config.check(&mut mistakes);
        mistakes
    }

    #[test]
    fn the_defaults_are_right() {
        assert_eq!(mistakes(|_| {}), Vec::<String>::new());
        assert_eq!(Config::default().model, ModelSource::Demo);
    }

    #[test]
    fn listening_everywhere_needs_an_address_for_others() {
        for listen in ["0.0.0.0:1", "[::]:1"] {
            let found = mistakes(|config| config.listen = listen.into());
            assert!(found[0].contains("--advertise"), "{found:?}");
            let found = mistakes(|config| {
                config.listen = listen.into();
                config.advertise = Some("worker-3:1".into());
            });
            assert_eq!(found, Vec::<String>::new());
        }
    }

    #[test]
    fn all_mistakes_are_reported_together() {
        let found = mistakes(|config| {
            config.listen = "here".into();
            config.block_size = 32;
            config.threads = Some(0);
            config.max_model_len = Some(1);
            config.sim.sim_speed = 0.0;
        });
        assert_eq!(found.len(), 5, "{found:?}");
    }

    #[test]
    fn no_flag_has_a_name_that_kubernetes_sets() {
        let command = Config::augment_args(clap::Command::new("worker"));
        for arg in command.get_arguments() {
            let flag = arg.get_long().unwrap_or_default();
            let taken = ["port", "host"].contains(&flag) || flag.starts_with("service-");
            assert!(!taken, "--{flag}");
        }
    }
}
