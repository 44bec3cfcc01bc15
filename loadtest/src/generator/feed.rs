//! Plans and encodes requests ahead of time and hands them to lanes.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::Pace;
use crate::client::{Encoded, Encoder};
use crate::planned::{PlannedRequest, Turn, Workload};

/// A request that only has to be sent.
pub(super) struct Launch {
    /// From the start of the run; `None`: when a user is free.
    pub(super) scheduled: Option<Duration>,
    pub(super) request: Ready,
}

/// A request without its prompt, which is in `encoded`.
pub(super) struct Ready {
    pub(super) number: u64,
    pub(super) turn: Option<Turn>,
    pub(super) tenant: Option<Arc<str>>,
    pub(super) priority: Option<i32>,
    pub(super) encoded: Encoded,
}

/// What lanes tell of conversations.
pub(super) enum Heard {
    Answered(Answered),
    /// A turn of it failed: it does not go on.
    Failed {
        conversation: u64,
    },
}

/// A turn was answered; what comes next?
pub(super) struct Answered {
    pub(super) turn: Turn,
    pub(super) text: String,
    pub(super) next_tx: oneshot::Sender<Option<Ready>>,
}

/// Where requests come from.
pub(super) struct Source {
    pub(super) workload: Box<dyn Workload>,
    pub(super) encoder: Encoder,
    /// Requests that may still be planned.
    pub(super) budget: u64,
}

pub(super) struct Feed {
    /// Borrowed only between two awaits: by the arrivals and by the answers.
    source: RefCell<Source>,
    pace: RefCell<Pace>,
    /// Nothing is scheduled at or after it.
    duration: Option<Duration>,
}

impl Source {
    fn next(&mut self) -> Option<(Option<Duration>, Ready)> {
        if self.budget == 0 {
            return None;
        }
        let request = self.workload.next()?;
        Some((request.recorded_at, self.ready(request)))
    }

    fn next_turn(&mut self, after: Turn, answer: &str) -> Option<Ready> {
        if self.budget == 0 {
            return None;
        }
        let request = self.workload.next_turn(after, answer)?;
        Some(self.ready(request))
    }

    fn ready(&mut self, request: PlannedRequest) -> Ready {
        self.budget -= 1;
        Ready {
            number: request.number,
            turn: request.turn,
            encoded: self.encoder.encode(&request),
            tenant: request.tenant,
            priority: request.priority,
        }
    }
}

impl Feed {
    pub(super) fn new(source: Source, pace: Pace, duration: Option<Duration>) -> Feed {
        Feed {
            source: RefCell::new(source),
            pace: RefCell::new(pace),
            duration,
        }
    }

    /// Ends when every lane has, with what is to be said of the requests.
    pub(super) async fn run(
        self,
        launch_txs: Vec<mpsc::Sender<Launch>>,
        heard_rx: mpsc::Receiver<Heard>,
        closing: CancellationToken,
    ) -> Vec<String> {
        let arrivals = async {
            let is_closed = matches!(*self.pace.borrow(), Pace::Closed { .. });
            let sending = async {
                if is_closed {
                    let lanes = launch_txs.iter().map(|it| self.keep_full(it));
                    futures::future::join_all(lanes).await;
                } else {
                    self.in_turns(&launch_txs).await;
                }
            };
            // Whether it ended or was ended, the lanes see the end of their queues.
            let _ = closing.run_until_cancelled(sending).await;
            drop(launch_txs);
        };
        tokio::join!(arrivals, self.continue_conversations(heard_rx));
        self.source.borrow().workload.caveats()
    }

    /// Closed loop: a lane takes a request whenever one of its users is free. Lanes
    /// take turns, so that the first does not take all of few.
    async fn keep_full(&self, launch_tx: &mpsc::Sender<Launch>) {
        while let Ok(place) = launch_tx.reserve().await {
            let Some((_, request)) = self.source.borrow_mut().next() else {
                return;
            };
            place.send(Launch {
                scheduled: None,
                request,
            });
            tokio::task::yield_now().await;
        }
    }

    /// Open loop: each lane in its turn, passing over one that is full.
    async fn in_turns(&self, launch_txs: &[mpsc::Sender<Launch>]) {
        let count = launch_txs.len();
        let mut turn = 0;
        let mut before = Duration::ZERO;
        while let Some((scheduled, request)) = self.next_scheduled(before) {
            before = scheduled;
            turn = (turn + 1) % count;
            let free = (turn..turn + count).find(|it| launch_txs[it % count].capacity() > 0);
            let launch = Launch {
                scheduled: Some(scheduled),
                request,
            };
            let lane = &launch_txs[free.unwrap_or(turn) % count];
            if lane.send(launch).await.is_err() {
                return;
            }
        }
    }

    /// A request that was recorded without a time comes with the one `before`.
    fn next_scheduled(&self, before: Duration) -> Option<(Duration, Ready)> {
        let offset = match &mut *self.pace.borrow_mut() {
            Pace::Open(offsets) => Some(offsets.next()?),
            Pace::Recorded | Pace::Closed { .. } => None,
        };
        let (recorded_at, request) = self.source.borrow_mut().next()?;
        let scheduled = offset.or(recorded_at).unwrap_or(before);
        let is_after = self.duration.is_some_and(|end| scheduled >= end);
        (!is_after).then_some((scheduled, request))
    }

    async fn continue_conversations(&self, mut heard_rx: mpsc::Receiver<Heard>) {
        while let Some(heard) = heard_rx.recv().await {
            let mut source = self.source.borrow_mut();
            match heard {
                Heard::Failed { conversation } => source.workload.abandon(conversation),
                Heard::Answered(answered) => {
                    let next = source.next_turn(answered.turn, &answered.text);
                    // A lane that ends no longer waits for it.
                    let _ = answered.next_tx.send(next);
                }
            }
        }
    }
}
