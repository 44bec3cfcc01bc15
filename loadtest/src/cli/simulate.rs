//! `kvasir loadtest simulate`: a workload through a cluster that is only
//! simulated, under one policy or several.

mod flags;

use std::fs::File;
use std::io::BufWriter;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use router::admission;
use runtime::config::{Check, HumanDuration};

use self::flags::{FaultFlag, JoinFlag, LoadFlag, WorkersFlag};
use super::{Mistakes, complain, say};
use crate::arrival::ArrivalConfig;
use crate::figures::{Objectives, RunInfo};
use crate::report::{Document, PolicyPoint, Report, cluster_table, csv, html};
use crate::report::{count, policies_table, table};
use crate::simulate::{
    Fault, Keep, Length, Network, Profiles, Scenario, SimPolicy, Simulated, Told, saturation,
    simulate,
};
use crate::workload::{self, WorkloadConfig};

#[derive(Debug, clap::Args)]
#[group(skip)]
pub(super) struct Args {
    /// Workers, as N, N:PROFILE or N:PROFILE:ROLE; several kinds separated by
    /// commas, such as 2:h100:prefill,6:h200:decode. Profiles: h100, h200, l40s
    /// and those of --profiles; roles: prefill, decode, both
    #[arg(
        long,
        value_name = "WORKERS",
        value_delimiter = ',',
        default_value = "8:h100:both"
    )]
    workers: Vec<WorkersFlag>,
    /// More profiles, a TOML file
    #[arg(long, value_name = "FILE")]
    profiles: Option<PathBuf>,
    /// How workers are chosen; once for each policy to be compared
    #[arg(long, value_name = "NAME", default_value = "cost", help = policy_help())]
    policy: Vec<SimPolicy>,
    /// Requests come at these shares of what the cluster gets through at most
    /// (under the first policy, with 64 requests at a time for each worker), such
    /// as 50%,80%,95%; every policy runs at each
    #[arg(long, value_name = "SHARES", value_delimiter = ',')]
    load: Vec<LoadFlag>,
    /// Routers that share the requests, but no state
    #[arg(long, value_name = "N", default_value_t = 1)]
    routers: usize,

    /// Of a call or an answer between two parts of the cluster, one way
    #[arg(
        long,
        value_name = "TIME",
        default_value = "200us",
        help_heading = "Network and faults"
    )]
    network_delay: HumanDuration,
    /// From the end of a step until routers know of its KV events
    #[arg(
        long,
        value_name = "TIME",
        default_value = "1ms",
        help_heading = "Network and faults"
    )]
    event_delay: HumanDuration,
    /// Share of a worker's messages that is lost on the way to a router, and
    /// asked for again
    #[arg(
        long,
        value_name = "SHARE",
        default_value_t = 0.0,
        help_heading = "Network and faults"
    )]
    event_loss: f64,
    /// A worker, counted from 0, fails at a time and may come back after
    /// another: 3@60s or 3@60s+30s
    #[arg(long, value_name = "WORKER@TIME", help_heading = "Network and faults")]
    fail: Vec<FaultFlag>,
    /// A worker takes no more work from a time on, and finishes what it has
    #[arg(long, value_name = "WORKER@TIME", help_heading = "Network and faults")]
    leave: Vec<FaultFlag>,
    /// Workers more from a time on, as in --workers: 2:h100@60s
    #[arg(long, value_name = "WORKERS@TIME", help_heading = "Network and faults")]
    join: Vec<JoinFlag>,

    /// Requests in all [default: as many as the workload, --duration or --rate
    /// has, else 1000]
    #[arg(long, value_name = "N", help_heading = "Length of the run")]
    requests: Option<u64>,
    /// Simulated time in which requests are sent
    #[arg(long, value_name = "TIME", help_heading = "Length of the run")]
    duration: Option<HumanDuration>,
    /// Leave the first N requests out of the figures, and say so
    #[arg(
        long,
        value_name = "N",
        default_value_t = 0,
        help_heading = "Length of the run"
    )]
    warm_up: u64,
    /// Of everything that is drawn: the same seed gives the same output
    #[arg(
        long,
        value_name = "N",
        default_value_t = 0,
        help_heading = "Length of the run"
    )]
    seed: u64,

    /// Requests running at once in all routers [default: no limit]
    #[arg(long, value_name = "N", help_heading = "Admission")]
    max_concurrent_requests: Option<usize>,
    /// Requests waiting in all routers; more are answered 429 [default: no
    /// limit]
    #[arg(long, value_name = "N", help_heading = "Admission")]
    max_queued_requests: Option<usize>,
    /// Longest wait in a router; then 429 [default: no limit]
    #[arg(long, value_name = "TIME", help_heading = "Admission")]
    max_queue_wait: Option<HumanDuration>,

    #[command(flatten)]
    workload: WorkloadConfig,
    #[command(flatten)]
    arrival: ArrivalConfig,

    /// Count the requests that meet all of these, such as
    /// ttft=500ms,itl=50ms,e2e=10s
    #[arg(long, value_name = "OBJECTIVES", help_heading = "Reports")]
    slo: Option<Objectives>,
    /// Requests carry --slo as their objectives: ttft, and itl or tpot
    #[arg(long, requires = "slo", help_heading = "Reports")]
    tell_slo: bool,
    /// Write the figures of all policies, and the records of the first
    #[arg(long, value_name = "FILE", help_heading = "Reports")]
    json: Option<PathBuf>,
    /// Write a row for each request under the first policy, times in
    /// milliseconds
    #[arg(long, value_name = "FILE", help_heading = "Reports")]
    csv: Option<PathBuf>,
    /// Write a page with plots that needs no network
    #[arg(long, value_name = "FILE", help_heading = "Reports")]
    html: Option<PathBuf>,
}

