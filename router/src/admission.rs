//! The one place where a request is let in or turned away.
//!
//! [`queue`] decides, purely; this module wakes who may run, keeps the time, and
//! counts. A [`Permit`] lives as long as the reply and gives its turn back by
//! drop, with what the request really cost; a waiter that hangs up leaves the
//! queue the same way.

pub mod queue;

mod config;
mod estimate;
mod lead;
mod refusal;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use metrics::Gauge;
use proto::ErrorCode;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

pub use config::{Config, TenantWeight};
use estimate::MeanCompletion;
pub use estimate::Usage;
pub use lead::Lead;
use queue::{Arrival, Ask, Band, Position, Queue, Shed, Turn, WaiterId};

use crate::error::ApiError;
use crate::metrics::Metrics;
use crate::objectives::Objectives;
use crate::tokenize::Request;

/// Lets requests in.
#[derive(Debug)]
pub struct Admission(Arc<Gate>);

/// A request's place in the router, given back by drop.
#[derive(Debug)]
pub struct Permit {
    /// Taken by drop.
    turn: Option<Turn>,
    usage: Usage,
    gate: Arc<Gate>,
    _counted: Counted,
}

#[derive(Debug)]
struct Gate {
    state: Mutex<State>,
    start: Instant,
    /// The end of a lease came nearer: waiters are to look again.
    lease_moved: Notify,
    metrics: Arc<Metrics>,
}

#[derive(Debug)]
struct State {
    queue: Queue<Seat>,
    mean_completion: MeanCompletion,
    /// From a turn to the first token.
    lead: Lead,
}

/// Where a waiter gets its answer.
type Seat = oneshot::Sender<Answer>;
type Answer = Result<Permit, Shed>;

impl Admission {
    pub fn new(config: &Config, metrics: Arc<Metrics>) -> Admission {
        metrics
            .admission_limit
            .set(config.max_concurrent_requests as f64);
        Admission(Arc::new(Gate {
            state: Mutex::new(State {
                queue: Queue::new(config.limits()),
                mean_completion: MeanCompletion::default(),
                lead: Lead::default(),
            }),
            start: Instant::now(),
            lease_moved: Notify::new(),
            metrics,
        }))
    }

    /// Waits for a turn, as long as objectives and limits allow.
    pub async fn admit(
        &self,
        request: &Request,
        objectives: &Objectives,
    ) -> Result<Permit, ApiError> {
        let gate = &self.0;
        let (seat, answer) = oneshot::channel();
        let arrival = gate.change(|state, now| {
            let ask = gate.ask(objectives, state, request);
            state.queue.arrive(ask, seat, now)
        });
        match arrival {
            Arrival::Admitted { turn, .. } => Ok(Permit::new(gate.clone(), turn)),
            Arrival::Shed { shed, .. } => Err(gate.refuse(shed)),
            Arrival::Queued { id, until } => gate.wait(id, until, answer).await,
        }
    }

    /// At most `limit` requests run for the next `valid_for`, as workers
    /// reported; never more than the configured limit, which holds again if no
    /// newer report comes.
    pub fn set_capacity(&self, limit: usize, valid_for: Duration) {
        let moved = self.0.change(|state, now| {
            let before = state.queue.lease_end();
            state.queue.set_capacity(limit, now + valid_for, now);
            let after = state.queue.lease_end();
            after.is_some_and(|after| before.is_none_or(|before| after < before))
        });
        if moved {
            self.0.lease_moved.notify_waiters();
        }
    }

    /// As [`Admission::set_capacity`], so that `room` requests may run besides
    /// those that do. One may always run: whether workers are really full shows
    /// only when they are asked.
    pub fn set_room(&self, room: usize, valid_for: Duration) {
        let running = self.0.lock().queue.running();
        self.set_capacity(running.saturating_add(room).max(1), valid_for);
    }

    /// Everybody who waits, in the order of service: for a look at a live
    /// router, not for every request.
    pub fn positions(&self) -> Vec<Position> {
        let now = self.0.now();
        self.0.lock().queue.positions(now)
    }
}

