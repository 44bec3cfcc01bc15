//! Whether what is reported is what happened: a run against the built-in server
//! with every delay and fault scripted, each figure held against what the server
//! did: its script, but for a machine that lets neither server nor client run in
//! time, which the server's own clock shows.
//!
//! What script and server amount to is computed here by sorting, and by none of
//! the code that computes figures.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use runtime::Lifecycle;
use tokio_util::sync::CancellationToken;

use crate::client::Target;
use crate::figures::{Figures, Metric, Objectives, Statistic};
use crate::generator::{GeneratorHealth, Limits, Pace, RunPlan, run};
use crate::null_server::{Fault, Script, ScriptedServer, SendLog, SentStream};
use crate::planned::Output;
use crate::report::{Grid, decimal};
use crate::selfcheck::{Repeat, SelfCheckError};

/// The script, and how many requests play it.
#[derive(Clone, Debug)]
pub struct AccuracyPlan {
    pub requests: u64,
    /// Requests per second.
    pub rate: f64,
    /// Of an answer; at least 2.
    pub tokens: u32,
    pub first_token: Duration,
    /// Requests wait up to so much longer for their first token, each time
    /// between as often.
    pub spread: Duration,
    pub between_tokens: Duration,
    pub stop: CancellationToken,
}

/// Every figure beside what the script amounts to.
#[derive(Clone, Debug, PartialEq)]
pub struct Accuracy {
    pub latencies: Vec<Compared>,
    /// Requests by how they ended: as scripted, and as reported.
    pub endings: BTreeMap<String, (u64, u64)>,
    pub health: GeneratorHealth,
}

/// A latency in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Compared {
    pub metric: Metric,
    pub statistic: Statistic,
    pub scripted: f64,
    /// By the server's clock.
    pub sent: f64,
    pub reported: f64,
}

/// A figure may differ by the larger of the two.
const TOLERANCE_SHARE: f64 = 0.02;
const TOLERANCE_MS: f64 = 1.0;

/// Waits differ in so many steps; prime to [`STRIDE`].
const STEPS: u64 = 1000;

/// From a request to the next, so that no two near each other wait alike.
const STRIDE: u64 = 617;

impl Default for AccuracyPlan {
    /// As users see it: 50 ms to the first token and up to 200 ms more, 20 ms
    /// between tokens.
    fn default() -> AccuracyPlan {
        AccuracyPlan {
            requests: 3000,
            rate: 100.0,
            tokens: 32,
            first_token: Duration::from_millis(50),
            spread: Duration::from_millis(200),
            between_tokens: Duration::from_millis(20),
            stop: CancellationToken::new(),
        }
    }
}

/// Measures in a life of its own within `life`.
pub async fn accuracy(life: &Lifecycle, plan: AccuracyPlan) -> Result<Accuracy, SelfCheckError> {
    let own = life.child();
    let log = Arc::new(SendLog::default());
    let script = Script {
        log: Some(log.clone()),
        ..plan.script()
    };
    let server = ScriptedServer::start(&own, script).await?;
    let gap = 1.0 / plan.rate.max(1e-3);
    let offsets = (0..).map(move |number: u64| Duration::from_secs_f64(number as f64 * gap));
    let run_plan = RunPlan {
        pace: Pace::Open(Box::new(offsets)),
        limits: Limits {
            requests: Some(plan.requests),
            ..Limits::default()
        },
        stop: plan.stop.clone(),
        ..RunPlan::new(Target::new(&server.url(), "null"))
    };
    let workload = Repeat::of(Output {
        max_tokens: plan.tokens,
        exact: true,
    });
    let result = run(run_plan, Box::new(workload)).await;
    own.stop();
    let result = result?;
    let figures = Figures::of(&result.records, &Objectives::default());
    Ok(Accuracy {
        health: result.health,
        ..plan.compare(&log.take(), &figures)
    })
}

impl AccuracyPlan {
    fn script(&self) -> Script {
        let (waits, faults) = (self.clone(), self.clone());
        Script {
            first_token: self.first_token,
            between_tokens: self.between_tokens,
            wait: Some(Arc::new(move |number| waits.wait(number))),
            fault: Some(Arc::new(move |number| faults.fault(number))),
            one_by_one: true,
            ..Script::default()
        }
    }

    /// Beside `first_token`.
    fn wait(&self, number: u64) -> Duration {
        self.spread
            .mul_f64((number * STRIDE % STEPS) as f64 / STEPS as f64)
    }

    /// One in a hundred fails, and one is cut in the middle.
    fn fault(&self, number: u64) -> Option<Fault> {
        match number % 100 {
            17 => Some(Fault::Status(503)),
            59 => Some(Fault::Cut {
                after: self.tokens / 2,
            }),
            _ => None,
        }
    }

