//! The flags of `kvasir up`.

use std::net::{IpAddr, Ipv4Addr};

use clap::Args;
use runtime::config::{Check, HumanDuration};
use runtime::telemetry::TelemetryConfig;
use worker::{Device, HubSettings, ModelSource};

use super::passed_on::PassedOn;
use super::shape::Shape;

#[derive(Debug, Args)]
#[group(skip)]
pub struct Config {
    /// Directory of a checkpoint in Hugging Face layout, a file that ends in
    /// .gguf, a model of the Hugging Face hub (owner/name, owner/name:Q4_K_M or
    /// owner/name:file.gguf), or demo for the embedded model
    #[arg(long, value_name = "DIR|FILE|NAME|demo", default_value = "demo")]
    pub model: ModelSource,

    /// How the hub is reached; from the environment, as for its other tools.
    #[arg(skip)]
    pub hub: HubSettings,

    /// Workers that compute prompts [default: 1]
    #[arg(long, value_name = "N")]
    pub prefill: Option<usize>,

    /// Workers that generate [default: 1]
    #[arg(long, value_name = "N")]
    pub decode: Option<usize>,

    /// Workers that do both, instead of --prefill and --decode
    #[arg(long, value_name = "N")]
    pub workers: Option<usize>,

    /// Port of the gateway; 0 takes a free one
    #[arg(long, default_value_t = 8080)]
    pub port: u16,

    /// Address of the gateway; 0.0.0.0 serves the network
    #[arg(long, value_name = "IP", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    pub listen_address: IpAddr,

    /// cpu computes; sim simulates a device
    #[arg(long, default_value = "cpu")]
    pub device: Device,

    /// Each part is its own process instead of tasks of this one
    #[arg(long)]
    pub processes: bool,

    /// Running requests may take this time to finish at shutdown
    #[arg(long, value_name = "TIME", default_value = "30s")]
    pub drain_grace: HumanDuration,

    #[command(flatten)]
    pub telemetry: TelemetryConfig,

    #[command(flatten)]
    pub passed_on: PassedOn,
}

impl Check for Config {
    fn check(&self, mistakes: &mut Vec<String>) {
        if self.workers.is_some() && (self.prefill.is_some() || self.decode.is_some()) {
            mistakes.push(
                "--workers starts undivided workers: give it, or --prefill and --decode".to_owned(),
            );
        }
        let counts = [
            ("--workers", self.workers),
            ("--prefill", self.prefill),
            ("--decode", self.decode),
        ];
        for (flag, count) in counts {
            if count == Some(0) {
                mistakes.push(format!("{flag} must be 1 or more"));
            }
        }
        let shape = Shape::of(self);
        // Workers differ in nothing that could be a mistake.
        let worker = shape.workers().first().map(|part| part.parse());
        check_part(worker, mistakes);
        let anywhere = std::net::SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
        check_part(Some(shape.router(vec![anywhere]).parse()), mistakes);
    }
}

fn check_part<C: Check>(part: Option<Result<C, clap::Error>>, mistakes: &mut Vec<String>) {
    match part {
        Some(Ok(config)) => config.check(mistakes),
        Some(Err(error)) => mistakes.push(error.to_string()),
        None => {}
    }
}