impl Gate {
    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ask(&self, objectives: &Objectives, state: &State, request: &Request) -> Ask {
        let since_start = |at: Instant| at.saturating_duration_since(self.start);
        let start_by = objectives.first_token_by.map(since_start);
        // What may be shed is not worth serving late.
        let sheddable = Band::of(objectives.priority) == Band::Low;
        let first_token = objectives.first_token_by.filter(|_| sheddable);
        let limits = objectives.deadline.into_iter().chain(first_token);
        let deadline = limits.min();
        Ask {
            tenant: objectives.tenant.clone(),
            priority: objectives.priority,
            tokens: state.mean_completion.cost(request),
            deadline: deadline.map(since_start),
            start_by: start_by.map(|by| by.saturating_sub(state.lead.expected())),
        }
    }

    /// Changes the queue, and gives everybody their answer for whom that
    /// brought one.
    fn change<R>(self: &Arc<Gate>, change: impl FnOnce(&mut State, Duration) -> R) -> R {
        let mut answers: Vec<(Seat, Result<Turn, Shed>)> = Vec::new();
        let result = {
            let mut state = self.lock();
            // Read under the lock: the queue's time never goes back.
            let now = self.now();
            let result = change(&mut state, now);
            let queue = &mut state.queue;
            answers.extend(
                queue
                    .expire(now)
                    .into_iter()
                    .map(|(seat, shed)| (seat, Err(shed))),
            );
            while let Some((seat, turn)) = queue.next(now) {
                answers.push((seat, Ok(turn)));
            }
            self.metrics.show_queue(queue, now);
            result
        };
        // Not under the lock: a permit that nobody takes comes back here.
        for (seat, answer) in answers {
            let answer = answer.map(|turn| Permit::new(self.clone(), turn));
            // Who left meanwhile drops its answer, and a permit with it.
            let _ = seat.send(answer);
        }
        result
    }

    async fn wait(
        self: &Arc<Gate>,
        id: WaiterId,
        until: Duration,
        mut answer: oneshot::Receiver<Answer>,
    ) -> Result<Permit, ApiError> {
        let _waiting = Waiting { gate: self, id };
        loop {
            let lease_moved = self.lease_moved.notified();
            let lease_end = self.lock().queue.lease_end().unwrap_or(until);
            let wake = self.start + until.min(lease_end);
            tokio::select! {
                biased;
                answer = &mut answer => return match answer {
                    Ok(Ok(permit)) => Ok(permit),
                    Ok(Err(shed)) => Err(self.refuse(shed)),
                    Err(_closed) => Err(ApiError::new(
                        ErrorCode::ShuttingDown,
                        "the router is shutting down",
                    )),
                },
                () = tokio::time::sleep_until(wake) => self.change(|_, _| ()),
                () = lease_moved => {}
            }
        }
    }

    fn refuse(&self, shed: Shed) -> ApiError {
        self.metrics.shed(shed.reason).increment(1);
        ApiError::from(shed)
    }
}

/// A waiter; by drop it leaves the queue, if it is still there.
struct Waiting<'a> {
    gate: &'a Arc<Gate>,
    id: WaiterId,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.gate
            .change(|state, now| state.queue.cancel(self.id, now));
    }
}

impl Permit {
    fn new(gate: Arc<Gate>, turn: Turn) -> Permit {
        gate.metrics.admitted(turn.band).increment(1);
        gate.metrics.admission_wait(turn.band).record(turn.waited);
        Permit {
            turn: Some(turn),
            usage: Usage::of_turn(&gate),
            _counted: Counted::up(&gate.metrics.permits),
            gate,
        }
    }

    /// Where to count what the request comes to.
    pub fn usage(&self) -> &Usage {
        &self.usage
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let spent = self.usage.spent();
        if let Some(turn) = self.turn.take() {
            self.gate.change(|state, now| {
                state.mean_completion.learn(&spent);
                state.queue.release(turn, spent.cost(), now);
            });
        }
    }
}

/// One on a gauge for as long as it lives.
pub struct Counted(Gauge);

impl Counted {
    pub fn up(gauge: &Gauge) -> Counted {
        gauge.increment(1.0);
        Counted(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}

impl std::fmt::Debug for Counted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Counted")
    }
}

#[cfg(test)]
mod tests;
