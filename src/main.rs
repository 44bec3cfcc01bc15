//! `kvasir`: a whole cluster with one command, or one part of it.

mod bench;
mod explain;
mod part;
mod stdio;
mod up;

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use runtime::config::{self, Check, HumanDuration, Invocation, Refusal};
use runtime::telemetry::{self, TelemetryConfig};
use worker::HubSettings;

/// Streams that come and go leave holes, which the system's own allocator keeps:
/// a quarter more memory for each.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// A distributed LLM inference cluster. Without a subcommand it is `kvasir up`.
#[derive(Debug, Parser)]
#[command(name = "kvasir", version, max_term_width = 100)]
#[command(
    after_help = "kvasir loadtest measures any OpenAI-compatible endpoint, and kvasir explain asks \
                  a router where it would send a request; kvasir worker bench measures a model on \
                  this machine; see their --help"
)]
struct Cli {
    #[command(subcommand)]
    part: Part,
}

#[derive(Debug, Subcommand)]
enum Part {
    /// Start a whole cluster on this machine: a router and its workers
    Up(up::Config),
    /// Start a router: the gateway of a cluster
    Router(Router),
    /// Start a worker: it serves one model to routers
    Worker(Worker),
}

/// Subcommands that are no part of a cluster: they take no configuration file.
const LOADTEST: &str = "loadtest";
const WORKER: &str = "worker";
const EXPLAIN: &str = "explain";
/// Of a worker.
const BENCH: &str = "bench";

#[derive(Debug, Args)]
#[group(skip)]
struct Router {
    #[command(flatten)]
    router: router::Config,

    /// Running requests may take this time to finish at shutdown
    #[arg(long, value_name = "TIME", default_value = "30s")]
    drain_grace: HumanDuration,

    #[command(flatten)]
    telemetry: TelemetryConfig,

    #[command(flatten)]
    parent: stdio::ParentFlag,
}

#[derive(Debug, Args)]
#[group(skip)]
struct Worker {
    #[command(flatten)]
    worker: worker::Config,

    #[command(flatten)]
    telemetry: TelemetryConfig,

    #[command(flatten)]
    parent: stdio::ParentFlag,
}

impl Check for Cli {
    fn check(&self, mistakes: &mut Vec<String>) {
        match &self.part {
            Part::Up(config) => config.check(mistakes),
            Part::Router(config) => config.router.check(mistakes),
            Part::Worker(config) => config.worker.check(mistakes),
        }
    }
}

impl Part {
    /// Models are fetched as `hub` says.
    fn with_hub(mut self, hub: HubSettings) -> Part {
        match &mut self {
            Part::Up(config) => config.hub = hub,
            Part::Router(_) => {}
            Part::Worker(config) => config.worker.hub = hub,
        }
        self
    }

    fn telemetry(&self) -> &TelemetryConfig {
        match self {
            Part::Up(config) => &config.telemetry,
            Part::Router(config) => &config.telemetry,
            Part::Worker(config) => &config.telemetry,
        }
    }

    /// Name under which traces are reported.
    fn service(&self) -> &'static str {
        match self {
            Part::Up(_) => "kvasir",
            Part::Router(_) => "kvasir-router",
            Part::Worker(_) => "kvasir-worker",
        }
    }
}

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    match arguments.next() {
        Some(first) if first == LOADTEST => return loadtest::cli::main(arguments),
        Some(first) if first == EXPLAIN => return explain::main(arguments),
        Some(first)
            if first == WORKER && arguments.next().is_some_and(|second| second == BENCH) =>
        {
            return bench::main(arguments);
        }
        _ => {}
    }
    let readable = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
        Some((name.into_string().ok()?, value.into_string().ok()?))
    };
    let invocation = Invocation {
        arguments: std::env::args_os().collect(),
        environment: std::env::vars_os().filter_map(readable).collect(),
        default_subcommand: "up",
    };
    let part = match config::load::<Cli>(&invocation) {
        Ok(cli) => cli
            .part
            .with_hub(HubSettings::from_env(|name| std::env::var(name).ok())),
        Err(Refusal::Shown(text)) => {
            stdio::say(text.trim_end());
            return ExitCode::SUCCESS;
        }
        Err(mistakes) => {
            stdio::complain(mistakes.to_string().trim_end());
            return ExitCode::from(2);
        }
    };
    match run(part) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            stdio::complain(&format!("kvasir: {}", told(&error)));
            ExitCode::FAILURE
        }
    }
}

/// An error with its causes, without those that its message tells already.
fn told(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

fn run(part: Part) -> anyhow::Result<()> {
    let tokio = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let result = tokio.block_on(async {
        let telemetry = telemetry::init(part.telemetry(), part.service())?;
        let result = match part {
            Part::Up(config) => up::run(config).await,
            Part::Router(config) => part::run_router(config).await,
            Part::Worker(config) => part::run_worker(config).await,
        };
        telemetry.flush().await;
        result
    });
    // A model that is still being loaded is not waited for.
    tokio.shutdown_timeout(Duration::from_millis(100));
    result
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn models_are_fetched_as_the_environment_says() {
        for part in ["up", "worker"] {
            let cli = Cli::try_parse_from(["kvasir", part]).unwrap();
            let hub = HubSettings {
                offline: true,
                ..HubSettings::default()
            };
            let hub = match cli.part.with_hub(hub) {
                Part::Up(config) => config.hub,
                Part::Worker(config) => config.worker.hub,
                Part::Router(_) => unreachable!("it is not asked for"),
            };
            assert!(hub.offline, "{part}");
        }
    }

    #[test]
    fn causes_are_told_once() {
        let error = anyhow::anyhow!("no such file").context("can't load: no such file");
        assert_eq!(
            told(&error.context("can't start")),
            "can't start: can't load: no such file"
        );
    }

    #[test]
    fn no_flag_of_a_part_has_a_name_that_kubernetes_sets() {
        let command = Cli::command();
        for part in ["router", "worker"] {
            let command = command.find_subcommand(part).unwrap();
            for arg in command.get_arguments() {
                let flag = arg.get_long().unwrap_or_default();
                let taken = ["port", "host"].contains(&flag) || flag.starts_with("service-");
                assert!(!taken, "{part} --{flag}");
            }
        }
    }
}
