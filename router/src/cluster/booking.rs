//! A booking: the right to run one sequence on chosen workers, given back by
//! drop.

use std::sync::Arc;

use metrics::Counter;

use super::Cluster;
use super::explanation::Explanation;
use super::state::WorkerRef;
use crate::admission::Counted;
use crate::metrics::Metrics;

/// Chosen workers, with the sequence's load booked on them.
#[derive(Debug)]
pub struct Booking {
    cluster: Arc<Cluster>,
    id: u64,
    pub decode: WorkerRef,
    /// Computes the prompt's KV for `decode`; `None`: `decode` does so itself.
    pub prefill: Option<WorkerRef>,
    /// If the sequence's client wants to know.
    pub explanation: Option<Arc<Explanation>>,
    _counted: Counted,
}

impl Booking {
    pub(super) fn new(
        cluster: Arc<Cluster>,
        id: u64,
        (decode, prefill): (WorkerRef, Option<WorkerRef>),
        explanation: Option<Arc<Explanation>>,
        metrics: Arc<Metrics>,
    ) -> Booking {
        let planned: &Counter = match prefill {
            Some(_) => &metrics.planned_split,
            None => &metrics.planned_undivided,
        };
        planned.increment(1);
        Booking {
            cluster,
            id,
            decode,
            prefill,
            explanation,
            _counted: Counted::up(&metrics.bookings),
        }
    }

    /// `worker` has accepted its call, as the sequence of that number: once its
    /// reports include it, they count instead of the booking.
    pub fn accepted(&self, worker: &WorkerRef, number: u64) {
        self.cluster.state().accepted(self.id, worker.slot, number);
    }
}

impl Drop for Booking {
    fn drop(&mut self) {
        self.cluster.release(self.id);
    }
}
