//! A sequence from its first plan to its end, over as many attempts as it
//! takes.

use std::pin::Pin;
use std::sync::Arc;

use proto::ErrorCode;
use tokio::time::{Instant, Sleep, sleep_until, timeout_at};
use tracing::{Instrument, Span, info_span};

use super::attempt::{Attempt, Failure};
use super::progress::Progress;
use super::race::{Race, Turn};
use super::retries::{Price, Retries};
use super::times::Times;
use super::{Dispatch, Planned};
use crate::admission::Permit;
use crate::cluster::Booking;
use crate::error::ApiError;
use crate::sequence::Event;

pub(super) struct Run {
    dispatch: Arc<Dispatch>,
    _permit: Arc<Permit>,
    span: Span,
    race: Race,
    progress: Progress,
    retries: Retries,
    times: Times,
    deadline: Option<Instant>,
    /// Until the deadline; kept, since to set a timer for each token costs more
    /// than the token.
    too_late: Option<Pin<Box<Sleep>>>,
}

impl Run {
    pub fn new(dispatch: &Arc<Dispatch>, planned: Planned, permit: Arc<Permit>) -> Run {
        let span = info_span!(
            "sequence",
            request_id = %planned.sequence.request_id,
            choice = planned.sequence.choice
        );
        let deadline = planned.sequence.objectives.deadline;
        let times = Times::start(dispatch.metrics.clone(), planned.sequence.prompt.len());
        let progress = Progress::new(planned.sequence);
        Run {
            race: race(dispatch, planned.booking, &progress, deadline),
            dispatch: dispatch.clone(),
            _permit: permit,
            span,
            progress,
            retries: Retries::default(),
            times,
            deadline,
            too_late: deadline.map(|at| Box::pin(sleep_until(at))),
        }
    }

    /// What is known before any worker is asked.
    pub fn opening(&self) -> Option<Event> {
        self.progress.opening()
    }

    /// The next event for the client.
    pub async fn next(&mut self) -> Result<Event, ApiError> {
        let event = self.next_event().await.map_err(|error| self.place(error));
        match &event {
            Ok(event) => self.times.saw(event),
            Err(_) => {
                self.times.failed();
                // The workers' calls end with the error, not when the client
                // has read it.
                self.race.cancel();
            }
        }
        event
    }

    /// Says in which field of the request a constraint is that workers refuse.
    fn place(&self, error: ApiError) -> ApiError {
        match &self.progress.sequence().constraint {
            Some(constraint) if error.code == ErrorCode::InvalidConstraint => ApiError {
                message: format!("'{}': {}", constraint.param, error.message),
                param: Some(constraint.param.clone()),
                ..error
            },
            _ => error,
        }
    }

    async fn next_event(&mut self) -> Result<Event, ApiError> {
        loop {
            let turn = self.race.next(&mut self.progress);
            let turn = tokio::select! {
                biased;
                turn = turn.instrument(self.span.clone()) => turn,
                Some(()) = passed(self.too_late.as_mut()) => return Err(too_late()),
            };
            match turn {
                Turn::Event(Some(event)) => {
                    self.retries.saw(&event);
                    return Ok(event);
                }
                Turn::Event(None) => {}
                Turn::HedgeDue => self.hedge(),
                Turn::Failed(failure) => {
                    if let Some(end) = self.after(failure).await? {
                        return Ok(end);
                    }
                }
            }
        }
    }

    /// Goes on elsewhere after `failure`, unless the sequence is complete.
    async fn after(&mut self, failure: Failure) -> Result<Option<Event>, ApiError> {
        self.race.cancel();
        if let Some(end) = self.progress.ended() {
            return Ok(Some(end));
        }
        self.times.replanned(self.progress.has_begun());
        let price = self.retries.after(failure, &self.dispatch.cluster)?;
        self.dispatch
            .pay(price, &self.retries, self.deadline)
            .await?;
        let booking = self.book().await?;
        self.race = race(&self.dispatch, booking, &self.progress, self.deadline);
        Ok(None)
    }

    /// Books other workers. With nobody else it waits for a lost one to come
    /// back, or for a new one.
    async fn book(&mut self) -> Result<Booking, ApiError> {
        let mut give_up = Instant::now() + self.dispatch.config.worker_wait.0;
        if let Some(deadline) = self.deadline {
            give_up = give_up.min(deadline);
        }
        let cluster = &self.dispatch.cluster;
        let (sequence, generated) = (self.progress.sequence(), self.progress.generated());
        loop {
            let available = cluster.available();
            let none = match cluster.book(sequence, generated, &self.retries.excluded()) {
                Ok(booking) => return Ok(booking),
                Err(none) => self.retries.explain(none),
            };
            if none.code != ErrorCode::NoWorker {
                return Err(none);
            }
            if timeout_at(give_up, available).await.is_err() {
                let is_late = self.deadline.is_some_and(|at| Instant::now() >= at);
                return Err(if is_late { too_late() } else { none });
            }
            // What is available now may be one of them.
            self.retries.forgive_lost();
        }
    }

    /// Starts it on other workers too, if there are some and the budget allows.
    fn hedge(&mut self) {
        let excluded = [self.retries.excluded(), self.race.workers()].concat();
        if self.dispatch.withdraw().is_err() {
            return self.dispatch.metrics.refused_retries.increment(1);
        }
        let sequence = self.progress.sequence();
        if let Ok(booking) = self.dispatch.cluster.book(sequence, &[], &excluded) {
            self.dispatch.metrics.hedges.increment(1);
            let cluster = &self.dispatch.cluster;
            let hedge = Attempt::new(cluster, booking, &self.progress, self.deadline);
            self.race.hedge(hedge);
        }
    }
}

impl Dispatch {
    /// Waits until the router's budget has a retry for it, or fails.
    async fn pay(
        &self,
        price: Price,
        retries: &Retries,
        deadline: Option<Instant>,
    ) -> Result<(), ApiError> {
        let error = match price {
            Price::Free => return Ok(()),
            Price::Retry { or } => or,
        };
        let until = Instant::now() + self.config.retry_wait.0;
        let mut refused = false;
        while let Err(wait) = self.withdraw() {
            if !std::mem::replace(&mut refused, true) {
                self.metrics.refused_retries.increment(1);
            }
            let next = Instant::now() + wait;
            // A busy cluster is not to be asked again and again.
            if error.code == ErrorCode::WorkerBusy {
                return Err(retries.explain(error));
            }
            if next > until {
                return Err(error);
            }
            tokio::select! {
                () = sleep_until(next) => {}
                Some(()) = reached(deadline) => return Err(too_late()),
            }
        }
        Ok(())
    }
}

fn race(
    dispatch: &Dispatch,
    booking: Booking,
    progress: &Progress,
    deadline: Option<Instant>,
) -> Race {
    let attempt = Attempt::new(&dispatch.cluster, booking, progress, deadline);
    let hedge_after = dispatch.config.hedge_prefill_after;
    let hedge_after = hedge_after.filter(|_| !progress.has_begun());
    let hedge_at = hedge_after.and_then(|after| Instant::now().checked_add(after.0));
    Race::new(attempt, hedge_at)
}

async fn passed(timer: Option<&mut Pin<Box<Sleep>>>) -> Option<()> {
    timer?.await;
    Some(())
}

async fn reached(deadline: Option<Instant>) -> Option<()> {
    sleep_until(deadline?).await;
    Some(())
}

fn too_late() -> ApiError {
    ApiError::new(
        ErrorCode::DeadlineExceeded,
        "the request's time limit passed; allow more time or ask for fewer tokens",
    )
}
