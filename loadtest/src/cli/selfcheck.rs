//! `kvasir loadtest selfcheck`.

use std::process::ExitCode;

use runtime::Lifecycle;
use runtime::config::HumanDuration;
use tokio_util::sync::CancellationToken;

use super::{Mistakes, block_on, say};
use crate::selfcheck::{SelfCheckPlan, selfcheck};

#[derive(Debug, clap::Args)]
#[group(skip)]
pub(super) struct Args {
    /// Length of each of the three measurements
    #[arg(long, default_value = "3s", value_name = "TIME")]
    duration: HumanDuration,
    /// Requests under way in the two measurements at full speed
    #[arg(long, default_value_t = 64, value_name = "N")]
    concurrency: usize,
    /// Requests per second of the open loop
    #[arg(long, default_value_t = 2000.0, value_name = "RATE")]
    rate: f64,
}

pub(super) fn run(args: Args) -> Result<ExitCode, Mistakes> {
    let stop = CancellationToken::new();
    let plan = SelfCheckPlan {
        duration: args.duration.0,
        concurrency: args.concurrency,
        rate: args.rate,
        stop: stop.clone(),
        ..SelfCheckPlan::default()
    };
    let measured = block_on(
        async {
            let life = Lifecycle::new();
            let measured = selfcheck(&life, plan).await;
            life.stop();
            measured
        },
        &stop,
    )??;
    say(measured.to_string().trim_end());
    Ok(match measured.failed == 0 && measured.health.is_valid() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}
