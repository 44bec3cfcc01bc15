//! `kvasir loadtest sweep`: the highest rate at which objectives hold.

use std::process::ExitCode;
use std::time::Duration;

use runtime::config::{Check, HumanDuration};
use tokio_util::sync::CancellationToken;

use super::reports::Reports;
use super::target::{SendingConfig, TargetConfig, probe};
use super::{Mistakes, block_on, complain, run, say};
use crate::arrival::{ArrivalConfig, ArrivalKind, OpenLoop, Rate};
use crate::client::Target;
use crate::figures::{Objectives, RunInfo};
use crate::generator::{self, Limits, Pace, RunPlan, WarmUp};
use crate::report::{Document, SweepPoint, decimal, percent, sweep_table, table};
use crate::sweep::{Attempt, RateRange, Sweep, Swept};
use crate::workload::{self, WorkloadConfig};

#[derive(Debug, clap::Args)]
#[group(skip)]
pub(super) struct Args {
    #[command(flatten)]
    target: TargetConfig,
    #[command(flatten)]
    search: SearchConfig,
    #[command(flatten)]
    sending: SendingConfig,
    #[command(flatten)]
    workload: WorkloadConfig,
    /// How requests are spaced
    #[arg(
        long,
        value_name = "KIND",
        value_enum,
        default_value = "poisson",
        help_heading = "Arrivals"
    )]
    arrival: ArrivalKind,
    /// Of --arrival gamma, as of `kvasir loadtest run` [default: 1]
    #[arg(long, value_name = "B", help_heading = "Arrivals")]
    burstiness: Option<f64>,
    #[command(flatten)]
    reports: Reports,
}

#[derive(Debug, clap::Args)]
#[group(skip)]
#[command(next_help_heading = "Search")]
struct SearchConfig {
    /// What a request must meet, such as ttft=500ms,itl=50ms
    #[arg(long, value_name = "OBJECTIVES")]
    slo: Objectives,
    /// Share of requests that must meet --slo; one that fails does not
    #[arg(long, value_name = "SHARE", default_value_t = 0.99)]
    quantile: f64,
    /// Requests per second to search in: FROM is doubled until a rate does not
    /// hold, and then the place between is bisected
    #[arg(long, value_name = "FROM..TO", default_value = "1..10000")]
    rates: RateRange,
    /// How near the two rates are in the end: a share of the lower
    #[arg(long, value_name = "SHARE", default_value_t = 0.05)]
    precision: f64,
    /// Measure each rate for this time: long enough for a queue that grows to
    /// miss the objectives
    #[arg(long, value_name = "TIME", default_value = "30s")]
    duration: HumanDuration,
    /// Measure a low rate for longer, until so many requests are sent
    #[arg(long, value_name = "N", default_value_t = 100)]
    min_requests: u32,
    /// Send for this time before each measurement, and leave it out
    #[arg(long, value_name = "TIME", default_value = "5s")]
    warm_up: HumanDuration,
    /// Send nothing for this time after each measurement
    #[arg(long, value_name = "TIME", default_value = "2s")]
    cool_down: HumanDuration,
}

