//! What breaks when.

use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};

use crate::cluster::{Cluster, Member};
use crate::relay::Meddling;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// Ends at once, as by SIGKILL; starts again later.
    Kill,
    /// Silent with all connections up, as by SIGSTOP.
    Freeze,
    /// Each token and block comes late.
    Slow,
    /// All connections break, and can be made again.
    Cut,
    /// Drained for a short time; then the rest is cut off. Starts again.
    Drain,
    DelayEvents,
    ReorderEvents,
    LoseEvents,
    RestartRouter,
}

const FAULTS: [Fault; 9] = [
    Fault::Kill,
    Fault::Freeze,
    Fault::Slow,
    Fault::Cut,
    Fault::Drain,
    Fault::DelayEvents,
    Fault::ReorderEvents,
    Fault::LoseEvents,
    Fault::RestartRouter,
];

/// A random order of faults; equal for equal seeds.
pub struct Schedule {
    random: StdRng,
    /// Each once, before they come at random.
    first: Vec<Fault>,
}

impl Schedule {
    pub fn new(seed: u64) -> Schedule {
        let mut random = StdRng::seed_from_u64(seed);
        let mut first = FAULTS.to_vec();
        first.shuffle(&mut random);
        Schedule { random, first }
    }

    /// Breaks things for `time`, and heals them all in the end.
    pub fn run(&mut self, cluster: &mut Cluster, time: Duration) {
        let begun = Instant::now();
        while begun.elapsed() < time || !self.first.is_empty() {
            let random = FAULTS[self.random.random_range(0..FAULTS.len())];
            let fault = self.first.pop().unwrap_or(random);
            // Two others stay whole, a prefill and a decode worker or not.
            let mut hit: Vec<usize> = (0..cluster.workers.len()).collect();
            hit.shuffle(&mut self.random);
            hit.truncate(self.random.random_range(1..=2));
            let router = self.random.random_range(0..cluster.routers.len());
            let lasts = Duration::from_millis(self.random.random_range(100..3500));
            println!(
                "{:6.1} s: {fault:?} of {hit:?} for {lasts:?}",
                begun.elapsed().as_secs_f64()
            );
            if fault == Fault::RestartRouter {
                cluster.routers[router].kill();
            }
            for &at in &hit {
                fault.strike(&mut cluster.workers[at], &mut self.random);
            }
            std::thread::sleep(lasts);
            for &at in &hit {
                fault.heal(&mut cluster.workers[at]);
            }
            cluster.routers[router].restart();
            let calm = Duration::from_millis(self.random.random_range(0..500));
            std::thread::sleep(calm);
            // Or else the next fault might leave nobody to serve.
            cluster.await_connected();
        }
    }
}

impl Fault {
    fn strike(self, worker: &mut Member, random: &mut StdRng) {
        let milliseconds = |ms: u64| Duration::from_millis(ms);
        let one_of = random.random_range(2..5);
        let meddling = Meddling::default();
        match self {
            Fault::Kill => worker.kill(),
            Fault::Freeze => worker.relay.freeze(),
            Fault::Cut => worker.relay.cut(),
            Fault::Drain => worker.drain(milliseconds(random.random_range(0..300))),
            Fault::Slow => worker.relay.meddle(Meddling {
                slow: milliseconds(random.random_range(10..80)),
                ..meddling
            }),
            Fault::DelayEvents => worker.relay.meddle(Meddling {
                delay: milliseconds(random.random_range(5..300)),
                ..meddling
            }),
            Fault::ReorderEvents => worker.relay.meddle(Meddling {
                swap: one_of,
                ..meddling
            }),
            Fault::LoseEvents => worker.relay.meddle(Meddling {
                lose: one_of,
                ..meddling
            }),
            Fault::RestartRouter => {}
        }
    }

    fn heal(self, worker: &mut Member) {
        match self {
            Fault::Kill | Fault::Drain => worker.restart(),
            Fault::Freeze => worker.relay.thaw(),
            Fault::Cut | Fault::RestartRouter => {}
            Fault::Slow | Fault::DelayEvents | Fault::ReorderEvents | Fault::LoseEvents => {
                worker.relay.meddle(Meddling::default());
            }
        }
    }
}