    fn compare(&self, sent: &[SentStream], figures: &Figures) -> Accuracy {
        let (scripted, sent) = (self.scripted(), Times::of_sent(self, sent));
        let mut latencies = Vec::new();
        for ((metric, scripted), (_, sent)) in scripted.sorted().iter().zip(&sent.sorted()) {
            let reported = figures.latency.of(*metric);
            latencies.extend(Statistic::ALL.map(|statistic| Compared {
                metric: *metric,
                statistic,
                scripted: at(scripted, statistic),
                sent: at(sent, statistic),
                reported: reported.get(statistic),
            }));
        }
        let mut endings = BTreeMap::<String, (u64, u64)>::new();
        for number in 0..self.requests {
            let (kind, _) = self.ending(number);
            endings.entry(kind.to_owned()).or_default().0 += 1;
        }
        for (kind, count) in &figures.requests.outcomes {
            endings.entry(kind.clone()).or_default().1 = *count;
        }
        Accuracy {
            latencies,
            endings,
            health: GeneratorHealth::default(),
        }
    }

    /// How the request of a number ends, and the tokens it gets.
    fn ending(&self, number: u64) -> (&'static str, u32) {
        match self.fault(number) {
            Some(Fault::Cut { after }) => ("cut_stream", after),
            Some(_) => ("status_503", 0),
            None => ("complete", self.tokens),
        }
    }

    fn scripted(&self) -> Times {
        let mut times = Times::default();
        for number in 0..self.requests {
            let first = self.first_token + self.wait(number);
            let (_, tokens) = self.ending(number);
            times.add(self, (0..tokens).map(|it| first + self.between_tokens * it));
        }
        times
    }
}

/// What streams amount to, in milliseconds.
#[derive(Default)]
struct Times {
    ttft: Vec<f64>,
    itl: Vec<f64>,
    tpot: Vec<f64>,
    e2e: Vec<f64>,
}

impl Times {
    fn of_sent(plan: &AccuracyPlan, sent: &[SentStream]) -> Times {
        let mut times = Times::default();
        for stream in sent {
            let since = |it: &Instant| it.saturating_duration_since(stream.arrived);
            times.add(plan, stream.tokens.iter().map(since));
        }
        times
    }

    /// A stream whose tokens come at times after its request.
    fn add(&mut self, plan: &AccuracyPlan, tokens: impl Iterator<Item = Duration>) {
        let tokens: Vec<f64> = tokens.map(|it| it.as_secs_f64() * 1e3).collect();
        let (Some(first), Some(last)) = (tokens.first(), tokens.last()) else {
            return;
        };
        self.ttft.push(*first);
        self.itl.extend(tokens.windows(2).map(|it| it[1] - it[0]));
        if tokens.len() == plan.tokens as usize {
            let gaps = plan.tokens.saturating_sub(1).max(1);
            self.tpot.push((last - first) / f64::from(gaps));
            self.e2e.push(*last);
        }
    }

    fn sorted(self) -> [(Metric, Vec<f64>); 4] {
        let times = [
            (Metric::Ttft, self.ttft),
            (Metric::Itl, self.itl),
            (Metric::Tpot, self.tpot),
            (Metric::E2e, self.e2e),
        ];
        times.map(|(metric, mut times)| {
            times.sort_unstable_by(f64::total_cmp);
            (metric, times)
        })
    }
}

/// By nearest rank; 0 of nothing.
fn at(times: &[f64], statistic: Statistic) -> f64 {
    let count = times.len().max(1) as f64;
    let Some(quantile) = statistic.quantile() else {
        return times.iter().sum::<f64>() / count;
    };
    // A billionth is the rounding of the product, not a rank.
    let rank = (quantile * count - 1e-9).ceil().max(1.0) as usize;
    times.get(rank - 1).copied().unwrap_or(0.0)
}

impl Compared {
    pub fn is_within(&self) -> bool {
        let allowed = (self.scripted * TOLERANCE_SHARE).max(TOLERANCE_MS);
        (self.reported - self.sent).abs() <= allowed
    }
}

impl Accuracy {
    /// Every latency is within 2% or 1 ms of what the server did, and every count exact.
    pub fn is_within(&self) -> bool {
        let exact = self.endings.values().all(|it| it.0 == it.1);
        exact && self.latencies.iter().all(Compared::is_within)
    }
}

impl fmt::Display for Accuracy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut grid = Grid::new(["", "", "scripted", "sent", "reported", "difference", ""]);
        for it in &self.latencies {
            grid.row([
                it.metric.title().to_owned(),
                format!("{} ms", it.statistic.name()),
                decimal(it.scripted, 3),
                decimal(it.sent, 3),
                decimal(it.reported, 3),
                decimal(it.reported - it.sent, 3),
                if it.is_within() { "" } else { "OFF" }.to_owned(),
            ]);
        }
        for (kind, (scripted, reported)) in &self.endings {
            grid.row([
                "requests".to_owned(),
                kind.clone(),
                scripted.to_string(),
                String::new(),
                reported.to_string(),
                decimal(*reported as f64 - *scripted as f64, 0),
                if scripted == reported { "" } else { "OFF" }.to_owned(),
            ]);
        }
        write!(f, "{grid}")?;
        let faults = self.health.faults.iter();
        faults
            .into_iter()
            .try_for_each(|it| writeln!(f, "not sound: {it}"))
    }
}
