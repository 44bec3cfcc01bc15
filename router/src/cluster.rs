//! The workers as this router knows them: who is there, what they serve, which
//! blocks they hold, how loaded they are, and what this router has booked.
//!
//! One critical section chooses and books, so that two requests never take the
//! same gap. A worker's state comes from its own event stream (`link`); what
//! this router sends is added to it until the worker's next report shows it.

mod booking;
mod client;
mod explanation;
#[cfg(test)]
pub(crate) mod fake;
pub mod health;
mod link;
mod lock;
mod members;
mod state;
pub mod view;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use kvcache_index::{HashScope, Overlaps, PrefixIndex, WorkerSlot};
use proto::ErrorCode;
use tokio::sync::{Notify, watch as watched};
use tokio::time::Instant;
use tracing::warn;

pub use booking::Booking;
pub use client::{Answers, DecodeEvent, PrefillEvent, Ticket, Work, WorkerClient};
pub use explanation::Explanation;
pub use link::Config;
pub use lock::lock;
pub use members::watch;
pub use state::WorkerRef;
pub use view::Excluded;

use crate::error::ApiError;
use crate::metrics::Metrics;
use crate::plan::{Ask, Choice, PolicyName};
use crate::sequence::Sequence;
use crate::tokenize::Model;
use health::{Health, Mark, Outcome, Reason};
use state::State;

/// The workers, shared by all requests.
#[derive(Debug)]
pub struct Cluster {
    state: Mutex<State>,
    /// That of `state`: lookups wait for nobody, and no plan waits for events.
    index: Arc<PrefixIndex>,
    /// Locked after `state` where both are.
    health: Mutex<Health>,
    /// Held by the link that makes a model of its worker's files, until the
    /// model is known: a hundred workers of one model make it once.
    making: tokio::sync::Mutex<()>,
    released: Notify,
    /// A worker may take work again.
    available: Notify,
    connected: watched::Sender<usize>,
    /// See [`View::room`](view::View::room); `None` too if the policy does not
    /// hold requests back.
    room: watched::Sender<Option<usize>>,
    /// Plans count time from here.
    began: Instant,
    plans: AtomicU64,
    metrics: Arc<Metrics>,
}

impl Cluster {
    /// Without workers; its prefix index takes at most `index_memory` bytes.
    pub fn new(
        policy: PolicyName,
        index_memory: usize,
        health: health::Config,
        metrics: Arc<Metrics>,
    ) -> Arc<Cluster> {
        let state = State::new(policy, index_memory);
        Arc::new(Cluster {
            index: state.index().clone(),
            state: Mutex::new(state),
            health: Mutex::new(Health::new(health)),
            making: tokio::sync::Mutex::default(),
            released: Notify::new(),
            available: Notify::new(),
            connected: watched::Sender::new(0),
            room: watched::Sender::new(None),
            began: Instant::now(),
            plans: AtomicU64::new(0),
            metrics,
        })
    }

    /// The model of that name, whether or not a worker serves it right now.
    pub fn model(&self, name: &str) -> Result<Arc<Model>, ApiError> {
        let state = self.state();
        state.model(name).ok_or_else(|| {
            let known = state.served_models();
            let known: Vec<&str> = known.iter().map(|model| model.name()).collect();
            ApiError {
                param: Some("model".to_owned()),
                ..ApiError::new(
                    ErrorCode::ModelNotFound,
                    format!(
                        "the model `{name}` does not exist; this cluster serves: {}",
                        if known.is_empty() {
                            "no model yet".to_owned()
                        } else {
                            known.join(", ")
                        }
                    ),
                )
            }
        })
    }

    /// The models that at least one connected worker serves, by name.
    pub fn served_models(&self) -> Vec<Arc<Model>> {
        self.state().served_models()
    }

    /// Connected workers, over all models.
    pub fn connected_workers(&self) -> usize {
        *self.connected.borrow()
    }

    /// Whether a worker's events flow.
    fn is_connected(&self, slot: WorkerSlot) -> bool {
        self.state().is_connected(slot)
    }

    /// The number of connected workers, as it changes.
    pub fn watch_connected(&self) -> watched::Receiver<usize> {
        self.connected.subscribe()
    }

