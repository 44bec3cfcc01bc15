//! What subscribers of this worker are told, and when.
//!
//! The engine thread publishes into the feed and never waits for anyone; each
//! [`Subscription`] reads at its own pace. A slow one is given a snapshot in
//! place of the events it missed. Status changes are pushed at most once in
//! [`STATUS_INTERVAL`]; without changes, the status is repeated as a heartbeat.

mod pulse;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kvcache_index::KvEvent;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::event_log::{EventLog, Numbered, Run};
pub use pulse::{EnginePulse, Pulse};

/// Shortest time between two status messages of one subscription.
pub const STATUS_INTERVAL: Duration = Duration::from_millis(10);
/// Kept events name so many blocks: about 4 MiB.
const LOG_CAPACITY: usize = 512 * 1024;
/// Events read at once; bounds how long the log is locked.
const EVENTS_PER_READ: usize = 256;
/// Blocks in a snapshot's part: about 1 MiB on the wire, where gRPC allows 4.
const HASHES_PER_PART: usize = 128 * 1024;

/// This worker's load.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WorkerStatus {
    /// Within the epoch, ended ones too.
    pub accepted_sequences: u64,
    pub waiting_sequences: usize,
    pub running_sequences: usize,
    /// Prompt tokens not yet computed, of waiting and running sequences.
    pub queued_prefill_tokens: usize,
    pub total_blocks: usize,
    /// Blocks no sequence holds, cached ones among them.
    pub free_blocks: usize,
    pub cached_blocks: usize,
    /// 0 while unknown.
    pub prefill_tokens_per_second: f32,
    /// 0 while unknown.
    pub decode_step_ms: f32,
    pub inter_token_ms: f32,
    /// 0 while unknown.
    pub drain_tokens_per_second: f32,
    pub draining: bool,
    /// The engine's last steps all failed.
    pub not_ready: bool,
}

/// One thing a subscriber is told.
#[derive(Clone, Debug, PartialEq)]
pub enum Update {
    /// A part of all blocks stored after event `seq`.
    Snapshot {
        seq: u64,
        first: bool,
        last: bool,
        runs: Vec<Run>,
    },
    Event(Numbered),
    /// The load, after event `seq`.
    Status {
        seq: u64,
        status: WorkerStatus,
        pulse: Pulse,
    },
}

/// Where the engine thread publishes events and status.
#[derive(Debug)]
pub struct EventFeed {
    log: Mutex<EventLog>,
    /// Number of the newest event.
    last_seq_tx: watch::Sender<u64>,
    status_tx: watch::Sender<WorkerStatus>,
    pulse: EnginePulse,
}

impl EventFeed {
    pub fn new(epoch: u64, status: WorkerStatus) -> EventFeed {
        EventFeed {
            log: Mutex::new(EventLog::new(epoch, LOG_CAPACITY)),
            last_seq_tx: watch::Sender::new(0),
            status_tx: watch::Sender::new(status),
            pulse: EnginePulse::default(),
        }
    }

    /// Where the engine's thread shows that it moves.
    pub fn pulse(&self) -> &EnginePulse {
        &self.pulse
    }

    pub fn publish(&self, events: Vec<KvEvent>) {
        if events.is_empty() {
            return;
        }
        let last_seq = {
            let mut log = self.log();
            for event in events {
                log.append(event);
            }
            log.last_seq()
        };
        self.last_seq_tx.send_replace(last_seq);
    }

    /// Changes the status; subscribers hear of it only if it differs.
    pub fn update_status(&self, update: impl FnOnce(&mut WorkerStatus)) {
        self.status_tx.send_if_modified(|status| {
            let before = status.clone();
            update(status);
            *status != before
        });
    }

    pub fn status(&self) -> WorkerStatus {
        self.status_tx.borrow().clone()
    }

    /// Waits until the status is as `wanted`.
    pub async fn status_when(&self, mut wanted: impl FnMut(&WorkerStatus) -> bool) -> WorkerStatus {
        let mut status_rx = self.status_tx.subscribe();
        loop {
            let status = status_rx.borrow_and_update().clone();
            // No `changed` fails: the sender is this feed's.
            if wanted(&status) || status_rx.changed().await.is_err() {
                return status;
            }
        }
    }

    pub fn epoch(&self) -> u64 {
        self.log().epoch()
    }

    /// Goes on after event `seq` of `epoch`; a snapshot comes first if that
    /// can't be done. The status is repeated after each `heartbeat`.
    pub fn subscribe(
        self: &Arc<Self>,
        (epoch, seq): (u64, u64),
        heartbeat: Option<Duration>,
    ) -> Subscription {
        let known = {
            let log = self.log();
            epoch == log.epoch() && log.after(seq, 0).is_some()
        };
        Subscription {
            position: known.then_some(seq),
            outbox: VecDeque::new(),
            last_seq_rx: self.last_seq_tx.subscribe(),
            status_rx: self.status_tx.subscribe(),
            told: None,
            heartbeat,
            feed: self.clone(),
        }
    }

