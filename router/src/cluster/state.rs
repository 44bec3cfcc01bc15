//! The cluster's state behind its lock: plain data, changed by links and
//! bookings.

use std::collections::BTreeMap;
use std::sync::Arc;

use kvcache_index::{KvEvent, PrefixIndex, WorkerSlot};
use rustc_hash::FxHashMap;
use tokio::sync::Notify;

use super::Excluded;
use super::client::{Description, WorkerClient, WorkerStatus};
use crate::plan::{Ask, Candidate, Load, Plan};
use crate::tokenize::Model;

/// A chosen worker, with what is needed to call it.
#[derive(Clone, Debug)]
pub struct WorkerRef {
    pub slot: WorkerSlot,
    pub epoch: u64,
    pub id: Arc<str>,
    pub client: WorkerClient,
}

#[derive(Debug, Default)]
pub(super) struct State {
    workers: BTreeMap<WorkerSlot, Worker>,
    /// By name; a model stays known when its last worker goes.
    models: BTreeMap<String, Arc<Model>>,
    index: PrefixIndex,
    bookings: FxHashMap<u64, Booked>,
    last_booking: u64,
    turn: u64,
}

#[derive(Debug)]
struct Worker {
    description: Arc<Description>,
    client: WorkerClient,
    model: Arc<Model>,
    status: WorkerStatus,
    /// Its link has a connection to it.
    joined: bool,
    /// Its event stream is up.
    connected: bool,
    /// A request could not reach it; woken, its link looks after it.
    suspected: bool,
    recheck: Arc<Notify>,
    /// Sum of the bookings' shares that its status does not include yet.
    unreported: Unreported,
    /// Bookings it has accepted since its last status.
    accepted: Vec<u64>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Unreported {
    prefill_tokens: u64,
    sequences: u32,
    blocks: u32,
}

#[derive(Debug)]
struct Booked {
    decode: Share,
    prefill: Option<Share>,
}

/// What a booking adds to one worker's load, until the worker reports it.
#[derive(Debug)]
struct Share {
    worker: WorkerSlot,
    epoch: u64,
    prefill_tokens: u64,
    blocks: u32,
    /// A status that includes it has arrived.
    reported: bool,
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

    pub fn bookings(&self) -> usize {
        self.bookings.len()
    }

    pub fn index_blocks(&self) -> usize {
        self.index.len()
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
        if restarted {
            self.index.remove_worker(joining.slot);
        } else if let Some(worker) = self.workers.get_mut(&joining.slot) {
            worker.client = joining.client;
            worker.recheck = joining.recheck;
            worker.joined = true;
            worker.suspected = false;
            return Ok(());
        }
        self.workers.insert(
            joining.slot,
            Worker {
                description: joining.description,
                client: joining.client,
                model,
                status: WorkerStatus::default(),
                joined: true,
                connected: false,
                suspected: false,
                recheck: joining.recheck,
                unreported: Unreported::default(),
                accepted: Vec::new(),
            },
        );
        Ok(())
    }

    /// The worker's events flow and its first status is here.
    pub fn status(&mut self, slot: WorkerSlot, status: WorkerStatus) {
        let Some(worker) = self.workers.get_mut(&slot) else {
            return;
        };
        worker.status = status;
        worker.connected = true;
        for id in std::mem::take(&mut worker.accepted) {
            let shares = self.bookings.get_mut(&id).into_iter();
            for share in shares.flat_map(Booked::shares_mut) {
                if share.worker == slot && !share.reported {
                    share.reported = true;
                    worker.unreported.remove(share);
                }
            }
        }
    }

    /// The worker was seen alive.
    pub fn trust(&mut self, slot: WorkerSlot) {
        if let Some(worker) = self.workers.get_mut(&slot) {
            worker.suspected = false;
        }
    }

    pub fn suspect(&mut self, slot: WorkerSlot, epoch: u64) {
        if let Some(worker) = self.workers.get_mut(&slot)
            && worker.description.epoch == epoch
        {
            worker.suspected = true;
            worker.recheck.notify_one();
        }
    }

    /// The connection is gone. Its blocks stay indexed: if the same start comes
    /// back, its events go on from where they stopped.
    pub fn disconnected(&mut self, slot: WorkerSlot) {
        if let Some(worker) = self.workers.get_mut(&slot) {
            worker.joined = false;
            worker.connected = false;
        }
    }

    /// The worker left the cluster for good.
    pub fn remove(&mut self, slot: WorkerSlot) {
        self.workers.remove(&slot);
        self.index.remove_worker(slot);
    }

    pub fn apply(&mut self, slot: WorkerSlot, event: &KvEvent) {
        self.index.apply(slot, event);
    }

