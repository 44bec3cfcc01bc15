//! A link follows one worker: connects, learns what it is, and feeds its events
//! into the cluster's state until the connection breaks; then again.
//!
//! Heartbeats on the event stream show that the worker is there and that its
//! engine moves. A silent worker is asked, and one that does not answer, or
//! whose engine is stuck, loses its sequences at once.

mod backoff;
mod config;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt};
use kvcache_index::feed::Verdict;
use kvcache_index::{Feed, WorkerSlot};
use proto::ErrorCode;
use runtime::Lifecycle;
use runtime::membership::WorkerAddress;
use tokio::sync::{MutexGuard, Notify};
use tokio::time::{Instant, sleep_until};
use tracing::{debug, info, warn};

use super::Cluster;
use super::client::{Description, Notice, WorkerClient, WorkerStatus};
use super::state::Joining;
use crate::error::ApiError;
use crate::tokenize::{Model, ModelCard};
use backoff::Backoff;
pub use config::Config;

/// Follows the worker at `address` until shutdown.
pub async fn follow(
    cluster: Arc<Cluster>,
    slot: WorkerSlot,
    address: WorkerAddress,
    config: Config,
    lifecycle: Lifecycle,
) {
    let mut link = Link {
        cluster: cluster.clone(),
        slot,
        address,
        feed: Feed::default(),
        recheck: Arc::new(Notify::new()),
        backoff: Backoff::new(&config),
        config,
        draining: false,
        stuck: false,
        last_failure: String::new(),
    };
    tokio::select! {
        () = link.run() => {}
        () = idle_in_drain(&cluster, &lifecycle) => {}
    }
    cluster.state().remove(slot);
    cluster.health().removed(slot);
    cluster.count_connected();
    count_blocks(&cluster);
}

/// Links outlive the start of a drain, since running requests may still have to
/// move to another worker; they end with the last booking.
async fn idle_in_drain(cluster: &Cluster, lifecycle: &Lifecycle) {
    lifecycle.drain_started().await;
    cluster.idle().await;
}

struct Link {
    cluster: Arc<Cluster>,
    slot: WorkerSlot,
    address: WorkerAddress,
    feed: Feed,
    /// A request could not reach the worker.
    recheck: Arc<Notify>,
    backoff: Backoff,
    config: Config,
    /// Its last status said so: the end of its events is no loss.
    draining: bool,
    /// Its engine takes too long for a step.
    stuck: bool,
    last_failure: String,
}

impl Link {
    async fn run(&mut self) {
        loop {
            let Err(error) = self.session().await;
            let failure = match std::mem::take(&mut self.draining) {
                true => "it is shutting down".to_owned(),
                false => error.message,
            };
            self.cluster.state().disconnected(self.slot);
            self.cluster.count_connected();
            if failure != self.last_failure {
                warn!(worker = %self.address, reason = failure, "worker is not connected");
                self.last_failure = failure;
            }
            tokio::time::sleep(self.backoff.next(Instant::now())).await;
        }
    }

    /// One connection, from describing the worker to its loss.
    async fn session(&mut self) -> Result<Infallible, ApiError> {
        let patience = self.config.patience(Duration::ZERO);
        let client = WorkerClient::connect(&self.address.uri(), patience).await?;
        let within = self.config.health_timeout.0;
        let description = Arc::new(client.describe(within).await?);
        let cluster = self.cluster.clone();
        let (model, making) = self.model(&cluster, &client, &description).await?;
        self.cluster
            .state()
            .join(Joining {
                slot: self.slot,
                description: description.clone(),
                client: client.clone(),
                model,
                recheck: self.recheck.clone(),
            })
            .map_err(lost)?;
        drop(making);
        self.cluster.health().joined(self.slot, description.epoch);
        count_blocks(&self.cluster);
        info!(
            worker = description.worker_id,
            address = %self.address,
            model = description.model,
            role = description.role.as_str(),
            "worker connected"
        );
        self.last_failure.clear();
        loop {
            let before = self.feed.position();
            let heartbeat = self.config.health_interval.0;
            let notices = client.subscribe(before, heartbeat).await?;
            self.listen(&client, &description, notices).await?;
            self.cluster.metrics.event_gaps.increment(1);
            if self.feed.position() == before {
                // Resuming did not help: take it from the start.
                self.feed = Feed::default();
                tokio::time::sleep(self.backoff.next(Instant::now())).await;
            }
        }
    }

