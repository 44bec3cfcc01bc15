//! `kvasir loadtest run`: send, measure, report.

use std::process::ExitCode;
use std::time::UNIX_EPOCH;

use clap::parser::ValueSource;
use clap::{ArgMatches, Args as _, Command};
use runtime::config::{Check, HumanDuration};
use tokio_util::sync::CancellationToken;

use super::reports::Reports;
use super::target::{SendingConfig, TargetConfig, probe};
use super::{Mistakes, block_on, complain, say};
use crate::arrival::{Arrival, ArrivalConfig};
use crate::client::Target;
use crate::figures::{Figures, Objectives, RunInfo};
use crate::generator::{self, Limits, Pace, RunPlan, RunResult, WarmUp};
use crate::report::{Document, table};
use crate::workload::{self, WorkloadConfig};

#[derive(Debug, clap::Args)]
#[group(skip)]
pub(super) struct Args {
    #[command(flatten)]
    target: TargetConfig,
    #[command(flatten)]
    length: Length,
    #[command(flatten)]
    sending: SendingConfig,
    #[command(flatten)]
    workload: WorkloadConfig,
    #[command(flatten)]
    arrival: ArrivalConfig,
    /// Count the requests that meet all of these, such as
    /// ttft=500ms,itl=50ms,e2e=10s
    #[arg(long, value_name = "OBJECTIVES", help_heading = "Reports")]
    slo: Option<Objectives>,
    #[command(flatten)]
    reports: Reports,
}

#[derive(Debug, clap::Args)]
#[group(skip)]
#[command(next_help_heading = "Length of the run")]
struct Length {
    /// Requests to send. Without it the run ends with --duration, with the
    /// trace or prompt file, or with the pieces of --rate; else after 100
    #[arg(long, value_name = "N")]
    requests: Option<u64>,
    /// Send for this time
    #[arg(long, value_name = "TIME")]
    duration: Option<HumanDuration>,
    /// Leave the beginning out of the figures, and say so: the first N requests,
    /// or those scheduled within a time such as 10s
    #[arg(long, value_name = "N|TIME", default_value = "0", value_parser = warm_up)]
    warm_up: WarmUp,
}

/// Requests of a run that nothing else ends.
const DEFAULT_REQUESTS: u64 = 100;

fn warm_up(text: &str) -> Result<WarmUp, &'static str> {
    if let Ok(requests) = text.parse() {
        return Ok(WarmUp {
            requests,
            ..WarmUp::default()
        });
    }
    let HumanDuration(duration) = text
        .parse()
        .map_err(|_| "allowed is a number of requests, or a time such as 10s")?;
    Ok(WarmUp {
        duration,
        ..WarmUp::default()
    })
}

/// The flags that describe the workload, as they were given; prompt and answer
/// lengths also by default.
pub(super) fn workload_given(matches: &ArgMatches) -> String {
    let flags = WorkloadConfig::augment_args(Command::new("workload"));
    let is_given = |id: &str| matches.value_source(id) == Some(ValueSource::CommandLine);
    let has_own_lengths = is_given("trace") || is_given("prompts");
    let mut given = Vec::new();
    for flag in flags.get_arguments() {
        let id = flag.get_id().as_str();
        let is_length = !has_own_lengths && matches!(id, "input_tokens" | "output_tokens");
        if let (Ok(Some(values)), true) = (matches.try_get_raw(id), is_given(id) || is_length) {
            let values: Vec<_> = values.map(|it| it.to_string_lossy()).collect();
            given.push(format!("{} {}", id.replace('_', "-"), values.join(" ")));
        }
    }
    given.join(", ")
}

