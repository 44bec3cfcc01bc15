//! The cluster that everything happens to: two routers over workers behind
//! relays.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::parts::{Part, new_runtime, router_over_with, worker};
use crate::relay::Relay;

/// Slow enough to break things in the middle, small enough to evict blocks.
const WORKER: &[&str] = &[
    "--device=sim",
    "--sim-prefill-tokens-per-second=20000",
    "--sim-step-time=4ms",
    "--max-batch-tokens=256",
    "--kv-blocks=400",
    "--transfer-timeout=5s",
];
/// On a machine that is busy with other things, all workers may seem to be gone
/// at once.
const ROUTER: &str = "--worker-wait=20s";
const ROLES: [&str; 4] = ["prefill", "prefill", "decode", "decode"];

pub struct Cluster {
    pub workers: Vec<Member>,
    pub routers: Vec<Gateway>,
}

/// A worker behind its relay.
pub struct Member {
    pub id: String,
    role: &'static str,
    pub relay: Relay,
    /// `None` while it is down.
    part: Option<Part>,
    /// Of its first start; it keeps it.
    pub address: SocketAddr,
}

/// A router, at one address through all its starts.
pub struct Gateway {
    part: Option<Part>,
    pub address: SocketAddr,
    workers: Vec<SocketAddr>,
    /// Ends and starts so far: odd while it is down.
    pub changes: Arc<AtomicU64>,
}

impl Cluster {
    pub fn start() -> Cluster {
        let workers: Vec<Member> = (0..).zip(ROLES).map(Member::start).collect();
        let addresses: Vec<SocketAddr> = workers.iter().map(|it| it.relay.address).collect();
        let gateway = |_| Gateway::start(&addresses);
        let cluster = Cluster {
            routers: (0..2).map(gateway).collect(),
            workers,
        };
        cluster.await_connected();
        cluster
    }

    /// Until every router is connected to every worker.
    pub fn await_connected(&self) {
        let all = self.workers.len() as f64;
        for router in &self.routers {
            router
                .part()
                .wait_for("kvasir_router_connected_workers", |n| n == all);
        }
    }

    /// Drains all, routers first; nobody is late.
    pub fn finish(self) {
        for router in self.routers {
            let mut part = router.part.expect("it runs");
            assert_eq!(part.finish(Duration::from_secs(10)), Ok(()), "a router");
        }
        for worker in self.workers {
            let mut part = worker.part.expect("it runs");
            assert_eq!(
                part.finish(Duration::from_secs(10)),
                Ok(()),
                "{}",
                worker.id
            );
            assert_eq!(worker.relay.finish(), Ok(()), "the relay of {}", worker.id);
        }
    }
}

impl Member {
    fn start((number, role): (usize, &'static str)) -> Member {
        let relay = Relay::start();
        let mut member = Member {
            id: format!("{role}-{number}"),
            role,
            relay,
            part: None,
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
        };
        member.restart();
        member
    }

    pub fn part(&self) -> &Part {
        self.part.as_ref().expect("it runs")
    }

    /// Starts it, if it is down.
    pub fn restart(&mut self) {
        if self.part.is_some() {
            return;
        }
        let listen = format!("--listen={}", self.address);
        let advertise = format!("--advertise={}", self.relay.address);
        let own = ["--id", &self.id, "--role", self.role, &listen, &advertise];
        let part = worker(&[WORKER, &own].concat());
        self.address = part.address;
        self.relay.lead_to(part.address);
        self.part = Some(part);
    }

    pub fn kill(&mut self) {
        self.part = None;
    }

    /// Sequences that do not end within `grace` are cut off.
    pub fn drain(&mut self, grace: Duration) {
        if let Some(mut part) = self.part.take() {
            // Who is late is cut off, which is what is wanted here.
            let _ = part.finish(grace);
        }
    }
}

impl Gateway {
    fn start(workers: &[SocketAddr]) -> Gateway {
        let part = router_over_with(&[ROUTER], workers);
        Gateway {
            address: part.address,
            part: Some(part),
            workers: workers.to_vec(),
            changes: Arc::default(),
        }
    }

    pub fn part(&self) -> &Part {
        self.part.as_ref().expect("it runs")
    }

    pub fn kill(&mut self) {
        self.changes.fetch_add(1, Ordering::SeqCst);
        self.part = None;
    }

    /// Starts it, if it is down.
    pub fn restart(&mut self) {
        if self.part.is_none() {
            let listen = format!("--listen={}", self.address);
            let part = router_over_with(&[ROUTER, &listen], &self.workers);
            new_runtime().block_on(crate::clients::answers(self.address));
            self.part = Some(part);
            self.changes.fetch_add(1, Ordering::SeqCst);
        }
    }
}
