//! `kvasir loadtest run`: send, measure, report.

use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, UNIX_EPOCH};

use clap::parser::ValueSource;
use clap::{ArgMatches, Args as _, Command};
use runtime::config::{Check, HumanDuration};
use tokio_util::sync::CancellationToken;

use super::{Mistakes, block_on, complain, say};
use crate::arrival::{Arrival, ArrivalConfig};
use crate::client::{Endpoint, Target};
use crate::figures::{Figures, Objectives, RunInfo};
use crate::generator::{self, Display, Limits, Pace, RunPlan, RunResult, WarmUp};
use crate::report::{Document, Report, csv, html, table};
use crate::workload::{self, WorkloadConfig};

#[derive(Debug, clap::Args)]
#[group(skip)]
pub(super) struct Args {
    /// The server, such as http://127.0.0.1:8080
    #[arg(long, value_name = "URL")]
    url: String,
    /// Name of the model in requests
    #[arg(long, value_name = "NAME")]
    model: String,
    /// Sent as a bearer token
    #[arg(long, value_name = "KEY")]
    api_key: Option<String>,
    /// Sent with every request, as NAME:VALUE; once for each
    #[arg(long, value_name = "HEADER")]
    header: Vec<String>,
    /// Ask for whole answers instead of streams
    #[arg(long)]
    no_stream: bool,

    /// Requests to send. Without it the run ends with --duration, with the
    /// trace or prompt file, or with the pieces of --rate; else after 100
    #[arg(long, value_name = "N", help_heading = "Length of the run")]
    requests: Option<u64>,
    /// Send for this time
    #[arg(long, value_name = "TIME", help_heading = "Length of the run")]
    duration: Option<HumanDuration>,
    /// After --duration, so long may what is under way take
    #[arg(
        long,
        value_name = "TIME",
        default_value = "30s",
        help_heading = "Length of the run"
    )]
    grace: HumanDuration,
    /// Leave the first N requests out of the figures, and say so
    #[arg(
        long,
        value_name = "N",
        default_value_t = 0,
        help_heading = "Length of the run"
    )]
    warm_up: u64,
    /// Connections open at a time, at most
    #[arg(
        long,
        value_name = "N",
        default_value_t = 4096,
        help_heading = "Length of the run"
    )]
    connections: usize,
    /// A request that takes longer has failed
    #[arg(
        long,
        value_name = "TIME",
        default_value = "10m",
        help_heading = "Length of the run"
    )]
    timeout: HumanDuration,
    /// Of everything that is drawn: the same seed gives the same requests at
    /// the same times
    #[arg(
        long,
        value_name = "N",
        default_value_t = 0,
        help_heading = "Length of the run"
    )]
    seed: u64,

    #[command(flatten)]
    workload: WorkloadConfig,
    #[command(flatten)]
    arrival: ArrivalConfig,
    #[command(flatten)]
    reports: Reports,
}

#[derive(Debug, clap::Args)]
#[group(skip)]
#[command(next_help_heading = "Reports")]
struct Reports {
    /// Count the requests that meet all of these, such as
    /// ttft=500ms,itl=50ms,e2e=10s
    #[arg(long, value_name = "OBJECTIVES")]
    slo: Option<Objectives>,
    /// Write figures and all records; `kvasir loadtest compare` reads it
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write a row for each request, times in milliseconds
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// Write a page with plots that needs no network
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Show no progress
    #[arg(long)]
    quiet: bool,
}

/// Longest wait for the list of models before the run.
const PROBE_TIMEOUT: Duration = Duration::from_secs(10);

/// Requests of a run that nothing else ends.
const DEFAULT_REQUESTS: u64 = 100;

/// The flags that describe the workload, as they were given; prompt and answer
/// lengths also by default.
pub(super) fn workload_given(matches: &ArgMatches) -> String {
    let flags = WorkloadConfig::augment_args(Command::new("workload"));
    let is_trace = matches.contains_id("trace") || matches.contains_id("prompts");
    let mut given = Vec::new();
    for flag in flags.get_arguments() {
        let id = flag.get_id().as_str();
        let is_length = !is_trace && matches!(id, "input_tokens" | "output_tokens");
        let is_given = matches.value_source(id) == Some(ValueSource::CommandLine);
        if let Some(values) = matches.get_raw(id)
            && (is_given || is_length)
        {
            let values: Vec<_> = values.map(|it| it.to_string_lossy()).collect();
            given.push(format!("{} {}", id.replace('_', "-"), values.join(" ")));
        }
    }
    given.join(", ")
}

