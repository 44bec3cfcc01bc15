//! What a cluster gets through at most, and rates that are a share of it.
//!
//! At its limit is a cluster in which every worker always has [`IN_FLIGHT`]
//! requests: a closed loop.

use std::time::Duration;

use super::source::{Length, Source};
use super::world::{Sink, World};
use super::{Router, Scenario, SimPolicy};
use crate::arrival::{Arrival, Gaps, OpenLoop, Rate};
use crate::planned::Workload;
use crate::record::Record;

/// For each worker.
const IN_FLIGHT: u32 = 64;

/// A cluster at its limit under one workload and policy.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Saturation {
    /// Of requests.
    pub per_second: f64,
    /// Requests for each that follows no answer: the turns of a conversation.
    turns: f64,
    /// Recorded requests per second; `None` if no times are recorded.
    recorded: Option<f64>,
}

/// Runs `workload` as fast as the cluster of `scenario` answers it, which
/// neither fails nor changes. `None` if too few requests are answered to tell.
pub fn saturation(
    scenario: &Scenario,
    policy: SimPolicy,
    workload: Box<dyn Workload>,
) -> Option<Saturation> {
    let users = IN_FLIGHT.saturating_mul(scenario.workers.len() as u32);
    let busy = Scenario {
        arrival: Arrival::Closed { concurrency: users },
        faults: Vec::new(),
        length: Length {
            duration: None,
            ..scenario.length
        },
        ..scenario.clone()
    };
    let source = Source::new(workload, &busy);
    let routers = (0..busy.routers).map(|_| Router::new(policy.make(), busy.limits()));
    let mut ends = Ends::default();
    let mut world = World::new(&busy, source, routers.collect(), &mut ends);
    world.run();
    let recorded = world.source.recorded_rate();
    Some(Saturation {
        per_second: ends.rate()?,
        turns: ends.times.len() as f64 / ends.starts.max(1) as f64,
        recorded,
    })
}

impl Scenario {
    /// Arrivals at a share `load` of the cluster's limit: of a trace, its times
    /// stretched; else at that rate.
    pub fn at_load(&self, load: f64, limit: &Saturation) -> Scenario {
        let per_second = load * limit.per_second;
        let mut scenario = self.clone();
        match (&self.arrival, limit.recorded) {
            (Arrival::Recorded, Some(recorded)) => scenario.stretch = recorded / per_second,
            (arrival, _) => {
                let gaps = match arrival {
                    Arrival::Open(open) => open.gaps,
                    _ => Gaps::Exponential,
                };
                if let Some(rate) = Rate::constant(per_second / limit.turns) {
                    scenario.arrival = Arrival::Open(OpenLoop { rate, gaps });
                }
            }
        }
        scenario
    }
}

/// When answers ended.
#[derive(Default)]
struct Ends {
    times: Vec<Duration>,
    starts: u64,
}

impl Sink for Ends {
    fn record(&mut self, record: Record) {
        self.times.push(record.ended);
        self.starts += u64::from(record.turn.is_none_or(|(_, number)| number == 0));
    }
}

impl Ends {
    /// Of the middle half: before, caches are empty and all begin at once; after,
    /// the last requests leave workers idle.
    fn rate(&self) -> Option<f64> {
        let count = self.times.len();
        let (from, to) = (count / 4, count * 3 / 4);
        let time = self.times.get(to)?.saturating_sub(self.times[from]);
        (!time.is_zero()).then(|| (to - from) as f64 / time.as_secs_f64())
    }
}