/// Longer than any simulation.
const FOREVER: Duration = Duration::from_secs(1 << 32);

/// Requests if nothing else ends the run.
const DEFAULT_REQUESTS: u64 = 1000;
/// Records that the page's timeline needs.
const TIMELINE_RECORDS: usize = 1000;
/// Records in a JSON file at most: about a kilobyte each and more.
const JSON_RECORDS: usize = 100_000;

fn policy_help() -> String {
    format!(
        "How workers are chosen; once for each policy to be compared{}\n",
        SimPolicy::help()
    )
}

/// `workload`: the workload in words.
pub(super) fn run(args: Args, workload: String) -> Result<ExitCode, Mistakes> {
    let scenario = args.scenario()?;
    let keep = Keep {
        objectives: args.slo.clone().unwrap_or_default(),
        records: args.records(),
    };
    let mut info = args.info(workload);
    let mut points = Vec::new();
    let mut first: Option<Simulated> = None;
    for (load, scenario) in args.at_loads(scenario)? {
        for policy in &args.policy {
            let began = Instant::now();
            let requests = workload::build(&args.workload, args.seed)?;
            let mut simulated = simulate(&scenario, *policy, requests, &keep);
            complain(&speed(policy, &simulated, began.elapsed()));
            points.push(PolicyPoint {
                load,
                cluster: simulated.cluster.clone(),
                figures: simulated.figures.clone(),
            });
            if first.is_some() {
                simulated.records = Vec::new();
            }
            first.get_or_insert(simulated);
        }
    }
    let Some(first) = first else {
        return Ok(ExitCode::SUCCESS);
    };
    info.duration = first.lasted;
    info.notes.extend(first.caveats.iter().cloned());
    say(table(&info, &first.figures).trim_end());
    say(cluster_table(&first.cluster).trim_end());
    if points.len() > 1 {
        say("");
        say(policies_table(&points).trim_end());
    }
    args.write(info, first, points)?;
    Ok(ExitCode::SUCCESS)
}

/// How fast the simulation was: of this machine, so not part of any report.
fn speed(policy: &SimPolicy, simulated: &Simulated, took: Duration) -> String {
    let seconds = took.as_secs_f64();
    format!(
        "simulated {policy}: {:.0} s in {seconds:.1} s, {} events, {:.2} us each",
        simulated.lasted.as_secs_f64(),
        count(simulated.events),
        seconds * 1e6 / simulated.events.max(1) as f64
    )
}

