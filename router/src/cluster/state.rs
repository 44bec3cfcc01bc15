//! The cluster's state behind its lock: plain data, changed by links and
//! bookings. Load, blocks and bookings are in the [`View`]; here is what it
//! takes to call a worker, and whether it can be called.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kvcache_index::{Overlaps, PrefixIndex, WorkerSlot};
use tokio::sync::Notify;

use super::client::{Description, WorkerClient, WorkerStatus};
use super::view::{Excluded, Member, Placed, Report, View};
use crate::plan::{Ask, Candidate, Choice, Policy, PolicyName};
use crate::tokenize::Model;

/// A chosen worker, with what is needed to call it.
#[derive(Clone, Debug)]
pub struct WorkerRef {
    pub slot: WorkerSlot,
    pub epoch: u64,
    pub id: Arc<str>,
    pub client: WorkerClient,
}

#[derive(Debug)]
pub(super) struct State {
    workers: BTreeMap<WorkerSlot, Worker>,
    /// By name; a model stays known when its last worker goes.
    models: BTreeMap<String, Arc<Model>>,
    /// The view's numbers of what workers serve: fingerprint and block size.
    numbers: Vec<(String, usize)>,
    view: View,
    policy_name: PolicyName,
    policy: Box<dyn Policy>,
}

#[derive(Debug)]
struct Worker {
    description: Arc<Description>,
    id: Arc<str>,
    client: WorkerClient,
    model: Arc<Model>,
    /// Its link has a connection to it.
    joined: bool,
    /// Its event stream is up.
    connected: bool,
    draining: bool,
    /// A request could not reach it; woken, its link looks after it.
    suspected: bool,
    recheck: Arc<Notify>,
}

/// What a link knows when it has (re)connected to a worker.
#[derive(Debug)]
pub(super) struct Joining {
    pub slot: WorkerSlot,
    pub description: Arc<Description>,
    pub client: WorkerClient,
    pub model: Arc<Model>,
    pub recheck: Arc<Notify>,
}

impl State {
    /// Whose prefix index takes at most `index_memory` bytes.
    pub fn new(policy: PolicyName, index_memory: usize) -> State {
        State {
            workers: BTreeMap::new(),
            models: BTreeMap::new(),
            numbers: Vec::new(),
            view: View::with_index_memory(index_memory),
            policy_name: policy,
            policy: policy.make(),
        }
    }

    /// The model of that name.
    pub fn model(&self, name: &str) -> Option<Arc<Model>> {
        self.models.get(name).cloned()
    }

    pub fn served_models(&self) -> Vec<Arc<Model>> {
        let served = |model: &&Arc<Model>| {
            self.workers
                .values()
                .any(|worker| worker.connected && worker.serves(model))
        };
        self.models.values().filter(served).cloned().collect()
    }

    pub fn connected(&self) -> usize {
        self.workers.values().filter(|w| w.connected).count()
    }

    pub fn is_connected(&self, slot: WorkerSlot) -> bool {
        self.workers.get(&slot).is_some_and(|w| w.connected)
    }

    pub fn bookings(&self) -> usize {
        self.view.bookings()
    }

    /// See [`View::index`].
    pub fn index(&self) -> &Arc<PrefixIndex> {
        self.view.index()
    }

    /// Whether there is a worker in `slot`.
    pub fn has(&self, slot: WorkerSlot) -> bool {
        self.workers.contains_key(&slot)
    }

    pub fn name_of(&self, slot: WorkerSlot) -> &str {
        self.workers
            .get(&slot)
            .map_or("", |worker| &worker.description.worker_id)
    }

    /// Adds a worker, or a new start of one. Refused if the same model name
    /// stands for another model on workers that have joined: their KV and
    /// tokens would not fit together.
    pub fn join(&mut self, joining: Joining) -> Result<(), String> {
        let name = joining.model.name().to_owned();
        let other = self.workers.iter().find(|(slot, worker)| {
            **slot != joining.slot
                && worker.joined
                && worker.model.name() == name
                && !worker.serves(&joining.model)
        });
        if let Some((_, other)) = other {
            return Err(format!(
                "it serves another model under the name `{name}` than {}; \
                 start it with another --served-model-name",
                other.description.worker_id
            ));
        }
        let known = self
            .models
            .get(&name)
            .filter(|known| is_same(known, &joining.model));
        let model = known.cloned().unwrap_or(joining.model);
        self.models.insert(name, model.clone());
        let restarted = self
            .workers
            .get(&joining.slot)
            .is_none_or(|worker| worker.description.epoch != joining.description.epoch);
        if !restarted && let Some(worker) = self.workers.get_mut(&joining.slot) {
            worker.client = joining.client;
            worker.recheck = joining.recheck;
            worker.joined = true;
            worker.suspected = false;
            self.refresh(joining.slot);
            return Ok(());
        }
        let member = Member {
            epoch: joining.description.epoch,
            role: joining.description.role,
            model: self.number_of(&model),
        };
        self.view.join(joining.slot, member);
        self.workers.insert(
            joining.slot,
            Worker {
                id: joining.description.worker_id.as_str().into(),
                description: joining.description,
                client: joining.client,
                model,
                joined: true,
                connected: false,
                draining: false,
                suspected: false,
                recheck: joining.recheck,
            },
        );
        Ok(())
    }