/// `workload`: the workload in words.
pub(super) fn run(args: Args, workload: String) -> Result<ExitCode, Mistakes> {
    let target = args.check()?;
    let stop = CancellationToken::new();
    let sweep = args.sweep(stop.clone());
    let source = workload::build(&args.workload, args.sending.seed)?;
    let swept = block_on(
        async {
            probe(&target).await?;
            let measure = async |attempt: Attempt| {
                let plan = args.plan(&target, &attempt, stop.clone());
                generator::run(plan, attempt.workload).await
            };
            Ok::<_, Mistakes>(sweep.find(source, measure, |it| args.tell(it)).await?)
        },
        &stop,
    )??;
    let complete = swept.finding.is_complete();
    let finding = swept.sentence(&sweep);
    let document = args.document(swept, workload, &finding);
    say(table(&document.info, &document.figures).trim_end());
    say(&format!("\n{}", sweep_table(&document.sweep).trim_end()));
    say(&format!("\n{finding}"));
    args.reports.write(&document)?;
    Ok(match complete {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

impl Args {
    fn check(&self) -> Result<Target, Mistakes> {
        let mut mistakes = Vec::new();
        self.workload.check(&mut mistakes);
        self.arrivals().check(&mut mistakes);
        self.search.check(&mut mistakes);
        let file = &self.workload.file;
        let rules = [
            (
                self.arrival == ArrivalKind::Recorded,
                "--arrival recorded has no meaning in a sweep, which sets the rate",
            ),
            (
                file.prompts.is_some() && !file.repeat_prompts,
                "--prompts needs --repeat-prompts in a sweep, which sends more than a file has",
            ),
        ];
        let broken = rules.into_iter().filter(|(is_broken, _)| *is_broken);
        mistakes.extend(broken.map(|(_, mistake)| mistake.to_owned()));
        let target = self.target.target(&self.workload, &mut mistakes);
        self.reports.check(&mut mistakes);
        match mistakes.is_empty() {
            true => Ok(target),
            false => Err(Mistakes(mistakes)),
        }
    }

    fn arrivals(&self) -> ArrivalConfig {
        ArrivalConfig {
            rate: None,
            arrival: Some(self.arrival).filter(|it| *it != ArrivalKind::Recorded),
            burstiness: self.burstiness,
            concurrency: None,
        }
    }

    fn sweep(&self, stop: CancellationToken) -> Sweep {
        Sweep {
            objectives: self.search.slo.clone(),
            quantile: self.search.quantile,
            range: self.search.rates,
            precision: self.search.precision,
            pause: self.search.cool_down.0,
            stop,
        }
    }

    fn plan(&self, target: &Target, attempt: &Attempt, stop: CancellationToken) -> RunPlan {
        let warm_up = self.search.warm_up.0;
        let seed = self.sending.seed.wrapping_add(attempt.number);
        let rate = Rate::constant(attempt.rate);
        let gaps = self.arrivals().gaps();
        let schedule = rate.map(|rate| OpenLoop { rate, gaps }.schedule(seed));
        RunPlan {
            // The range has no rate that is not above 0.
            pace: Pace::Open(Box::new(schedule.into_iter().flatten())),
            limits: Limits {
                requests: None,
                duration: Some(warm_up + self.search.time_at(attempt.rate)),
                grace: self.sending.grace.0,
            },
            warm_up: WarmUp {
                requests: 0,
                duration: warm_up,
            },
            connections: self.sending.connections,
            time_limit: self.sending.timeout.0,
            display: self.reports.display(),
            stop,
            ..RunPlan::new(target.clone())
        }
    }

    fn tell(&self, point: &SweepPoint) {
        if self.reports.is_quiet() {
            return;
        }
        let good = point.figures.goodput.as_ref();
        complain(&format!(
            "{} requests/s: {}, {} of {} requests good",
            decimal(point.rate, 2),
            point.verdict.words(),
            good.map_or("-".to_owned(), |it| percent(it.share)),
            point.figures.requests.counted
        ));
    }

    fn document(&self, swept: Swept, workload: String, finding: &str) -> Document {
        let RateRange { from, to } = self.search.rates;
        let gaps = self.arrivals().gaps();
        let mut info = RunInfo {
            workload,
            arrival: format!("sweep, {from} to {to} requests/s, {gaps}"),
            notes: notes(&swept, finding),
            ..run::described(&self.target, &self.sending)
        };
        let records = swept.run.map(|run| {
            info.measured(&run);
            run.records
        });
        Document {
            info,
            figures: swept.figures,
            records,
            sweep: swept.points,
            policies: Vec::new(),
        }
    }
}

fn notes(swept: &Swept, finding: &str) -> Vec<String> {
    let of = swept.rate.map(|rate| {
        let rate = decimal(rate, 2);
        format!("all figures but those by rate are of the run at {rate} requests/s")
    });
    [finding.to_owned()].into_iter().chain(of).collect()
}

impl SearchConfig {
    fn time_at(&self, rate: f64) -> Duration {
        let enough = Duration::try_from_secs_f64(f64::from(self.min_requests) / rate);
        self.duration.0.max(enough.unwrap_or(Duration::ZERO))
    }
}

impl Check for SearchConfig {
    fn check(&self, mistakes: &mut Vec<String>) {
        let rules = [
            (
                !(self.quantile > 0.0 && self.quantile <= 1.0),
                "--quantile must be above 0 and at most 1, such as 0.99",
            ),
            (
                !(0.01..=1.0).contains(&self.precision),
                "--precision must be from 0.01 to 1",
            ),
            (self.duration.0.is_zero(), "--duration must be above 0s"),
        ];
        let broken = rules.into_iter().filter(|(is_broken, _)| *is_broken);
        mistakes.extend(broken.map(|(_, mistake)| mistake.to_owned()));
    }
}