    pub fn purge(&mut self, slot: WorkerSlot) {
        self.index.remove_worker(slot);
    }

    /// Workers that may take a sequence of `model` now.
    pub fn candidates(&self, model: &Model, hashes: &[u64], excluded: &Excluded) -> Vec<Candidate> {
        let overlaps = self.index.overlaps(hashes);
        let eligible = self.workers.iter().filter(|(slot, worker)| {
            worker.connected
                && !worker.suspected
                && !worker.status.draining
                && worker.serves(model)
                && !excluded.contains(&(**slot, worker.description.epoch))
        });
        eligible
            .map(|(slot, worker)| {
                let overlap = overlaps.iter().find(|(holder, _)| holder == slot);
                Candidate {
                    worker: *slot,
                    role: worker.description.role,
                    cached_tokens: overlap.map_or(0, |(_, blocks)| blocks * model.block_size()),
                    load: worker.load(),
                }
            })
            .collect()
    }

    /// A number that differs from call to call, to share work among equals.
    pub fn next_turn(&mut self) -> u64 {
        self.turn = self.turn.wrapping_add(1);
        self.turn
    }

    /// Books a plan made of this state's own candidates.
    pub fn book(&mut self, plan: &Plan, ask: &Ask) -> (u64, WorkerRef, Option<WorkerRef>) {
        let uncached = ask.prompt_tokens - plan.options[0].cached_tokens;
        let blocks = (uncached.div_ceil(ask.block_size)) as u32;
        let share = |slot: WorkerSlot, prefill_tokens: usize| Share {
            worker: slot,
            epoch: self.workers[&slot].description.epoch,
            prefill_tokens: prefill_tokens as u64,
            blocks,
            reported: false,
        };
        let booked = match plan.prefill {
            Some(prefill) => Booked {
                decode: share(plan.decode, 0),
                prefill: Some(share(prefill, uncached)),
            },
            None => Booked {
                decode: share(plan.decode, uncached),
                prefill: None,
            },
        };
        for share in booked.shares() {
            if let Some(worker) = self.workers.get_mut(&share.worker) {
                worker.unreported.add(share);
            }
        }
        self.last_booking += 1;
        self.bookings.insert(self.last_booking, booked);
        let reference = |slot: WorkerSlot| {
            let worker = &self.workers[&slot];
            WorkerRef {
                slot,
                epoch: worker.description.epoch,
                id: worker.description.worker_id.as_str().into(),
                client: worker.client.clone(),
            }
        };
        let prefill = plan.prefill.map(reference);
        (self.last_booking, reference(plan.decode), prefill)
    }

    /// `slot` has accepted its part of a booking: its next status includes it.
    pub fn accepted(&mut self, booking: u64, slot: WorkerSlot) {
        if let Some(worker) = self.workers.get_mut(&slot) {
            worker.accepted.push(booking);
        }
    }

    pub fn release(&mut self, booking: u64) {
        let Some(booked) = self.bookings.remove(&booking) else {
            return;
        };
        for share in booked.shares().filter(|share| !share.reported) {
            if let Some(worker) = self.workers.get_mut(&share.worker)
                && worker.description.epoch == share.epoch
            {
                worker.unreported.remove(share);
            }
        }
    }
}

impl Unreported {
    fn add(&mut self, share: &Share) {
        self.prefill_tokens += share.prefill_tokens;
        self.sequences += 1;
        self.blocks += share.blocks;
    }

    fn remove(&mut self, share: &Share) {
        self.prefill_tokens -= share.prefill_tokens;
        self.sequences -= 1;
        self.blocks -= share.blocks;
    }
}

impl Worker {
    fn serves(&self, model: &Model) -> bool {
        is_same(&self.model, model)
    }

    fn load(&self) -> Load {
        let (status, more) = (&self.status, &self.unreported);
        Load {
            queued_tokens: status.queued_prefill_tokens + more.prefill_tokens,
            sequences: status.sequences + more.sequences,
            free_blocks: status.free_blocks.saturating_sub(more.blocks),
            prefill_tokens_per_second: status.prefill_tokens_per_second,
            decode_step_ms: status.decode_step_ms,
        }
    }
}

impl Booked {
    fn shares(&self) -> impl Iterator<Item = &Share> {
        std::iter::once(&self.decode).chain(&self.prefill)
    }

    fn shares_mut(&mut self) -> impl Iterator<Item = &mut Share> {
        std::iter::once(&mut self.decode).chain(&mut self.prefill)
    }
}

/// Whether KV and tokens of one fit the other.
fn is_same(a: &Model, b: &Model) -> bool {
    a.fingerprint() == b.fingerprint() && a.block_size() == b.block_size()
}

#[cfg(test)]
mod tests;