    /// The model of `description`, made of the worker's files unless known; with
    /// what keeps others from making it too until it is.
    async fn model<'a>(
        &self,
        cluster: &'a Cluster,
        client: &WorkerClient,
        description: &Description,
    ) -> Result<(Arc<Model>, Option<MutexGuard<'a, ()>>), ApiError> {
        if let Some(known) = known(cluster, description) {
            return Ok((known, None));
        }
        let card = ModelCard {
            name: description.model.clone(),
            fingerprint: description.model_fingerprint.clone(),
            max_model_len: description.max_model_len,
            block_size: description.block_size,
            vocab_size: description.vocab_size,
            files: client.model_files().await?,
        };
        let making = cluster.making.lock().await;
        if let Some(known) = known(cluster, description) {
            return Ok((known, None));
        }
        let tokenizer_json = card.files.get("tokenizer.json").cloned();
        let unusable = |why: String| lost(format!("its model is unusable: {why}"));
        let model = tokio::task::spawn_blocking(move || Model::new(card))
            .await
            .map_err(|error| unusable(error.to_string()))?
            .map_err(unusable)?;
        let model = Arc::new(model);
        if let Some(json) = tokenizer_json {
            // Nobody waits for it: the model serves without.
            let faster = model.clone();
            drop(tokio::task::spawn_blocking(move || faster.speed_up(&json)));
        }
        Ok((model, Some(making)))
    }

    /// Applies what the worker says. `Ok`: its events have a gap, subscribe
    /// again.
    async fn listen(
        &mut self,
        client: &WorkerClient,
        description: &Description,
        notices: impl Stream<Item = Result<Notice, ApiError>>,
    ) -> Result<(), ApiError> {
        tokio::pin!(notices);
        let mut heard = Instant::now();
        loop {
            tokio::select! {
                notice = notices.next() => {
                    let closed = || lost("it closed the connection");
                    let notice = notice.ok_or_else(closed)??;
                    if let Notice::Status { status, .. } = &notice {
                        self.watch_engine(client, status);
                    }
                    if !self.apply(notice) {
                        return Ok(());
                    }
                }
                () = self.recheck.notified() => self.check(client, description).await?,
                () = sleep_until(heard + self.config.silence()) => {
                    self.cluster.state().suspect(self.slot, description.epoch);
                    self.check(client, description).await?;
                }
            }
            heard = Instant::now();
        }
    }

    /// Asks the worker whether it is there. If it is not, its calls end now:
    /// the connection may take much longer to notice.
    async fn check(
        &mut self,
        client: &WorkerClient,
        description: &Description,
    ) -> Result<(), ApiError> {
        let now = client.describe(self.config.health_timeout.0).await;
        let alive = now.and_then(|now| match now.epoch == description.epoch {
            true => Ok(()),
            false => Err(lost("it was restarted")),
        });
        match alive {
            Ok(()) => self.cluster.trust(self.slot),
            Err(_) => client.give_up("it does not answer"),
        }
        alive
    }

    /// A worker may answer while its engine hangs.
    fn watch_engine(&mut self, client: &WorkerClient, status: &WorkerStatus) {
        let patience = self.config.patience(status.longest_step);
        client.set_patience(patience);
        let stuck = status.step_age > patience;
        if stuck && !self.stuck {
            warn!(worker = %self.address, step = ?status.step_age, "its engine is stuck");
            client.give_up("its engine is stuck");
        }
        self.stuck = stuck;
        let ready = !stuck && !status.not_ready;
        self.cluster.health().set_ready(self.slot, ready);
    }

    /// `false`: events are missing.
    fn apply(&mut self, notice: Notice) -> bool {
        let now = self.cluster.now();
        let index = &self.cluster.index;
        match notice {
            Notice::Status { epoch, seq, status } => {
                self.draining = status.draining;
                self.cluster.state().status(self.slot, status, now);
                // Of what ended predictions left, in a calm too.
                index.tidy(now);
                self.cluster.count_connected();
                self.cluster.measure_room();
                // A status comes after the events before it: the last event
                // before a calm is missed like any other.
                let (known_epoch, known_seq) = self.feed.position();
                return known_epoch == epoch && known_seq >= seq;
            }
            Notice::Snapshot {
                epoch,
                seq,
                first,
                last,
                events,
            } => {
                if first {
                    index.remove_worker(self.slot);
                    self.cluster.metrics.snapshots.increment(1);
                }
                self.feed.snapshot(epoch, seq, last);
                for event in &events {
                    index.apply(self.slot, event);
                }
            }
            Notice::Kv { epoch, seq, event } => match self.feed.event(epoch, seq) {
                Ok(Verdict::Apply) => index.apply(self.slot, &event),
                Ok(Verdict::Stale) => {}
                Err(gap) => {
                    debug!(worker = %self.address, %gap, "subscribing again");
                    return false;
                }
            },
        }
        count_blocks(&self.cluster);
        true
    }
}

/// The model of `description`, if another worker has brought it.
fn known(cluster: &Cluster, description: &Description) -> Option<Arc<Model>> {
    cluster.state().model(&description.model).filter(|known| {
        known.fingerprint() == description.model_fingerprint
            && known.block_size() == description.block_size
            && known.max_model_len() == description.max_model_len
    })
}

fn count_blocks(cluster: &Cluster) {
    let (index, metrics) = (&cluster.index, &cluster.metrics);
    metrics.index_blocks.set(index.len() as f64);
    metrics.index_bytes.set(index.memory() as f64);
}

fn lost(why: impl Into<String>) -> ApiError {
    ApiError::new(ErrorCode::WorkerLost, why)
}

#[cfg(test)]
mod tests;
