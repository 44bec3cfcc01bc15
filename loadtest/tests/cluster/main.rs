//! Whole clusters in one process, over real sockets: routing, hand-over,
//! failover, many streams at once.

mod affinity;
mod api;
mod concurrency;
mod explain;
mod failover;
mod harness;
mod herding;
mod limits;
#[path = "../harness/parts.rs"]
#[allow(dead_code, reason = "each test binary uses its share")]
mod parts;
mod split;
mod structured;
