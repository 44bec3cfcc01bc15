//! Drives a workload against an endpoint and records everything that happens.
//!
//! A *feed* thread plans and encodes requests ahead of time; a *pacer* thread
//! says when one is due, to some tens of microseconds; a *lane* on each core
//! sends them on an event loop of its own. Whatever delay is the generator's own
//! is measured, and a run in which it was too long is marked.

mod feed;
mod health;
mod lane;
mod pacer;
mod progress;
mod tally;
mod threads;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio_util::sync::CancellationToken;

use crate::client::{Endpoint, Target, TargetError};
use crate::planned::Workload;
use crate::record::Record;
pub use health::{GeneratorHealth, HealthLimits};
pub(crate) use pacer::Pacer;
pub use progress::Display;
use progress::{Goal, Progress};
use threads::Threads;

/// From the start of the threads to the start of the run: time to plan and
/// encode the first requests.
const LEAD_IN: Duration = Duration::from_millis(100);

/// What to do, beside the requests themselves.
pub struct RunPlan {
    pub target: Target,
    pub pace: Pace,
    pub limits: Limits,
    pub warm_up: WarmUp,
    /// Connections open at a time, at most. In an open loop a request that finds
    /// none free waits, and the wait counts in its latency.
    pub connections: usize,
    /// From when a request has a connection or asks for one to the end of its
    /// answer.
    pub time_limit: Duration,
    pub health: HealthLimits,
    pub display: Display,
    /// Cancelled: the run ends now, and what is under way is unfinished.
    pub stop: CancellationToken,
}

/// When requests are sent.
pub enum Pace {
    /// Open loop: at these times from the start of the run, in order, whatever
    /// the server does. The run ends with them.
    Open(Box<dyn Iterator<Item = Duration> + Send>),
    /// Open loop: when the workload's requests say that they were recorded.
    Recorded,
    /// So many users, each of whom sends a request when the one before is
    /// answered; a user stays with a conversation until it is over.
    Closed { concurrency: usize },
}

/// When a run ends, if the workload does not end before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Requests sent, turns of conversations counted.
    pub requests: Option<u64>,
    /// Nothing that is due after it is sent.
    pub duration: Option<Duration>,
    /// After `duration`, so long may what was due before it take.
    pub grace: Duration,
}

/// The first requests, whose records are marked: those before either.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WarmUp {
    /// Numbers below it.
    pub requests: u64,
    /// Scheduled before it.
    pub duration: Duration,
}

#[derive(Clone, Debug)]
pub struct RunResult {
    /// Of every request that was launched, by number.
    pub records: Vec<Record>,
    /// What a report must say of the requests.
    pub caveats: Vec<String>,
    pub health: GeneratorHealth,
    pub started_at: SystemTime,
    /// From the start to the end of the last request.
    pub duration: Duration,
    /// It was stopped before its time.
    pub stopped: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    Target(#[from] TargetError),
    #[error("a thread can't be started ({0}): raise the limit of threads and open files")]
    Thread(#[from] std::io::Error),
    #[error("a thread of the generator ended too soon: this is a defect, report it")]
    Lost,
    #[error("{0} must be at least 1")]
    Zero(&'static str),
}

impl RunPlan {
    /// One request at a time until the workload ends, without limits.
    pub fn new(target: Target) -> RunPlan {
        RunPlan {
            target,
            pace: Pace::Closed { concurrency: 1 },
            limits: Limits::default(),
            warm_up: WarmUp::default(),
            connections: 4096,
            time_limit: Duration::from_secs(600),
            health: HealthLimits::default(),
            display: Display::Off,
            stop: CancellationToken::new(),
        }
    }

    fn check(&self) -> Result<(), RunError> {
        if self.connections == 0 {
            return Err(RunError::Zero("connections"));
        }
        match self.pace {
            Pace::Closed { concurrency: 0 } => Err(RunError::Zero("concurrency")),
            _ => Ok(()),
        }
    }
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            requests: None,
            duration: None,
            grace: Duration::from_secs(30),
        }
    }
}

/// Sends what `workload` plans until it, or a limit, ends.
pub async fn run(plan: RunPlan, workload: Box<dyn Workload>) -> Result<RunResult, RunError> {
    plan.check()?;
    let endpoint = Arc::new(Endpoint::resolve(&plan.target).await?);
    let goal = Goal {
        requests: plan
            .limits
            .requests
            .into_iter()
            .chain(workload.len_hint())
            .min(),
        duration: plan.limits.duration,
    };
    let display = plan.display;
    let (limits, stop, health) = (plan.limits, plan.stop.clone(), plan.health);
    let is_closed = matches!(plan.pace, Pace::Closed { .. });
    let start = Instant::now() + LEAD_IN;
    let started_at = SystemTime::now() + LEAD_IN;
    let mut threads = Threads::start(plan, endpoint, workload, start)?;
    let mut progress = Progress::new(display, goal, start);

    let mut ticks = tokio::time::interval(progress.period());
    let deadline = limits
        .duration
        .map(|it| tokio::time::Instant::from_std(start + it));
    let over = async {
        match deadline {
            Some(deadline) => tokio::time::sleep_until(deadline).await,
            None => std::future::pending().await,
        }
        // An open loop plans nothing beyond it; what was due before and is late
        // is still sent.
        if is_closed {
            threads.closing.cancel();
        }
        tokio::time::sleep(limits.grace).await;
        threads.closing.cancel();
        threads.ending.cancel();
        std::future::pending().await
    };
    let finished = {
        let mut over = std::pin::pin!(over);
        let lanes = futures::future::join_all(threads.lanes.iter_mut());
        let mut lanes = std::pin::pin!(lanes);
        loop {
            tokio::select! {
                finished = &mut lanes => break finished,
                () = stop.cancelled(), if !threads.ending.is_cancelled() => {
                    threads.closing.cancel();
                    threads.ending.cancel();
                }
                () = &mut over => {}
                _ = ticks.tick() => progress.show(&threads.tallies),
            }
        }
    };
    progress.finish(&threads.tallies);
    let caveats = match threads.caveats.take() {
        Some(caveats) => caveats.await.map_err(|_| RunError::Lost)?,
        None => Vec::new(),
    };
    let mut records = Vec::new();
    let mut delays = health::Delays::default();
    for lane in finished {
        let lane = lane.map_err(|_| RunError::Lost)?;
        records.extend(lane.records);
        delays.merge(&lane.delays);
    }
    records.sort_by_key(|it| it.number);
    Ok(RunResult {
        duration: records.iter().map(|it| it.ended).max().unwrap_or_default(),
        health: delays.judge(health),
        records,
        caveats,
        started_at,
        stopped: stop.is_cancelled(),
    })
}

#[cfg(test)]
mod tests;