impl Args {
    /// The scenarios that are run, each with its load if that was asked for.
    fn at_loads(&self, scenario: Scenario) -> Result<Vec<(Option<f64>, Scenario)>, Mistakes> {
        let (Some(policy), false) = (self.policy.first(), self.load.is_empty()) else {
            return Ok(vec![(None, scenario)]);
        };
        let requests = workload::build(&self.workload, self.seed)?;
        let limit = saturation(&scenario, *policy, requests);
        let Some(limit) = limit else {
            let mistake = "--load: too few requests to find what the cluster gets through";
            return Err(Mistakes(vec![mistake.to_owned()]));
        };
        complain(&format!(
            "the cluster gets through {:.3} requests/s under {policy}",
            limit.per_second
        ));
        let at = |load: &LoadFlag| (Some(load.0), scenario.at_load(load.0, &limit));
        Ok(self.load.iter().map(at).collect())
    }

    fn told(&self) -> Told {
        let slo = self.slo.as_ref().filter(|_| self.tell_slo);
        Told {
            first_token: slo.and_then(Objectives::first_token),
            inter_token: slo.and_then(Objectives::inter_token),
        }
    }

    fn scenario(&self) -> Result<Scenario, Mistakes> {
        let mut mistakes = Vec::new();
        self.workload.check(&mut mistakes);
        self.arrival.check(&mut mistakes);
        let recorded = self.workload.is_recorded();
        self.arrival.check_with(recorded, &mut mistakes);
        if !(0.0..1.0).contains(&self.event_loss) {
            mistakes.push("--event-loss must be from 0 to below 1".to_owned());
        }
        let paced = self.arrival.rate.is_some() || self.arrival.concurrency.is_some();
        if !self.load.is_empty() && paced {
            mistakes.push("--load sets the rate: leave out --rate and --concurrency".to_owned());
        }
        if self.routers == 0 {
            mistakes.push("--routers must be at least 1".to_owned());
        }
        let profiles = self.read_profiles().unwrap_or_else(|mistake| {
            mistakes.push(mistake);
            None
        });
        let mut workers = Vec::new();
        let mut faults = Vec::new();
        if let Some(profiles) = profiles {
            for flag in &self.workers {
                match flag.specs(&profiles) {
                    Ok(specs) => workers.extend(specs),
                    Err(mistake) => mistakes.push(format!("--workers: {mistake}")),
                }
            }
            for flag in &self.join {
                match flag.workers.specs(&profiles) {
                    Ok(specs) => faults.extend(specs.map(|spec| Fault::Join { at: flag.at, spec })),
                    Err(mistake) => mistakes.push(format!("--join: {mistake}")),
                }
            }
        }
        let joining = faults.len();
        faults.extend(self.fail.iter().map(FaultFlag::fail));
        faults.extend(self.leave.iter().map(FaultFlag::leave));
        let mut blocks = workers.iter().map(|it| it.profile.block_size);
        let first = blocks.next();
        if blocks.any(|it| Some(it) != first) {
            mistakes.push("--workers: all must have one block_size".to_owned());
        }
        for flag in self.fail.iter().chain(&self.leave) {
            if flag.worker >= workers.len() + joining {
                mistakes.push(format!("there is no worker {}", flag.worker));
            }
        }
        if !mistakes.is_empty() {
            return Err(Mistakes(mistakes));
        }
        Ok(Scenario {
            workers,
            routers: self.routers,
            told: self.told(),
            admission: admission::Config {
                max_concurrent_requests: self.max_concurrent_requests.unwrap_or(usize::MAX),
                max_queued_requests: self.max_queued_requests.unwrap_or(usize::MAX),
                max_queued_tokens: u64::MAX,
                max_queue_wait: self.max_queue_wait.unwrap_or(HumanDuration(FOREVER)),
                tenant_weight: Vec::new(),
            },
            network: Network {
                delay: self.network_delay.0,
                event_delay: self.event_delay.0,
                event_loss: self.event_loss,
            },
            faults,
            arrival: self.arrival.arrival(recorded),
            stretch: 1.0,
            length: self.length(),
            warm_up: self.warm_up,
            seed: self.seed,
        })
    }

