//! `kvasir loadtest selfcheck`.

use std::process::ExitCode;
use std::time::Duration;

use runtime::Lifecycle;
use runtime::config::HumanDuration;
use tokio_util::sync::CancellationToken;

use super::{Mistakes, block_on, say};
use crate::accuracy::{AccuracyPlan, accuracy};
use crate::selfcheck::{SelfCheckPlan, selfcheck};

#[derive(Debug, clap::Args)]
#[group(skip)]
pub(super) struct Args {
    /// Hold every figure against a server whose delays and faults are scripted,
    /// and fail if one is off by more than 2% and 1 ms
    #[arg(long)]
    accuracy: bool,
    /// Length of each of the four measurements, or of the one of --accuracy
    /// [default: 3s; with --accuracy 30s]
    #[arg(long, value_name = "TIME")]
    duration: Option<HumanDuration>,
    /// Requests under way in the three measurements at full speed
    #[arg(long, default_value_t = 64, value_name = "N")]
    concurrency: usize,
    /// Requests per second of the open loop [default: 2000; with --accuracy 100]
    #[arg(long, value_name = "RATE")]
    rate: Option<f64>,
    /// Of --accuracy: first tokens come after 50 ms to so much more, evenly
    #[arg(long, default_value = "200ms", value_name = "TIME")]
    spread: HumanDuration,
}

pub(super) fn run(args: Args) -> Result<ExitCode, Mistakes> {
    args.check()?;
    let stop = CancellationToken::new();
    let sound = match args.accuracy {
        true => args.measure_accuracy(&stop)?,
        false => args.measure_speed(&stop)?,
    };
    Ok(match sound {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

impl Args {
    fn check(&self) -> Result<(), Mistakes> {
        let rules = [
            (self.concurrency == 0, "--concurrency must be at least 1"),
            (
                self.rate.is_some_and(|it| !(it.is_finite() && it > 0.0)),
                "--rate must be above 0",
            ),
        ];
        let broken = rules.into_iter().filter(|(is_broken, _)| *is_broken);
        let mistakes: Vec<_> = broken.map(|(_, mistake)| mistake.to_owned()).collect();
        match mistakes.is_empty() {
            true => Ok(()),
            false => Err(Mistakes(mistakes)),
        }
    }

    fn measure_speed(&self, stop: &CancellationToken) -> Result<bool, Mistakes> {
        let default = SelfCheckPlan::default();
        let plan = SelfCheckPlan {
            duration: self.duration.map_or(default.duration, |it| it.0),
            concurrency: self.concurrency,
            rate: self.rate.unwrap_or(default.rate),
            stop: stop.clone(),
            ..default
        };
        let life = Lifecycle::new();
        let measured = block_on(selfcheck(&life, plan), stop)??;
        life.stop();
        say(measured.to_string().trim_end());
        let exact = measured.failed == 0 && measured.unaccounted == 0;
        Ok(exact && measured.health.is_valid())
    }

    fn measure_accuracy(&self, stop: &CancellationToken) -> Result<bool, Mistakes> {
        let default = AccuracyPlan::default();
        let rate = self.rate.unwrap_or(default.rate);
        let duration = self.duration.map_or(Duration::from_secs(30), |it| it.0);
        let plan = AccuracyPlan {
            requests: (rate * duration.as_secs_f64()).ceil().max(1.0) as u64,
            rate,
            spread: self.spread.0,
            stop: stop.clone(),
            ..default
        };
        let life = Lifecycle::new();
        let measured = block_on(accuracy(&life, plan), stop)??;
        life.stop();
        say(measured.to_string().trim_end());
        if stop.is_cancelled() {
            say("stopped before its end: counts and quantiles are of a part of the script");
        }
        Ok(measured.is_within() && measured.health.is_valid())
    }
}
