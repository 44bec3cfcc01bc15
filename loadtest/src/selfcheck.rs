//! What the generator itself can do on this machine, measured against the
//! built-in server: the ground below every other measurement.

use std::fmt;
use std::time::Duration;

use runtime::Lifecycle;
use tokio_util::sync::CancellationToken;

use crate::client::Target;
use crate::generator::{GeneratorHealth, Limits, Pace, RunError, RunPlan, RunResult, run};
use crate::null_server::{Script, ScriptedServer};
use crate::planned::{ChatMessage, Output, PlannedRequest, Prompt, Turn, Workload};
use crate::record::{Outcome, Record};

/// How long and how hard to try.
#[derive(Clone, Debug)]
pub struct SelfCheckPlan {
    /// Of each of the four measurements.
    pub duration: Duration,
    pub concurrency: usize,
    /// Chunks of a streamed answer.
    pub chunks: u32,
    /// Requests per second of the open loop.
    pub rate: f64,
    /// Cancelled: the measurement under way is cut short, and the rest left out.
    pub stop: CancellationToken,
}

/// What was measured.
#[derive(Clone, Debug)]
pub struct SelfCheck {
    /// Closed loop, answers not streamed, per second.
    pub requests_per_second: f64,
    /// Closed loop, streamed answers whose chunks arrive together, per second:
    /// what reading them costs.
    pub chunks_per_second: f64,
    /// The same with every chunk sent alone, as engines do: sending and receiving
    /// count as well.
    pub single_chunks_per_second: f64,
    /// Of the open loop: as asked for, and as sent.
    pub rate: f64,
    pub rate_sent: f64,
    pub health: GeneratorHealth,
    /// From scheduled to answered in the open loop: client and server together.
    pub latency_p50: Duration,
    pub latency_p99: Duration,
    /// Answers that were not as asked for, to the last chunk; a sound machine
    /// has none.
    pub failed: usize,
    /// Requests that the server counted more or less than were recorded: not 0
    /// means that the figures above are wrong.
    pub unaccounted: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum SelfCheckError {
    #[error("the built-in server can't start: {0}")]
    Server(#[from] std::io::Error),
    #[error(transparent)]
    Run(#[from] RunError),
}

/// What is measured against.
struct Servers {
    fast: ScriptedServer,
    one_by_one: ScriptedServer,
}

/// The runs of a check, as they were.
struct Runs {
    whole: RunResult,
    streamed: RunResult,
    single: RunResult,
    open: RunResult,
}

/// The same small request over and over.
pub(crate) struct Repeat {
    next: u64,
    output: Output,
}

impl Repeat {
    pub(crate) fn of(output: Output) -> Repeat {
        Repeat { next: 0, output }
    }
}

impl Default for SelfCheckPlan {
    fn default() -> SelfCheckPlan {
        SelfCheckPlan {
            duration: Duration::from_secs(3),
            concurrency: 64,
            chunks: 128,
            rate: 2000.0,
            stop: CancellationToken::new(),
        }
    }
}

/// Measures in a life of its own within `life`.
pub async fn selfcheck(life: &Lifecycle, plan: SelfCheckPlan) -> Result<SelfCheck, SelfCheckError> {
    let own = life.child();
    let servers = Servers {
        fast: ScriptedServer::start(&own, Script::default()).await?,
        one_by_one: ScriptedServer::start(&own, one_by_one()).await?,
    };
    let measured = measure(&servers, &plan).await;
    own.stop();
    measured
}

fn one_by_one() -> Script {
    Script {
        one_by_one: true,
        ..Script::default()
    }
}

async fn measure(servers: &Servers, plan: &SelfCheckPlan) -> Result<SelfCheck, SelfCheckError> {
    let server = &servers.fast;
    let closed = || Pace::Closed {
        concurrency: plan.concurrency,
    };
    let whole = one(server, plan, closed(), None).await?;
    let streamed = one(server, plan, closed(), Some(plan.chunks)).await?;
    let single = one(&servers.one_by_one, plan, closed(), Some(plan.chunks)).await?;
    let gap = 1.0 / plan.rate.max(1e-3);
    let offsets = (0..).map(move |number: u64| Duration::from_secs_f64(number as f64 * gap));
    let open = one(server, plan, Pace::Open(Box::new(offsets)), None).await?;

    let runs = Runs {
        whole,
        streamed,
        single,
        open,
    };
    let counted = server.requests() + servers.one_by_one.requests();
    let recorded = runs.recorded();
    let measured = SelfCheck::of(runs, plan);
    Ok(SelfCheck {
        // What was cut short may not have reached the server.
        unaccounted: match plan.stop.is_cancelled() {
            true => 0,
            false => counted.abs_diff(recorded),
        },
        ..measured
    })
}

/// One measurement; `chunks`: streamed, and of so many.
async fn one(
    server: &ScriptedServer,
    plan: &SelfCheckPlan,
    pace: Pace,
    chunks: Option<u32>,
) -> Result<RunResult, RunError> {
    let mut target = Target::new(&server.url(), "null");
    target.stream = chunks.is_some();
    let workload = Repeat::of(Output {
        max_tokens: chunks.unwrap_or(1),
        exact: true,
    });
    let limits = Limits {
        duration: Some(plan.duration),
        ..Limits::default()
    };
    let run_plan = RunPlan {
        pace,
        limits,
        stop: plan.stop.clone(),
        ..RunPlan::new(target)
    };
    run(run_plan, Box::new(workload)).await
}

impl Runs {
    fn recorded(&self) -> u64 {
        let runs = [&self.whole, &self.streamed, &self.single, &self.open];
        runs.iter().map(|it| it.records.len() as u64).sum()
    }
}

impl SelfCheck {
    /// Of what was recorded alone.
    fn of(runs: Runs, plan: &SelfCheckPlan) -> SelfCheck {
        let open = runs.open.records.iter();
        let mut latencies: Vec<_> = open.map(|it| it.ended - it.scheduled).collect();
        latencies.sort_unstable();
        let at = |share: f64| {
            let index = (latencies.len() as f64 * share) as usize;
            latencies.get(index).copied().unwrap_or_default()
        };
        let chunks = plan.chunks as usize;
        SelfCheck {
            requests_per_second: per_second(&runs.whole, |_| 1),
            chunks_per_second: per_second(&runs.streamed, |it| it.chunks.len()),
            single_chunks_per_second: per_second(&runs.single, |it| it.chunks.len()),
            rate: plan.rate,
            rate_sent: per_second(&runs.open, |_| 1),
            latency_p50: at(0.5),
            latency_p99: at(0.99),
            failed: wrong(&runs.whole, 1)
                + wrong(&runs.streamed, chunks)
                + wrong(&runs.single, chunks)
                + wrong(&runs.open, 1),
            unaccounted: 0,
            health: runs.open.health,
        }
    }
}

fn per_second(run: &RunResult, count: impl Fn(&Record) -> usize) -> f64 {
    let all: usize = run.records.iter().map(count).sum();
    all as f64 / run.duration.as_secs_f64().max(1e-9)
}

/// Answers that are not whole, or not of `chunks` chunks.
fn wrong(run: &RunResult, chunks: usize) -> usize {
    let is_wrong = |it: &&Record| match it.outcome {
        Outcome::Complete => it.chunks.len() != chunks,
        Outcome::Unfinished => false,
        _ => true,
    };
    run.records.iter().filter(is_wrong).count()
}

impl Workload for Repeat {
    fn next(&mut self) -> Option<PlannedRequest> {
        let number = self.next;
        self.next += 1;
        let message = ChatMessage {
            role: "user",
            content: "Say something.".to_owned(),
        };
        Some(PlannedRequest {
            number,
            recorded_at: None,
            turn: None,
            prompt: Prompt::Chat(vec![message]),
            prompt_tokens: None,
            output: self.output,
            tenant: None,
            priority: None,
        })
    }

    fn next_turn(&mut self, _after: Turn, _answer: &str) -> Option<PlannedRequest> {
        None
    }

    fn len_hint(&self) -> Option<u64> {
        None
    }
}

impl fmt::Display for SelfCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut row = |name: &str, value: String| writeln!(f, "{name:<48}{value:>16}");
        let ms = |it: Duration| format!("{:.3} ms", it.as_secs_f64() * 1000.0);
        row(
            "not streamed, closed loop",
            format!("{:.0} requests/s", self.requests_per_second),
        )?;
        row(
            "streamed, chunks sent together, closed loop",
            format!("{:.0} chunks/s", self.chunks_per_second),
        )?;
        row(
            "streamed, each chunk sent alone, closed loop",
            format!("{:.0} chunks/s", self.single_chunks_per_second),
        )?;
        let asked = format!("open loop at {:.0} requests/s: sent", self.rate);
        row(&asked, format!("{:.0} requests/s", self.rate_sent))?;
        row(
            "  the generator's own delay, p50",
            ms(self.health.delay_p50),
        )?;
        row(
            "  the generator's own delay, p99",
            ms(self.health.delay_p99),
        )?;
        row(
            "  the generator's own delay, max",
            ms(self.health.delay_max),
        )?;
        row(
            "  latency with the built-in server, p50",
            ms(self.latency_p50),
        )?;
        row(
            "  latency with the built-in server, p99",
            ms(self.latency_p99),
        )?;
        row("answers not as asked for", self.failed.to_string())?;
        row(
            "requests the server counted otherwise",
            self.unaccounted.to_string(),
        )?;
        let faults = self.health.faults.iter();
        faults
            .into_iter()
            .try_for_each(|it| writeln!(f, "not sound: {it}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn measures_all_without_a_fault_in_an_answer() {
        let life = Lifecycle::new();
        let plan = SelfCheckPlan {
            duration: Duration::from_millis(300),
            rate: 200.0,
            ..SelfCheckPlan::default()
        };
        let measured = selfcheck(&life, plan).await.unwrap();
        println!("{measured}");
        assert_eq!((measured.failed, measured.unaccounted), (0, 0));
        assert!(measured.requests_per_second > 0.0);
        assert!(measured.chunks_per_second > 0.0);
        assert!(measured.single_chunks_per_second > 0.0);
        let sent = measured.rate_sent;
        assert!((150.0..250.0).contains(&sent), "{sent}");
        assert_eq!(
            measured.to_string().lines().count(),
            11 + measured.health.faults.len()
        );
        assert!(life.finish(Duration::from_secs(5)).await.is_ok());
    }
}
