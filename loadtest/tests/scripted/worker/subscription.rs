//! What a scripted worker says on a subscription.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use futures::channel::mpsc;
use proto::worker as pb;
use proto::worker::worker_event::Event;
use tonic::Status;

use super::lock;

/// A subscription that the router made, answered by the test.
#[derive(Clone, Debug)]
pub struct Subscription {
    /// Epoch and number of the last event that the router has.
    pub position: (u64, u64),
    pub at: Instant,
    pub(super) epoch: u64,
    /// The last status told, and its number: what a heartbeat repeats.
    pub(super) told: Arc<Mutex<(u64, pb::Status)>>,
    pub(super) events_tx: mpsc::UnboundedSender<Result<pb::WorkerEvent, Status>>,
}

impl Subscription {
    /// Its events are said to be of another epoch.
    pub fn of_epoch(self, epoch: u64) -> Subscription {
        Subscription { epoch, ..self }
    }

    /// All blocks that the worker holds.
    pub fn snapshot(&self, seq: u64, hashes: &[u64]) {
        self.snapshot_part(seq, hashes, (true, true));
    }

    pub fn snapshot_part(&self, seq: u64, hashes: &[u64], (first, last): (bool, bool)) {
        let stored = vec![stored(hashes)];
        self.send(
            seq,
            Event::Snapshot(pb::Snapshot {
                first,
                last,
                stored,
            }),
        );
    }

    pub fn stored(&self, seq: u64, hashes: &[u64]) {
        self.send(seq, Event::Stored(stored(hashes)));
    }

    pub fn removed(&self, seq: u64, hashes: &[u64]) {
        let hashes = hashes.to_vec();
        self.send(
            seq,
            Event::Removed(pb::BlocksRemoved {
                hashes,
                ..Default::default()
            }),
        );
    }

    pub fn cleared(&self, seq: u64) {
        self.send(seq, Event::Cleared(pb::BlocksCleared {}));
    }

    pub fn idle(&self, seq: u64) {
        self.status(seq, idle(0));
    }

    pub fn status(&self, seq: u64, status: pb::Status) {
        *lock(&self.told) = (seq, status);
        self.send(seq, Event::Status(status));
    }

    pub(super) fn heartbeat(&self) {
        let (seq, status) = *lock(&self.told);
        self.send(seq, Event::Status(status));
    }

    /// The stream breaks.
    pub fn cut(&self) {
        let broken = Status::unavailable("cut by the script");
        // Fails only when the router has left, which is as well.
        let _ = self.events_tx.unbounded_send(Err(broken));
    }

    fn send(&self, seq: u64, event: Event) {
        let event = pb::WorkerEvent {
            epoch: self.epoch,
            seq,
            event: Some(event),
        };
        let _ = self.events_tx.unbounded_send(Ok(event));
    }
}

/// Nothing to do but for a queue of so many tokens.
pub fn idle(queued_prefill_tokens: u64) -> pb::Status {
    pb::Status {
        queued_prefill_tokens,
        total_blocks: 1000,
        free_blocks: 1000,
        ..pb::Status::default()
    }
}

/// Takes no new work.
pub fn draining() -> pb::Status {
    pb::Status {
        draining: true,
        ..idle(0)
    }
}

fn stored(hashes: &[u64]) -> pb::BlocksStored {
    pb::BlocksStored {
        parent: 0,
        hashes: hashes.to_vec(),
        ..Default::default()
    }
}