/// `workload`: the workload in words.
pub(super) fn run(args: Args, workload: String) -> Result<ExitCode, Mistakes> {
    let target = args.check()?;
    let mut info = args.info(workload);
    let workload = workload::build(&args.workload, args.sending.seed)?;
    let stop = CancellationToken::new();
    let plan = args.plan(target.clone(), stop.clone());
    let result = block_on(
        async {
            probe(&target).await?;
            Ok::<_, Mistakes>(generator::run(plan, workload).await?)
        },
        &stop,
    )??;
    info.measured(&result);
    let figures = Figures::of(&result.records, &args.slo.unwrap_or_default());
    say(table(&info, &figures).trim_end());
    let valid = info.invalid.is_none();
    let unanswered = figures.requests.counted > 0 && figures.requests.answered == 0;
    args.reports.write(&Document {
        info,
        figures,
        records: Some(result.records),
        sweep: Vec::new(),
        policies: Vec::new(),
    })?;
    if unanswered {
        complain("not one request was answered: see `endings` above for how they ended");
    }
    Ok(match valid && !unanswered {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

impl Args {
    fn check(&self) -> Result<Target, Mistakes> {
        let mut mistakes = Vec::new();
        self.workload.check(&mut mistakes);
        self.arrival.check(&mut mistakes);
        let recorded = self.workload.is_recorded();
        self.arrival.check_with(recorded, &mut mistakes);
        let target = self.target.target(&self.workload, &mut mistakes);
        self.reports.check(&mut mistakes);
        match mistakes.is_empty() {
            true => Ok(target),
            false => Err(Mistakes(mistakes)),
        }
    }

    fn plan(&self, target: Target, stop: CancellationToken) -> RunPlan {
        let pace = match self.arrival.arrival(self.workload.is_recorded()) {
            Arrival::Closed { concurrency } => Pace::Closed {
                concurrency: concurrency as usize,
            },
            Arrival::Open(open) => Pace::Open(Box::new(open.schedule(self.sending.seed))),
            Arrival::Recorded => Pace::Recorded,
        };
        RunPlan {
            pace,
            limits: Limits {
                requests: self.request_limit(),
                duration: self.length.duration.map(|it| it.0),
                grace: self.sending.grace.0,
            },
            warm_up: self.length.warm_up,
            connections: self.sending.connections,
            time_limit: self.sending.timeout.0,
            display: self.reports.display(),
            stop,
            ..RunPlan::new(target)
        }
    }

    fn request_limit(&self) -> Option<u64> {
        let file = &self.workload.file;
        let rate = self.arrival.rate.as_ref();
        let ends = self.length.duration.is_some()
            || self.workload.is_recorded()
            || (file.prompts.is_some() && !file.repeat_prompts)
            || rate.is_some_and(|rate| rate.lasts().is_some());
        self.length.requests.or((!ends).then_some(DEFAULT_REQUESTS))
    }

    fn info(&self, workload: String) -> RunInfo {
        let recorded = self.workload.is_recorded();
        let arrival = self.arrival.arrival(recorded).to_string();
        RunInfo {
            workload,
            arrival,
            ..described(&self.target, &self.sending)
        }
    }
}

/// What is known of a run before it begins.
pub(super) fn described(target: &TargetConfig, sending: &SendingConfig) -> RunInfo {
    RunInfo {
        target: target.url.clone(),
        model: target.model.clone(),
        seed: sending.seed,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        cores: std::thread::available_parallelism().map_or(1, |cores| cores.get() as u32),
        ..RunInfo::default()
    }
}

impl RunInfo {
    pub(super) fn measured(&mut self, result: &RunResult) {
        let started = result.started_at.duration_since(UNIX_EPOCH);
        self.started = started.map_or(0, |since| since.as_secs());
        self.duration = result.duration;
        let health = &result.health;
        self.invalid = (!health.is_valid()).then(|| health.faults.join("; "));
        self.notes.extend(result.caveats.iter().cloned());
        if result.stopped {
            self.notes.push("stopped before its end".to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::{Args as _, Command, FromArgMatches};

    use super::*;

    fn limit(flags: &str) -> Option<u64> {
        let always = "run --url http://h:1 --model m";
        let words = always.split(' ').chain(flags.split_whitespace());
        let matches = Args::augment_args(Command::new("run")).get_matches_from(words);
        Args::from_arg_matches(&matches).unwrap().request_limit()
    }

    #[test]
    fn only_a_run_without_an_end_of_its_own_is_ended_after_some_requests() {
        assert_eq!(limit(""), Some(DEFAULT_REQUESTS));
        assert_eq!(limit("--rate 5"), Some(DEFAULT_REQUESTS));
        assert_eq!(limit("--rate 5 --requests 7"), Some(7));
        assert_eq!(
            limit("--prompts f --repeat-prompts"),
            Some(DEFAULT_REQUESTS)
        );
        for ends in [
            "--duration 5s",
            "--trace f",
            "--prompts f",
            "--rate 5@10s,9@10s",
        ] {
            assert_eq!(limit(ends), None, "{ends}");
        }
    }

    #[test]
    fn a_warm_up_is_a_number_of_requests_or_a_time() {
        assert_eq!(warm_up("7").unwrap().requests, 7);
        let timed = warm_up("10s").unwrap();
        assert_eq!((timed.requests, timed.duration.as_secs()), (0, 10));
        assert!(warm_up("soon").is_err());
    }
}
