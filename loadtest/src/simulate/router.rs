//! A simulated router: the real view, policy and event feeds.

use std::time::Duration;

use kvcache_index::feed::Verdict;
use kvcache_index::{Feed, KvEvent, WorkerSlot};
use router::admission::Lead;
use router::admission::queue::{Limits, Queue};
use router::cluster::view::{Excluded, Member, Placed, Report, View};
use router::plan::{Ask, Policy};

/// What a router learns of a worker.
#[derive(Debug)]
pub(super) enum Notice {
    /// It is there, empty.
    Up(Member),
    /// It takes no more work.
    Leaving,
    /// The connection is gone.
    Down,
    Events {
        epoch: u64,
        first_seq: u64,
        events: Vec<KvEvent>,
        report: Option<Report>,
    },
    /// All it holds after an event.
    Snapshot {
        epoch: u64,
        seq: u64,
        events: Vec<KvEvent>,
    },
    /// A sequence is added there.
    Accepted { booking: u64, number: u64 },
}

pub(super) struct Router {
    view: View,
    /// Of requests, by number.
    pub(super) admission: Queue<u64>,
    /// Requests wait here until a worker can begin them.
    pub(super) holds: bool,
    /// From a turn to a first token.
    pub(super) lead: Lead,
    policy: Box<dyn Policy>,
    /// By worker.
    feeds: Vec<Feed>,
}

impl Router {
    pub(super) fn new(policy: Box<dyn Policy>, limits: Limits) -> Router {
        Router {
            view: View::default(),
            admission: Queue::new(limits),
            holds: policy.holds(),
            lead: Lead::default(),
            policy,
            feeds: Vec::new(),
        }
    }

    /// Events are missing: false.
    pub(super) fn hear(&mut self, worker: usize, notice: Notice, now: Duration) -> bool {
        let slot = WorkerSlot(worker as u32);
        if self.feeds.len() <= worker {
            self.feeds.resize_with(worker + 1, Feed::default);
        }
        match notice {
            Notice::Up(member) => {
                self.view.join(slot, member);
                self.view.set_available(slot, true);
                self.feeds[worker].snapshot(member.epoch, 0, true);
            }
            Notice::Leaving | Notice::Down => self.view.set_available(slot, false),
            Notice::Accepted { booking, number } => self.view.accepted(booking, slot, number),
            Notice::Snapshot { epoch, seq, events } => {
                self.view.index().remove_worker(slot);
                self.feeds[worker].snapshot(epoch, seq, true);
                for event in &events {
                    self.view.index().apply(slot, event);
                }
            }
            Notice::Events {
                epoch,
                first_seq,
                events,
                report,
            } => {
                if self.feeds[worker].position().0 != epoch {
                    return true;
                }
                if let Some(report) = report {
                    self.view.report(slot, report, now);
                }
                for (seq, event) in (first_seq..).zip(&events) {
                    match self.feeds[worker].event(epoch, seq) {
                        Ok(Verdict::Apply) => self.view.index().apply(slot, event),
                        Ok(Verdict::Stale) => {}
                        Err(_) => return false,
                    }
                }
            }
        }
        true
    }

    /// The last event it has of a worker: epoch and number.
    pub(super) fn position(&self, worker: usize) -> (u64, u64) {
        self.feeds.get(worker).map_or((0, 0), Feed::position)
    }

    pub(super) fn place(&mut self, ask: &Ask<'_>, excluded: &Excluded) -> Option<Placed> {
        self.view.place(&mut *self.policy, 0, ask, excluded)
    }

    pub(super) fn room(&self) -> Option<usize> {
        self.view.room()
    }

    pub(super) fn release(&mut self, booking: u64) {
        self.view.release(booking);
    }
}

/// The time between two parts of the cluster, and how reliable news are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Network {
    /// Of a call or an answer, one way.
    pub delay: Duration,
    /// From the end of a step until routers know of its events.
    pub event_delay: Duration,
    /// Share of a worker's messages that is lost on the way to a router, and
    /// asked for again.
    pub event_loss: f64,
}
