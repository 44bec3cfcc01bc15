//! The attempt that runs, and before its first token perhaps a second one
//! beside it. Both give the same tokens: whichever has the first goes on.

use tokio::time::{Instant, sleep_until};

use super::attempt::{Attempt, Failure};
use super::progress::Progress;
use crate::cluster::Excluded;
use crate::sequence::Event;

pub(super) struct Race {
    attempt: Attempt,
    hedge: Option<Attempt>,
    /// When a hedge is due; `None`: never, or it was tried.
    hedge_at: Option<Instant>,
}

/// How a race goes on.
pub(super) enum Turn {
    /// `None`: nothing for the client.
    Event(Option<Event>),
    HedgeDue,
    /// Nobody is left in it.
    Failed(Failure),
}

impl Race {
    pub fn new(attempt: Attempt, hedge_at: Option<Instant>) -> Race {
        Race {
            attempt,
            hedge: None,
            hedge_at,
        }
    }

    pub fn hedge(&mut self, hedge: Attempt) {
        self.hedge = Some(hedge);
    }

    /// Whom it uses.
    pub fn workers(&self) -> Excluded {
        let workers = self.attempt.workers();
        workers.map(|worker| (worker.slot, worker.epoch)).collect()
    }

    /// Ends the calls; the booking stays for as long as the race.
    pub fn cancel(&mut self) {
        self.attempt.cancel();
        self.hedge = None;
    }

    pub async fn next(&mut self, progress: &mut Progress) -> Turn {
        let (happened, is_hedge) = tokio::select! {
            biased;
            happened = self.attempt.happened() => (happened, false),
            Some(happened) = hedged(self.hedge.as_mut()) => (happened, true),
            Some(()) = reached(self.hedge_at) => {
                self.hedge_at = None;
                return Turn::HedgeDue;
            }
        };
        let attempt = match (&mut self.hedge, is_hedge) {
            (Some(hedge), true) => hedge,
            _ => &mut self.attempt,
        };
        match happened.and_then(|happened| attempt.take(happened, progress)) {
            Ok(event) => {
                if matches!(event, Some(Event::Tokens(_))) {
                    self.won(is_hedge);
                }
                Turn::Event(event)
            }
            Err(failure) => self.lost(failure, is_hedge),
        }
    }

    /// The other one is cancelled.
    fn won(&mut self, is_hedge: bool) {
        self.hedge_at = None;
        if let Some(hedge) = self.hedge.take()
            && is_hedge
        {
            self.attempt = hedge;
        }
    }

    fn lost(&mut self, failure: Failure, is_hedge: bool) -> Turn {
        match self.hedge.take() {
            // The other one goes on alone.
            Some(_) if is_hedge => Turn::Event(None),
            Some(hedge) => {
                self.attempt = hedge;
                Turn::Event(None)
            }
            None => Turn::Failed(failure),
        }
    }
}

async fn hedged(hedge: Option<&mut Attempt>) -> Option<Result<super::attempt::Happened, Failure>> {
    match hedge {
        Some(hedge) => Some(hedge.happened().await),
        None => None,
    }
}

async fn reached(at: Option<Instant>) -> Option<()> {
    sleep_until(at?).await;
    Some(())
}
