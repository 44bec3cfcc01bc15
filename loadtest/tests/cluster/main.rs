//! Whole clusters in one process, over real sockets: routing, hand-over,
//! failover, many streams at once.

mod affinity;
mod concurrency;
mod failover;
mod harness;
mod split;