/// `workload`: the workload in words.
pub(super) fn run(args: Args, workload: String) -> Result<ExitCode, Mistakes> {
    args.check()?;
    let target = args.target()?;
    let mut info = args.info(workload);
    let workload = workload::build(&args.workload, args.seed)?;
    let stop = CancellationToken::new();
    let plan = args.plan(target.clone(), stop.clone());
    let result = block_on(
        async {
            let reached = async { Endpoint::resolve(&target).await?.probe().await };
            match tokio::time::timeout(PROBE_TIMEOUT, reached).await {
                Ok(reached) => reached?,
                Err(_) => {
                    let silent = format!("{} does not answer within {PROBE_TIMEOUT:?}", args.url);
                    return Err(Mistakes(vec![silent]));
                }
            }
            Ok(generator::run(plan, workload).await?)
        },
        &stop,
    )??;
    info.measured(&result);
    let figures = Figures::of(
        &result.records,
        &args.reports.slo.clone().unwrap_or_default(),
    );
    say(table(&info, &figures).trim_end());
    let valid = info.invalid.is_none();
    args.reports.write(info, figures, result)?;
    Ok(match valid {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

impl Args {
    fn check(&self) -> Result<(), Mistakes> {
        let mut mistakes = Vec::new();
        self.workload.check(&mut mistakes);
        self.arrival.check(&mut mistakes);
        let recorded = self.workload.is_recorded();
        self.arrival.check_with(recorded, &mut mistakes);
        for (name, file) in self.reports.files() {
            if let Err(error) = writable(file) {
                mistakes.push(format!("--{name} {}: {error}", file.display()));
            }
        }
        match mistakes.is_empty() {
            true => Ok(()),
            false => Err(Mistakes(mistakes)),
        }
    }

    fn target(&self) -> Result<Target, Mistakes> {
        let header = |text: &String| {
            let (name, value) = text.split_once(':').ok_or_else(|| {
                Mistakes(vec![format!("--header {text}: write it as NAME:VALUE")])
            })?;
            Ok((name.trim().to_owned(), value.trim().to_owned()))
        };
        Ok(Target {
            api_key: self.api_key.clone(),
            headers: self
                .header
                .iter()
                .map(header)
                .collect::<Result<_, Mistakes>>()?,
            stream: !self.no_stream,
            ..Target::new(&self.url, &self.model)
        })
    }

    fn plan(&self, target: Target, stop: CancellationToken) -> RunPlan {
        let pace = match self.arrival.arrival(self.workload.is_recorded()) {
            Arrival::Closed { concurrency } => Pace::Closed {
                concurrency: concurrency as usize,
            },
            Arrival::Open(open) => Pace::Open(Box::new(open.schedule(self.seed))),
            Arrival::Recorded => Pace::Recorded,
        };
        RunPlan {
            pace,
            limits: Limits {
                requests: self.request_limit(),
                duration: self.duration.map(|it| it.0),
                grace: self.grace.0,
            },
            warm_up: WarmUp {
                requests: self.warm_up,
                ..WarmUp::default()
            },
            connections: self.connections,
            time_limit: self.timeout.0,
            display: match self.reports.quiet {
                true => Display::Off,
                false => Display::Auto,
            },
            stop,
            ..RunPlan::new(target)
        }
    }

    fn request_limit(&self) -> Option<u64> {
        let file = &self.workload.file;
        let rate = self.arrival.rate.as_ref();
        let ends = self.duration.is_some()
            || self.workload.is_recorded()
            || (file.prompts.is_some() && !file.repeat_prompts)
            || rate.is_some_and(|rate| rate.lasts().is_some());
        self.requests.or((!ends).then_some(DEFAULT_REQUESTS))
    }

    fn info(&self, workload: String) -> RunInfo {
        let recorded = self.workload.is_recorded();
        RunInfo {
            target: self.url.clone(),
            model: self.model.clone(),
            workload,
            arrival: self.arrival.arrival(recorded).to_string(),
            seed: self.seed,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            cores: std::thread::available_parallelism().map_or(1, |cores| cores.get() as u32),
            ..RunInfo::default()
        }
    }
}

impl RunInfo {
    fn measured(&mut self, result: &RunResult) {
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

impl Reports {
    /// Reports to be written, by the flags that ask for them.
    fn files(&self) -> impl Iterator<Item = (&'static str, &PathBuf)> {
        let all = [
            ("json", &self.json),
            ("csv", &self.csv),
            ("html", &self.html),
        ];
        all.into_iter()
            .filter_map(|(name, file)| Some((name, file.as_ref()?)))
    }

    fn write(&self, info: RunInfo, figures: Figures, result: RunResult) -> Result<(), Mistakes> {
        if let Some(file) = &self.csv {
            csv(&result.records, &mut BufWriter::new(File::create(file)?))?;
        }
        if let Some(file) = &self.html {
            let report = Report {
                info: &info,
                figures: &figures,
                records: &result.records,
                sweep: &[],
                policies: &[],
            };
            std::fs::write(file, html(&report))?;
        }
        if let Some(file) = &self.json {
            let document = Document {
                info,
                figures,
                records: Some(result.records),
                sweep: Vec::new(),
                policies: Vec::new(),
            };
            std::fs::write(file, document.to_json())?;
        }
        for (_, file) in self.files() {
            complain(&format!("wrote {}", file.display()));
        }
        Ok(())
    }
}

/// Better before the run than after it.
fn writable(file: &Path) -> std::io::Result<()> {
    File::options()
        .append(true)
        .create(true)
        .open(file)
        .map(drop)
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
}
