//! The cluster in virtual time.
//!
//! A discrete-event simulation in which routing runs the router's own view,
//! policies and index, and workers run the engine's own scheduler and block
//! pool with the simulated model's clock. Simulated are the network, the device
//! and who fails when. Deterministic: the same scenario and seed give the same
//! records.

mod active;
mod bound;
mod cluster;
mod peers;
mod policy;
mod profile;
mod prompt;
mod queue;
mod router;
mod saturation;
mod source;
#[cfg(test)]
mod tests;
mod worker;
mod world;

use std::sync::Arc;
use std::time::Duration;

use ::router::admission;
use ::router::plan::Role;

pub use bound::Bound;
pub use cluster::ClusterFigures;
pub use policy::SimPolicy;
pub use profile::{Profile, Profiles};
pub use router::Network;
pub use saturation::{Saturation, saturation};
pub use source::Length;

use crate::arrival::Arrival;
use crate::figures::{Figures, Objectives, Tally};
use crate::planned::Workload;
use crate::record::Record;
use router::Router;
use source::Source;
use world::{Sink, World};

/// What is simulated, but for the policy.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// All of one block size, at least one.
    pub workers: Vec<WorkerSpec>,
    /// Routers that share the requests and no state; at least one.
    pub routers: usize,
    /// How much runs and waits, in all routers together.
    pub admission: admission::Config,
    /// What requests say they want.
    pub told: Told,
    pub network: Network,
    pub faults: Vec<Fault>,
    pub arrival: Arrival,
    /// Times between recorded requests are so many times as long.
    pub stretch: f64,
    pub length: Length,
    /// Requests that are left out of the figures.
    pub warm_up: u64,
    pub seed: u64,
}

/// Objectives that requests carry.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Told {
    pub first_token: Option<Duration>,
    pub inter_token: Option<Duration>,
}

/// A simulated worker.
#[derive(Clone, Debug, PartialEq)]
pub struct WorkerSpec {
    pub profile: Arc<Profile>,
    pub role: Role,
}

/// What befalls the workers, which are counted from 0.
#[derive(Clone, Debug, PartialEq)]
pub enum Fault {
    /// It is gone, with all it had; and back, empty, after a while.
    Fail {
        at: Duration,
        worker: usize,
        back: Option<Duration>,
    },
    Return {
        at: Duration,
        worker: usize,
    },
    /// It takes no more work and finishes what it has.
    Leave {
        at: Duration,
        worker: usize,
    },
    /// A worker more.
    Join {
        at: Duration,
        spec: WorkerSpec,
    },
}

/// What a simulation gave.
#[derive(Clone, Debug)]
pub struct Simulated {
    pub figures: Figures,
    pub cluster: ClusterFigures,
    /// The first of them, as many as were to be kept.
    pub records: Vec<Record>,
    /// Simulated time from the start to the last event.
    pub lasted: Duration,
    pub events: u64,
    pub caveats: Vec<String>,
}

/// What to make of the records.
#[derive(Clone, Debug, Default)]
pub struct Keep {
    pub objectives: Objectives,
    /// Records kept at most.
    pub records: usize,
}

/// Runs `workload` through the cluster of `scenario` under `policy`.
pub fn simulate(
    scenario: &Scenario,
    policy: SimPolicy,
    workload: Box<dyn Workload>,
    keep: &Keep,
) -> Simulated {
    let source = Source::new(workload, scenario);
    let routers = (0..scenario.routers).map(|_| Router::new(policy.make(), scenario.limits()));
    let mut kept = Kept {
        tally: Tally::new(keep.objectives.clone()),
        records: Vec::new(),
        most: keep.records,
    };
    let mut world = World::new(scenario, source, routers.collect(), &mut kept);
    world.run();
    let (lasted, events) = (world.now, world.queue.planned());
    let cluster = ClusterFigures::of(&world, policy);
    let caveats = world.caveats();
    let figures = kept.tally.finish();
    Simulated {
        cluster: cluster.with_hits(&figures),
        figures,
        records: kept.records,
        lasted,
        events,
        caveats,
    }
}

impl Scenario {
    /// Of one router.
    fn limits(&self) -> admission::queue::Limits {
        let all = self.admission.limits();
        admission::queue::Limits {
            max_running: all.max_running.div_ceil(self.routers),
            max_waiting: all.max_waiting.div_ceil(self.routers),
            max_waiting_tokens: all.max_waiting_tokens.div_ceil(self.routers as u64),
            ..all
        }
    }

    fn block_size(&self) -> usize {
        self.workers.first().map_or(16, |it| it.profile.block_size)
    }
}

impl Fault {
    fn at(&self) -> Duration {
        match self {
            Fault::Fail { at, .. }
            | Fault::Return { at, .. }
            | Fault::Leave { at, .. }
            | Fault::Join { at, .. } => *at,
        }
    }
}

struct Kept {
    tally: Tally,
    records: Vec<Record>,
    most: usize,
}

impl Sink for Kept {
    fn record(&mut self, record: Record) {
        self.tally.add(&record);
        if self.records.len() < self.most {
            self.records.push(record);
        }
    }
}
