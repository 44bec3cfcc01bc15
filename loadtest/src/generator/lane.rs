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
use crate::client::{Answer, Client};
use crate::record::{Chunk, Outcome, Record};
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

/// How a request ended.
struct End {
    answer: Answer,
    outcome: Outcome,
    at: Instant,
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
            let mut launches = pin!(self.launch_all(&mut launch_rx, &outbox, &closing));
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

    /// Puts every request into `outbox` at its time, until `closing`.
    async fn launch_all(
        &self,
        launch_rx: &mut mpsc::Receiver<Launch>,
        outbox: &RefCell<Vec<Due>>,
        closing: &CancellationToken,
    ) {
        let started = self.pacer.wait(self.rules.start);
        let _ = closing.run_until_cancelled(started).await;
        while let Some(due) = self.next_due(launch_rx, closing).await {
            outbox.borrow_mut().push(due);
        }
        // What was due meanwhile was asked for, and is not forgotten.
        launch_rx.close();
        while let Ok(launch) = launch_rx.try_recv() {
            if let Some(at) = launch.scheduled {
                self.unsent(&launch.request, self.rules.start + at);
            }
        }
    }

    /// `None`: there is no more, or `closing` came first.
    async fn next_due(
        &self,
        launch_rx: &mut mpsc::Receiver<Launch>,
        closing: &CancellationToken,
    ) -> Option<Due> {
        let next = async {
            if !self.rules.closed {
                return Some((launch_rx.recv().await?, None));
            }
            let slot = self.slot().await;
            let scheduled = Instant::now();
            Some((launch_rx.recv().await?, Some((scheduled, slot))))
        };
        let (launch, user) = closing.run_until_cancelled(next).await.flatten()?;
        match user {
            Some((scheduled, slot)) => Some(self.due(launch.request, scheduled, slot)),
            None => {
                let scheduled = self.rules.start + launch.scheduled.unwrap_or_default();
                self.at(launch.request, scheduled, closing).await
            }
        }
    }

    /// Open loop: waits for the time, and then for a slot. `None`: `closing` came
    /// first.
    async fn at(
        &self,
        request: Ready,
        scheduled: Instant,
        closing: &CancellationToken,
    ) -> Option<Due> {
        let turn = async {
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
            (delay, slot)
        };
        let Some((delay, slot)) = closing.run_until_cancelled(turn).await else {
            self.unsent(&request, scheduled);
            return None;
        };
        Some(Due {
            delay,
            ..self.due(request, scheduled, slot)
        })
    }

    /// Records a request that was due, if it was, and never sent.
    fn unsent(&self, request: &Ready, scheduled: Instant) {
        let now = Instant::now();
        if scheduled <= now {
            self.tally.launched();
            let end = End {
                answer: Answer::new(false),
                outcome: Outcome::Unfinished,
                at: now,
            };
            self.record(request, scheduled, end);
        }
    }

    fn record(&self, request: &Ready, scheduled: Instant, end: End) {
        let rules = &self.rules;
        let since = |at: Instant| at.saturating_duration_since(rules.start);
        let answer = end.answer;
        let scheduled = since(scheduled);
        let output = request.encoded.output;
        let chunks = answer.chunks.iter();
        let record = Record {
            number: request.number,
            scheduled,
            // What never was on the wire is over when it would have been.
            sent: since(answer.sent.unwrap_or(end.at)),
            chunks: chunks
                .map(|&(at, tokens)| Chunk {
                    at: since(at),
                    tokens,
                })
                .collect(),
            ended: since(end.at),
            outcome: end.outcome,
            usage: answer.usage,
            expected_output: output.exact.then_some(output.max_tokens),
            warm_up: request.number < rules.warm_up.requests || scheduled < rules.warm_up.duration,
            tenant: request.tenant.clone(),
            priority: request.priority,
            prefill_worker: answer.prefill_worker,
            decode_worker: answer.decode_worker,
            turn: request.turn.map(|it| (it.conversation, it.number)),
        };
        self.tally.ended(&record);
        self.records.borrow_mut().push(record);
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
