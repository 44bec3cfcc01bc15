//! How many turns may be out: a fixed limit, lowered by leases.

use std::time::Duration;

#[derive(Debug)]
pub(super) struct Capacity {
    most: usize,
    lease: Option<Lease>,
}

/// What was reported, and how long it is believed.
#[derive(Clone, Copy, Debug)]
struct Lease {
    limit: usize,
    valid_until: Duration,
}

impl Capacity {
    pub(super) fn new(most: usize) -> Capacity {
        Capacity { most, lease: None }
    }

    pub(super) fn lease(&mut self, limit: usize, valid_until: Duration) {
        self.lease = Some(Lease { limit, valid_until });
    }

    pub(super) fn limit(&self, now: Duration) -> usize {
        match self.lease {
            Some(lease) if now < lease.valid_until => lease.limit.min(self.most),
            _ => self.most,
        }
    }

    /// Forgets a lease that has ended.
    pub(super) fn advance(&mut self, now: Duration) {
        self.lease = self.lease.filter(|lease| now < lease.valid_until);
    }

    /// When the limit may rise by itself.
    pub(super) fn lease_end(&self) -> Option<Duration> {
        let lease = self.lease.filter(|lease| lease.limit < self.most);
        lease.map(|lease| lease.valid_until)
    }
}
