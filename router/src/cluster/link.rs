//! A link follows one worker: connects, learns what it is, and feeds its events
//! into the cluster's state until the connection breaks; then again.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt};
use kvcache_index::feed::Verdict;
use kvcache_index::{Feed, WorkerSlot};
use proto::ErrorCode;
use runtime::Lifecycle;
use runtime::config::HumanDuration;
use runtime::membership::WorkerAddress;
use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::Cluster;
use super::client::{Description, Notice, WorkerClient};
use super::state::{Joining, State};
use crate::error::ApiError;
use crate::tokenize::{Model, ModelCard};

/// Longest time until a worker begins to answer a subscription.
const SUBSCRIBE_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
pub struct Config {
    /// First wait before a lost worker is tried again; doubles up to
    /// --reconnect-max
    #[arg(long, default_value = "50ms", value_name = "DURATION")]
    pub reconnect_min: HumanDuration,
    /// Longest wait before a lost worker is tried again
    #[arg(long, default_value = "2s", value_name = "DURATION")]
    pub reconnect_max: HumanDuration,
}

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
        draining: false,
        last_failure: String::new(),
    };
    tokio::select! {
        () = link.run() => {}
        () = idle_in_drain(&cluster, &lifecycle) => {}
    }
    cluster.state().remove(slot);
    cluster.count_connected();
    count_blocks(&cluster, &cluster.state());
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
    /// Its last status said so: the end of its events is no loss.
    draining: bool,
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
        let client = WorkerClient::connect(&self.address.uri()).await?;
        let description = Arc::new(client.describe().await?);
        let model = self.model(&client, &description).await?;
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
        count_blocks(&self.cluster, &self.cluster.state());
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
            let notices = tokio::time::timeout(SUBSCRIBE_TIMEOUT, client.subscribe(before))
                .await
                .map_err(|_| lost("it does not answer a subscription"))??;
            self.listen(&client, &description, notices).await?;
            self.cluster.metrics.event_gaps.increment(1);
            if self.feed.position() == before {
                // Resuming did not help: take it from the start.
                self.feed = Feed::default();
                tokio::time::sleep(self.backoff.next(Instant::now())).await;
            }
        }
    }

    /// The model of `description`, made of the worker's files unless known.
    async fn model(
        &self,
        client: &WorkerClient,
        description: &Description,
    ) -> Result<Arc<Model>, ApiError> {
        let known = self.cluster.state().model(&description.model);
        if let Some(known) = known
            && known.fingerprint() == description.model_fingerprint
            && known.block_size() == description.block_size
            && known.max_model_len() == description.max_model_len
        {
            return Ok(known);
        }
        let card = ModelCard {
            name: description.model.clone(),
            fingerprint: description.model_fingerprint.clone(),
            max_model_len: description.max_model_len,
            block_size: description.block_size,
            vocab_size: description.vocab_size,
            files: client.model_files().await?,
        };
        let unusable = |why: String| lost(format!("its model is unusable: {why}"));
        let model = tokio::task::spawn_blocking(move || Model::new(card))
            .await
            .map_err(|error| unusable(error.to_string()))?
            .map_err(unusable)?;
        Ok(Arc::new(model))
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
        loop {
            tokio::select! {
                notice = notices.next() => {
                    let closed = || lost("it closed the connection");
                    if !self.apply(notice.ok_or_else(closed)??) {
                        return Ok(());
                    }
                }
                () = self.recheck.notified() => {
                    let now = client.describe().await?;
                    if now.epoch != description.epoch {
                        return Err(lost("it was restarted"));
                    }
                    self.cluster.state().trust(self.slot);
                }
            }
        }
    }

    /// `false`: events are missing.
    fn apply(&mut self, notice: Notice) -> bool {
        let mut state = self.cluster.state();
        match notice {
            Notice::Status(status) => {
                self.draining = status.draining;
                state.status(self.slot, status);
                drop(state);
                self.cluster.count_connected();
                self.cluster.measure_room();
                return true;
            }
            Notice::Snapshot {
                epoch,
                seq,
                first,
                last,
                events,
            } => {
                if first {
                    state.purge(self.slot);
                    self.cluster.metrics.snapshots.increment(1);
                }
                self.feed.snapshot(epoch, seq, last);
                for event in &events {
                    state.apply(self.slot, event);
                }
            }
            Notice::Kv { epoch, seq, event } => match self.feed.event(epoch, seq) {
                Ok(Verdict::Apply) => state.apply(self.slot, &event),
                Ok(Verdict::Stale) => {}
                Err(gap) => {
                    debug!(worker = %self.address, %gap, "subscribing again");
                    return false;
                }
            },
        }
        count_blocks(&self.cluster, &state);
        true
    }
}

fn count_blocks(cluster: &Cluster, state: &State) {
    let blocks = state.index_blocks();
    cluster.metrics.index_blocks.set(blocks as f64);
}

fn lost(why: impl Into<String>) -> ApiError {
    ApiError::new(ErrorCode::WorkerLost, why)
}

/// Doubling waits between failures; short again after a calm as long as the
/// longest wait. A worker that only seems well between two failures is not
/// asked in a hot loop.
#[derive(Debug)]
struct Backoff {
    min: Duration,
    max: Duration,
    next: Duration,
    calm_at: Option<Instant>,
}

impl Backoff {
    fn new(config: &Config) -> Backoff {
        let min = config.reconnect_min.0;
        Backoff {
            min,
            max: config.reconnect_max.0,
            next: min,
            calm_at: None,
        }
    }

    /// How long to wait after a failure at `now`.
    fn next(&mut self, now: Instant) -> Duration {
        if self.calm_at.is_some_and(|calm_at| now >= calm_at) {
            self.next = self.min;
        }
        let wait = self.next;
        self.next = (wait * 2).min(self.max);
        self.calm_at = Some(now + wait + self.max);
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_until_there_is_calm() {
        let ms = Duration::from_millis;
        let mut backoff = Backoff::new(&Config {
            reconnect_min: HumanDuration(ms(50)),
            reconnect_max: HumanDuration(ms(300)),
        });
        let mut now = Instant::now();
        let mut waits = Vec::new();
        for calm in [0, 0, 200, 299, 300, 0] {
            now += ms(calm);
            let wait = backoff.next(now);
            now += wait;
            waits.push(wait.as_millis());
        }
        assert_eq!(waits, [50, 100, 200, 300, 50, 100]);
    }
}