    fn read_profiles(&self) -> Result<Option<Profiles>, String> {
        let Some(path) = &self.profiles else {
            return Profiles::read(None).map(Some);
        };
        let named = |error: String| format!("--profiles {}: {error}", path.display());
        let text = std::fs::read_to_string(path).map_err(|it| named(it.to_string()))?;
        Profiles::read(Some(&text)).map(Some).map_err(named)
    }

    fn length(&self) -> Length {
        let file = &self.workload.file;
        let rate = self.arrival.rate.as_ref();
        let ends = self.duration.is_some()
            || self.workload.is_recorded()
            || (file.prompts.is_some() && !file.repeat_prompts)
            || rate.is_some_and(|rate| rate.lasts().is_some());
        Length {
            requests: self.requests.or((!ends).then_some(DEFAULT_REQUESTS)),
            duration: self.duration.map(|it| it.0),
        }
    }

    /// How many records the reports want.
    fn records(&self) -> usize {
        match (&self.csv, &self.json, &self.html) {
            (Some(_), _, _) => usize::MAX,
            (None, Some(_), _) => JSON_RECORDS,
            (None, None, Some(_)) => TIMELINE_RECORDS,
            (None, None, None) => 0,
        }
    }

    fn info(&self, workload: String) -> RunInfo {
        let workers: Vec<String> = self.workers.iter().map(ToString::to_string).collect();
        let recorded = self.workload.is_recorded();
        RunInfo {
            target: format!("simulated cluster of {} workers", workers.join(", ")),
            model: String::new(),
            workload,
            arrival: self.arrival.arrival(recorded).to_string(),
            seed: self.seed,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..RunInfo::default()
        }
    }

    fn write(
        &self,
        info: RunInfo,
        first: Simulated,
        policies: Vec<PolicyPoint>,
    ) -> Result<(), Mistakes> {
        if let Some(file) = &self.csv {
            csv(&first.records, &mut BufWriter::new(File::create(file)?))?;
        }
        if let Some(file) = &self.html {
            let report = Report {
                info: &info,
                figures: &first.figures,
                records: &first.records,
                sweep: &[],
                policies: &policies,
            };
            std::fs::write(file, html(&report))?;
        }
        if let Some(file) = &self.json {
            let all = first.figures.requests.counted + first.figures.requests.warm_up;
            let kept_all = first.records.len() as u64 == all;
            let document = Document {
                info,
                figures: first.figures,
                records: kept_all.then_some(first.records),
                sweep: Vec::new(),
                policies,
            };
            std::fs::write(file, document.to_json())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use clap::{Args as _, Command, FromArgMatches};

    use super::*;

    fn scenario(flags: &str) -> Result<Scenario, Vec<String>> {
        let words = ["simulate"].into_iter().chain(flags.split_whitespace());
        let matches = Args::augment_args(Command::new("simulate")).get_matches_from(words);
        let args = Args::from_arg_matches(&matches).expect("its own flags");
        args.scenario().map_err(|Mistakes(mistakes)| mistakes)
    }

    #[test]
    fn workers_and_faults_come_out_as_they_were_asked_for() {
        let flags = "--workers 2:h100:prefill,3:l40s --join 1:h200@5s --fail 5@10s+1s --leave 0@3s";
        let scenario = scenario(flags).expect("valid");
        assert_eq!(scenario.workers.len(), 5);
        assert_eq!(scenario.faults.len(), 3);
        assert_eq!(scenario.length.requests, Some(DEFAULT_REQUESTS));
    }

    #[test]
    fn all_mistakes_are_told_together() {
        let mistakes = scenario("--workers 1:h1000 --event-loss 1 --fail 7@1s --routers 0");
        assert_eq!(mistakes.expect_err("mistakes").len(), 4);
    }
}
