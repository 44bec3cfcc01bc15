//! `kvasir worker bench`: a model's speed on this machine, as a table.

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use worker::{HubSettings, bench};

use crate::stdio::{complain, say};

/// Measure how fast a model runs on this machine, against the machine's limits
///
/// Decode with several batch sizes and prefill of several prompts, through the
/// model and without the network: tokens a second, the share of memory's and
/// multipliers' limits, measured in the same round, and of each operation.
#[derive(Debug, Parser)]
#[command(name = "kvasir worker bench", max_term_width = 100)]
struct Args {
    #[command(flatten)]
    bench: bench::Config,
}

/// `arguments`: those after `kvasir worker bench`.
pub fn main(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let name = std::iter::once(OsString::from("kvasir worker bench"));
    let args = match Args::try_parse_from(name.chain(arguments)) {
        Ok(args) => args,
        Err(shown) if !shown.use_stderr() => {
            say(shown.render().to_string().trim_end());
            return ExitCode::SUCCESS;
        }
        Err(mistakes) => {
            complain(mistakes.render().to_string().trim_end());
            return ExitCode::from(2);
        }
    };
    let bench = bench::Config {
        hub: HubSettings::from_env(|name| std::env::var(name).ok()),
        ..args.bench
    };
    match measure(&bench) {
        Ok(table) => {
            say(table.trim_end());
            ExitCode::SUCCESS
        }
        Err(error) => {
            complain(&format!("kvasir worker bench: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn measure(config: &bench::Config) -> anyhow::Result<String> {
    let report = bench::run(config)?;
    if let Some(path) = &config.json {
        let json = serde_json::to_string_pretty(&report)?;
        std::fs::write(path, json + "\n")
            .with_context(|| format!("can't write {}", path.display()))?;
    }
    Ok(report.to_string())
}
