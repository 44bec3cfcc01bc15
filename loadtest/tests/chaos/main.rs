//! Everything breaks, by a seeded random schedule, in one process over real
//! sockets and under load: workers are killed, frozen, slowed, drained, cut off
//! and restarted, their events are delayed, reordered and lost, routers are
//! restarted. Clients notice nothing, and nothing is left behind.

#![allow(clippy::print_stdout, reason = "a test of minutes says what it does")]

mod checks;
mod clients;
mod cluster;
mod faults;
#[path = "../cluster/harness.rs"]
#[allow(dead_code, reason = "each test binary uses its share")]
mod harness;
#[path = "../harness/parts.rs"]
#[allow(dead_code, reason = "each test binary uses its share")]
mod parts;
mod relay;

use std::time::Duration;

use clients::Load;
use cluster::Cluster;
use faults::Schedule;

/// Each fault comes once, then more in random order until the time is up.
fn survive(seed: u64, time: Duration) {
    println!("seed {seed}, {time:?}");
    let mut cluster = Cluster::start();
    let load = Load::start(&cluster);
    Schedule::new(seed).run(&mut cluster, time);
    load.stop().assert_undisturbed();
    checks::nothing_is_held(&cluster);
    checks::indexes_are_true(&cluster);
    cluster.finish();
}

#[test]
fn no_fault_reaches_a_client() {
    survive(1, Duration::from_secs(30));
}

/// `cargo xtask soak` runs it, for a time and from a seed of its own.
#[test]
#[ignore = "takes as long as it is told to"]
fn soak() {
    let number = |name: &str| std::env::var(name).ok()?.parse().ok();
    let seconds = number("KVASIR_SOAK_SECONDS").unwrap_or(600);
    let seed = number("KVASIR_SOAK_SEED").unwrap_or(1);
    survive(seed, Duration::from_secs(seconds));
}