    /// Sequences that workers could begin soon, whenever one has reported.
    pub fn watch_room(&self) -> watched::Receiver<Option<usize>> {
        self.room.subscribe()
    }

    /// Until `workers` are connected.
    pub async fn joined(&self, workers: usize) {
        let mut connected = self.connected.subscribe();
        // Fails only when the sender is gone, which lives in self.
        let _ = connected.wait_for(|now| *now >= workers).await;
    }

    /// Chooses workers for `sequence`, of which `generated` tokens exist
    /// already, and books them.
    pub fn book(
        self: &Arc<Self>,
        sequence: &Sequence,
        generated: &[u32],
        excluded: &Excluded,
    ) -> Result<Booking, ApiError> {
        let _measured = self.metrics.measure_plan();
        let hashes = block_hashes(sequence, generated);
        let ask = self.ask(sequence, generated.len(), &hashes);
        let overlaps = self.index.overlaps(ask.hashes, ask.now);
        let mut state = self.state();
        let choice = self.choose(&mut state, sequence, (&ask, &overlaps), excluded)?;
        let explanation = sequence.is_explained.then(|| {
            let explanation = Explanation::new(&ask, choice, &state);
            Arc::new(explanation.cut_for_header())
        });
        let placed = state.book(&ask, choice);
        let decode = state.reference(placed.decode);
        let prefill = placed.prefill.map(|slot| state.reference(slot));
        drop(state);
        self.predict(&placed, &ask);
        let now = Instant::now().into_std();
        let mut health = self.health();
        for worker in std::iter::once(&decode).chain(&prefill) {
            health.booked(worker.slot, now);
        }
        drop(health);
        Ok(Booking::new(
            self.clone(),
            placed.booking,
            (decode, prefill),
            explanation,
            self.metrics.clone(),
        ))
    }

    /// Where `sequence` would go now, and why. Nothing is booked; only a policy
    /// that remembers its own choices has made one more.
    pub fn explain(&self, sequence: &Sequence) -> Result<Explanation, ApiError> {
        let hashes = block_hashes(sequence, &[]);
        let ask = self.ask(sequence, 0, &hashes);
        let overlaps = self.index.overlaps(ask.hashes, ask.now);
        let mut state = self.state();
        let choice = self.choose(&mut state, sequence, (&ask, &overlaps), &Excluded::new())?;
        Ok(Explanation::new(&ask, choice, &state))
    }

