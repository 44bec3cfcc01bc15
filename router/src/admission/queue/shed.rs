//! What is said to who is turned away.

use std::time::Duration;

use super::Band;

/// Why, and when to come back.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shed {
    pub reason: Reason,
    pub band: Band,
    /// From the rate at which the queue drains, counting those told before.
    pub retry_after: Duration,
    /// The workers reported that they take nothing at all.
    pub no_capacity: bool,
}

/// Why a request is turned away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    QueueFull,
    /// The queue is full, and most of what waits is this tenant's.
    OverShare,
    /// It waited, and its place went to a more urgent request or to a tenant
    /// with less in the queue.
    Displaced,
    /// The queue drains too slowly for its deadline.
    OutOfReach,
    /// Its deadline passed.
    DeadlinePassed,
    WaitedTooLong,
}

impl Reason {
    pub const ALL: [Reason; 6] = [
        Reason::QueueFull,
        Reason::OverShare,
        Reason::Displaced,
        Reason::OutOfReach,
        Reason::DeadlinePassed,
        Reason::WaitedTooLong,
    ];
}