    fn log(&self) -> MutexGuard<'_, EventLog> {
        // A panic in another thread leaves the log as of its last whole event.
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One reader of the feed.
#[derive(Debug)]
pub struct Subscription {
    feed: Arc<EventFeed>,
    /// The last event put into `outbox`; `None`: a snapshot is due.
    position: Option<u64>,
    outbox: VecDeque<Update>,
    last_seq_rx: watch::Receiver<u64>,
    status_rx: watch::Receiver<WorkerStatus>,
    /// The last status told, and when.
    told: Option<(WorkerStatus, Instant)>,
    heartbeat: Option<Duration>,
}

impl Subscription {
    /// The next update; waits until there is one.
    pub async fn next(&mut self) -> Update {
        loop {
            if let Some(update) = self.outbox.pop_front() {
                return update;
            }
            if let Some(update) = self.due_status() {
                return update;
            }
            self.refill();
            if self.outbox.is_empty() {
                self.changed().await;
            }
        }
    }

    /// A last status that says that the worker drains; `None` if the
    /// subscriber does not even have the blocks.
    pub fn farewell(&self) -> Option<Update> {
        let told = self.outbox.is_empty().then_some(self.position)?;
        told.map(|seq| Update::Status {
            seq,
            status: WorkerStatus {
                draining: true,
                ..self.feed.status()
            },
            pulse: self.feed.pulse.read(),
        })
    }

    fn refill(&mut self) {
        self.last_seq_rx.mark_unchanged();
        let feed = self.feed.clone();
        let events = self
            .position
            .and_then(|seq| feed.log().after(seq, EVENTS_PER_READ));
        match events {
            Some(events) => {
                self.position = events.last().map(|last| last.seq).or(self.position);
                self.outbox.extend(events.into_iter().map(Update::Event));
            }
            None => self.take_snapshot(),
        }
    }

    fn take_snapshot(&mut self) {
        let snapshot = self.feed.log().snapshot();
        let seq = snapshot.seq;
        self.position = Some(seq);
        let parts = snapshot.into_parts(HASHES_PER_PART);
        let count = parts.len();
        let updates = parts
            .into_iter()
            .enumerate()
            .map(|(i, runs)| Update::Snapshot {
                seq,
                first: i == 0,
                last: i + 1 == count,
                runs,
            });
        self.outbox.extend(updates);
    }

    /// The status, if it changed and the last one is old enough, or a heartbeat
    /// is due.
    fn due_status(&mut self) -> Option<Update> {
        let seq = self.position?;
        let due_at = self.status_due_at()?;
        let now = Instant::now();
        if due_at > now {
            return None;
        }
        let status = self.status_rx.borrow_and_update().clone();
        let beats = self.heartbeat_at().is_some_and(|at| at <= now);
        if !beats && self.told.as_ref().is_some_and(|(told, _)| *told == status) {
            return None;
        }
        self.told = Some((status.clone(), now));
        let pulse = self.feed.pulse.read();
        Some(Update::Status { seq, status, pulse })
    }

    /// When to tell the status; `None` if it is told already and need not be
    /// repeated.
    fn status_due_at(&self) -> Option<Instant> {
        let Some((_, at)) = &self.told else {
            return Some(Instant::now());
        };
        match self.status_rx.has_changed().unwrap_or(false) {
            true => Some(*at + STATUS_INTERVAL),
            false => self.heartbeat_at(),
        }
    }

    fn heartbeat_at(&self) -> Option<Instant> {
        let (_, at) = self.told.as_ref()?;
        at.checked_add(self.heartbeat?)
    }

    /// Waits until there may be something to tell. The senders live in the
    /// feed, which this subscription keeps alive: no `changed` fails.
    async fn changed(&mut self) {
        let due_at = self.status_due_at();
        let is_changed = self.status_rx.has_changed().unwrap_or(false);
        tokio::select! {
            _ = self.last_seq_rx.changed() => {}
            () = tokio::time::sleep_until(due_at.unwrap_or_else(Instant::now)), if due_at.is_some() => {}
            // `has_changed` stays true: the status is read when it is due.
            _ = wait_changed(self.status_rx.clone()), if !is_changed => {}
        }
    }
}

/// Waits for a change without marking it as seen in the caller's receiver.
async fn wait_changed(mut status_rx: watch::Receiver<WorkerStatus>) {
    // Fails only without a sender; see `Subscription::changed`.
    let _ = status_rx.changed().await;
}

#[cfg(test)]
mod tests;