    /// The worker's events flow and its first status is here.
    pub fn status(&mut self, slot: WorkerSlot, status: WorkerStatus, now: Duration) {
        let Some(worker) = self.workers.get_mut(&slot) else {
            return;
        };
        worker.connected = true;
        worker.draining = status.draining;
        self.refresh(slot);
        self.view.report(
            slot,
            Report {
                sequences: status.sequences,
                queued_prefill_tokens: status.queued_prefill_tokens,
                free_blocks: status.free_blocks,
                total_blocks: status.total_blocks,
                prefill_tokens_per_second: status.prefill_tokens_per_second,
                decode_step_ms: status.decode_step_ms,
                inter_token_ms: status.inter_token_ms,
                drain_tokens_per_second: status.drain_tokens_per_second,
                waiting: status.waiting,
                accepted: status.accepted,
            },
            now,
        );
    }

    #[cfg(test)]
    pub fn is_suspected(&self, slot: WorkerSlot) -> bool {
        self.workers[&slot].suspected
    }

    #[cfg(test)]
    pub fn client(&self, slot: WorkerSlot) -> &WorkerClient {
        &self.workers[&slot].client
    }

    /// The worker was seen alive.
    pub fn trust(&mut self, slot: WorkerSlot) {
        if let Some(worker) = self.workers.get_mut(&slot) {
            worker.suspected = false;
        }
        self.refresh(slot);
    }

    pub fn suspect(&mut self, slot: WorkerSlot, epoch: u64) {
        if let Some(worker) = self.workers.get_mut(&slot)
            && worker.description.epoch == epoch
        {
            worker.suspected = true;
            worker.recheck.notify_one();
        }
        self.refresh(slot);
    }

    /// The connection is gone. Its blocks stay indexed: if the same start comes
    /// back, its events go on from where they stopped.
    pub fn disconnected(&mut self, slot: WorkerSlot) {
        if let Some(worker) = self.workers.get_mut(&slot) {
            worker.joined = false;
            worker.connected = false;
        }
        self.refresh(slot);
    }

    /// The worker left the cluster for good.
    pub fn remove(&mut self, slot: WorkerSlot) {
        self.workers.remove(&slot);
        self.view.remove(slot);
    }

    /// Workers that may take a sequence of `model` now.
    #[cfg(test)]
    pub fn candidates(
        &mut self,
        model: &Model,
        ask: &Ask<'_>,
        excluded: &Excluded,
    ) -> &[Candidate] {
        let number = self.number_of(model);
        let overlaps = self.view.index().overlaps(ask.hashes, ask.now);
        self.view.candidates(number, ask, &overlaps, excluded)
    }

    /// What the policy chooses of the workers that may take a sequence of `model`
    /// now, given what they hold.
    pub fn choose(
        &mut self,
        model: &Model,
        ask: &Ask<'_>,
        overlaps: &Overlaps,
        excluded: &Excluded,
    ) -> Option<Choice> {
        let number = self.number_of(model);
        let candidates = self.view.candidates(number, ask, overlaps, excluded);
        self.policy.place(ask, candidates)
    }

    /// Books a choice among the candidates that the last call gave.
    pub fn book(&mut self, ask: &Ask<'_>, choice: Choice) -> Placed {
        self.view.book(ask, choice)
    }

    /// Sequences that workers could begin soon; `None` if that is no matter to
    /// the policy, or nobody takes work.
    pub fn room(&self) -> Option<usize> {
        match self.policy.holds() {
            true => self.view.room(),
            false => None,
        }
    }

    pub fn reported_sequences(&self) -> u64 {
        self.view.reported_sequences()
    }

    pub fn policy(&self) -> PolicyName {
        self.policy_name
    }

    /// The candidates that the last call gave.
    pub fn weighed(&self) -> &[Candidate] {
        self.view.weighed()
    }

    /// What it takes to call the worker in `slot`, which was a candidate.
    pub fn reference(&self, slot: WorkerSlot) -> WorkerRef {
        let worker = &self.workers[&slot];
        WorkerRef {
            slot,
            epoch: worker.description.epoch,
            id: worker.id.clone(),
            client: worker.client.clone(),
        }
    }

    /// See [`View::accepted`].
    pub fn accepted(&mut self, booking: u64, slot: WorkerSlot, number: u64) {
        self.view.accepted(booking, slot, number);
    }

    pub fn release(&mut self, booking: u64) {
        self.view.release(booking);
    }

    /// Tells the view whether the worker takes work.
    fn refresh(&mut self, slot: WorkerSlot) {
        if let Some(worker) = self.workers.get(&slot) {
            let available = worker.connected && !worker.suspected && !worker.draining;
            self.view.set_available(slot, available);
        }
    }

    /// The view's number of what serves `model`.
    fn number_of(&mut self, model: &Model) -> u32 {
        let known = self.numbers.iter().position(|(fingerprint, block_size)| {
            fingerprint == model.fingerprint() && *block_size == model.block_size()
        });
        let number = known.unwrap_or_else(|| {
            let identity = (model.fingerprint().to_owned(), model.block_size());
            self.numbers.push(identity);
            self.numbers.len() - 1
        });
        number as u32
    }
}

impl Worker {
    fn serves(&self, model: &Model) -> bool {
        is_same(&self.model, model)
    }
}

/// Whether KV and tokens of one fit the other.
fn is_same(a: &Model, b: &Model) -> bool {
    a.fingerprint() == b.fingerprint() && a.block_size() == b.block_size()
}

#[cfg(test)]
mod tests;
