//! An event loop that sends requests and records their answers.

mod conversations;

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use super::WarmUp;
use super::feed::{Heard, Launch, Ready};
use super::health::Delays;
use super::pacer::Pacer;
use super::tally::Tally;
use crate::client::Client;
use crate::record::Record;
use conversations::Conversations;

/// Between two looks at whether the event loop still turns.
const HEARTBEAT: Duration = Duration::from_millis(10);

/// The event loop's own timers are so coarse: not a stall.
const TIMER_STEP: Duration = Duration::from_millis(1);

/// What holds for every request of a lane.
pub(super) struct Rules {
    pub(super) start: Instant,
    /// Nothing is scheduled at or after it.
    pub(super) end: Option<Instant>,
    pub(super) closed: bool,
    /// Open loop: connections. Closed loop: users, with a connection each.
    pub(super) slots: usize,
    pub(super) time_limit: Duration,
    pub(super) warm_up: WarmUp,
}

pub(super) struct LaneResult {
    pub(super) records: Vec<Record>,
    pub(super) delays: Delays,
}

pub(super) struct Lane {
    rules: Rules,
    client: Client,
    pacer: Pacer,
    tally: Arc<Tally>,
    slots: Arc<Semaphore>,
    /// When a request last got a slot that it had waited for: what is due
    /// earlier was held up by that, not by the generator.
    held_until: Cell<Instant>,
    records: RefCell<Vec<Record>>,
    delays: RefCell<Delays>,
}

/// A request at its time.
struct Due {
    request: Ready,
    scheduled: Instant,
    /// How late it was taken up, for no reason but the generator's.
    delay: Duration,
    slot: OwnedSemaphorePermit,
}

impl Lane {
    pub(super) fn new(rules: Rules, client: Client, pacer: Pacer, tally: Arc<Tally>) -> Lane {
        Lane {
            slots: Arc::new(Semaphore::new(rules.slots)),
            held_until: Cell::new(rules.start),
            rules,
            client,
            pacer,
            tally,
            records: RefCell::default(),
            delays: RefCell::default(),
        }
    }

    /// Ends when its last request has: the queue ended, or `closing` said so.
    pub(super) async fn run(
        self,
        mut launch_rx: mpsc::Receiver<Launch>,
        heard_tx: mpsc::Sender<Heard>,
        closing: CancellationToken,
        ending: CancellationToken,
    ) -> LaneResult {
        let outbox = RefCell::new(Vec::new());
        {
            let launches = self.launch_all(&mut launch_rx, &outbox);
            let launches = closing.run_until_cancelled(launches);
            let mut launches = pin!(launches);
            let mut launching = true;
            let mut heartbeat = pin!(self.watch_for_stalls());
            let conversations = Conversations {
                lane: &self,
                heard_tx,
                closing: closing.clone(),
                ending,
            };
            let mut under_way = FuturesUnordered::new();
            poll_fn(|cx| {
                let _ = heartbeat.as_mut().poll(cx);
                launching = launching && launches.as_mut().poll(cx).is_pending();
                let due = outbox.take();
                under_way.extend(due.into_iter().map(|it| conversations.hold(it)));
                while let Poll::Ready(Some(())) = under_way.poll_next_unpin(cx) {}
                match launching || !under_way.is_empty() {
                    true => Poll::Pending,
                    false => Poll::Ready(()),
                }
            })
            .await;
        }
        LaneResult {
            records: self.records.into_inner(),
            delays: self.delays.into_inner(),
        }
    }

    /// Puts every request into `outbox` at its time.
    async fn launch_all(&self, launch_rx: &mut mpsc::Receiver<Launch>, outbox: &RefCell<Vec<Due>>) {
        self.pacer.wait(self.rules.start).await;
        loop {
            let due = if self.rules.closed {
                let slot = self.slot().await;
                let scheduled = Instant::now();
                let Some(launch) = launch_rx.recv().await else {
                    return;
                };
                self.due(launch.request, scheduled, slot)
            } else {
                let Some(launch) = launch_rx.recv().await else {
                    return;
                };
                let scheduled = self.rules.start + launch.scheduled.unwrap_or_default();
                self.at(launch.request, scheduled).await
            };
            outbox.borrow_mut().push(due);
        }
    }

    /// Open loop: waits for the time, and then for a slot.
    async fn at(&self, request: Ready, scheduled: Instant) -> Due {
        self.pacer.wait(scheduled).await;
        let delay = scheduled.max(self.held_until.get()).elapsed();
        let slot = match self.slots.clone().try_acquire_owned() {
            Ok(slot) => slot,
            Err(_) => {
                let slot = self.slot().await;
                self.held_until.set(Instant::now());
                slot
            }
        };
        Due {
            delay,
            ..self.due(request, scheduled, slot)
        }
    }

    fn due(&self, request: Ready, scheduled: Instant, slot: OwnedSemaphorePermit) -> Due {
        Due {
            request,
            scheduled,
            delay: scheduled.elapsed(),
            slot,
        }
    }

    async fn slot(&self) -> OwnedSemaphorePermit {
        let slot = self.slots.clone().acquire_owned().await;
        slot.expect("the semaphore is never closed")
    }

    async fn watch_for_stalls(&self) {
        self.pacer.wait(self.rules.start).await;
        loop {
            let before = Instant::now();
            tokio::time::sleep(HEARTBEAT).await;
            let stall = before.elapsed().saturating_sub(HEARTBEAT + TIMER_STEP);
            self.delays.borrow_mut().stalled(stall);
        }
    }
}