    /// What is to be placed of a sequence of which `generated` tokens exist.
    fn ask<'a>(&self, sequence: &Sequence, generated: usize, hashes: &'a [u64]) -> Ask<'a> {
        let max_tokens = sequence.sampling.max_tokens;
        let objectives = &sequence.objectives;
        let first_token = objectives.first_token_by.filter(|_| generated == 0);
        let until = |at: Instant| at.saturating_duration_since(Instant::now());
        Ask {
            prompt_tokens: sequence.prompt.len() + generated,
            max_tokens: max_tokens.saturating_sub(generated),
            first_token: first_token.map(until),
            inter_token: objectives.inter_token_latency,
            block_size: sequence.model.block_size(),
            may_split: sequence.pooling.is_none()
                && sequence.sampling.prompt_logprobs.is_none()
                && max_tokens > generated + 1,
            hashes,
            session: sequence.session,
            now: self.now(),
            random: mix(self.plans.fetch_add(1, Ordering::Relaxed)),
        }
    }

    /// What the policy chooses, of those who are not marked as long as there are
    /// any.
    fn choose(
        &self,
        state: &mut State,
        sequence: &Sequence,
        (ask, overlaps): (&Ask<'_>, &Overlaps),
        excluded: &Excluded,
    ) -> Result<Choice, ApiError> {
        let shunned = self.health().shunned(Instant::now().into_std());
        let mut choice = None;
        if !shunned.is_empty() {
            let left_out = [excluded.as_slice(), &shunned].concat();
            choice = state.choose(&sequence.model, ask, overlaps, &left_out);
        }
        // With nobody else, shunned workers are better than none.
        choice
            .or_else(|| state.choose(&sequence.model, ask, overlaps, excluded))
            .ok_or_else(|| no_worker(sequence))
    }

    /// See [`view::Placed::predict`]. A worker that left meanwhile has nothing.
    fn predict(&self, placed: &view::Placed, ask: &Ask<'_>) {
        placed.predict(&self.index, ask);
        let state = self.state();
        for slot in std::iter::once(placed.decode).chain(placed.prefill) {
            if !state.has(slot) {
                self.index.remove_worker(slot);
            }
        }
    }

    /// Resolves when a worker may take work that did not before; from the call
    /// on, not from the first poll.
    pub fn available(&self) -> impl Future<Output = ()> + '_ {
        let mut available = Box::pin(self.available.notified());
        available.as_mut().enable();
        available
    }

    /// A request found `worker` unreachable: it gets no new work until its link
    /// has seen it alive.
    pub fn suspect(&self, worker: &WorkerRef) {
        self.state().suspect(worker.slot, worker.epoch);
    }

    /// A sequence has got something of `worker`.
    pub fn progressed(&self, worker: &WorkerRef) {
        self.health().progressed(worker.slot, worker.epoch);
    }

    /// What `worker` did in an attempt that is over.
    pub fn ended(&self, worker: &WorkerRef, outcome: Outcome) {
        let now = Instant::now().into_std();
        let marks = self
            .health()
            .ended((worker.slot, worker.epoch), outcome, now);
        for (slot, mark) in marks {
            let id = self.state().name_of(slot).to_owned();
            warn!(worker = id, ?mark, "worker gets no work for a while");
            let counted = match mark {
                Mark::BreakerOpened => &self.metrics.breakers_opened,
                Mark::Ejected(Reason::Failures) => &self.metrics.ejected_for_failures,
                Mark::Ejected(Reason::Slowness) => &self.metrics.ejected_for_slowness,
            };
            counted.increment(1);
        }
    }

    /// Until no booking is left.
    pub async fn idle(&self) {
        loop {
            let released = self.released.notified();
            if self.state().bookings() == 0 {
                return;
            }
            released.await;
        }
    }

    /// The worker was seen alive.
    fn trust(&self, slot: WorkerSlot) {
        self.state().trust(slot);
        self.available.notify_waiters();
    }

    /// The set of connected workers may have changed.
    fn count_connected(&self) {
        let connected = self.state().connected();
        self.metrics.connected_workers.set(connected as f64);
        let changed = self.connected.send_if_modified(|known| {
            let changed = *known != connected;
            *known = connected;
            changed
        });
        if changed {
            self.available.notify_waiters();
        }
    }

    /// A worker has reported its load.
    fn measure_room(&self) {
        let (room, sequences) = {
            let state = self.state();
            (state.room(), state.reported_sequences())
        };
        self.metrics.reported_sequences.set(sequences as f64);
        self.room.send_replace(room);
    }

    fn release(&self, booking: u64) {
        self.state().release(booking);
        self.released.notify_waiters();
    }

    /// Since it was made: the view's clock.
    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    fn health(&self) -> MutexGuard<'_, Health> {
        lock(&self.health)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

fn no_worker(sequence: &Sequence) -> ApiError {
    ApiError {
        retry_after: Some(1),
        ..ApiError::new(
            ErrorCode::NoWorker,
            format!(
                "no worker that serves `{}` can be reached now; try again later",
                sequence.model.name()
            ),
        )
    }
}

/// Short identities of all full blocks of prompt and generated tokens.
fn block_hashes(sequence: &Sequence, generated: &[u32]) -> Vec<u64> {
    let block_size = sequence.model.block_size();
    let scope = HashScope::new(
        sequence.model.fingerprint(),
        &sequence.cache_salt,
        block_size,
    );
    let hashes = if generated.is_empty() {
        scope.full_blocks(&sequence.prompt, block_size)
    } else {
        let tokens = [&sequence.prompt, generated].concat();
        scope.full_blocks(&tokens, block_size)
    };
    hashes.into_iter().map(|hash| hash.short()).collect()
}

/// SplitMix64's output function: neighbouring numbers become independent ones.
fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
