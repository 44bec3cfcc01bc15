//! From configuration to a serving worker.

mod loading;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use engine::{Engine, EngineConfig};
use proto::worker::WorkerDescription;
use proto::worker::worker_server::{SERVICE_NAME, WorkerServer};
use runtime::membership::AddressError;
use runtime::membership::etcd::{self, EtcdError, Registration};
use runtime::server::BindError;
use runtime::{Lifecycle, MetricsPage, ServeOptions};
use tokio::net::TcpListener;
use tonic::service::Routes;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::config::{Config, Role};
use crate::engine_thread::{self, EngineHandle, Publish};
use crate::event_feed::{EventFeed, WorkerStatus};
use crate::handover::Receiver;
use crate::handover::receive::ReceiverOptions;
use crate::http;
use crate::kv_tier;
use crate::metrics::{Metrics, set_kv_block};
use crate::model::{self, LoadedModel, ModelError};
use crate::service::{Shared, WorkerService};
use crate::structured::Structured;
use crate::tickets::Tickets;
use crate::wire::{self, BlockIdentity};
use loading::Loading;

/// So long an engine whose steps fail gets no work, if there are other workers.
const NOT_READY: Duration = Duration::from_secs(5);

/// A worker that serves. It ends with its lifecycle.
#[derive(Clone, Debug)]
pub struct Running {
    /// Where it listens.
    pub address: SocketAddr,
    pub worker_id: String,
    /// Name of the model in requests.
    pub model: String,
    pub role: Role,
    pub total_blocks: usize,
    feed: Arc<EventFeed>,
}

/// Why a worker did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error("can't start the engine's thread: {0}")]
    Thread(std::io::Error),
    #[error("loading the model panicked: {0}")]
    Panicked(#[from] tokio::task::JoinError),
    #[error("gRPC reflection can't be set up: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
    #[error("routers can't be told where this worker is: {0}; check --advertise")]
    Address(#[from] AddressError),
    #[error(transparent)]
    Etcd(#[from] EtcdError),
}

/// Loads the model, then serves it until the lifecycle drains. Probes and
/// routers are answered from the beginning.
pub async fn start(config: Config, lifecycle: Lifecycle) -> Result<Running, StartError> {
    let listener = runtime::bind(&config.listen).await?;
    let loading = config.clone();
    let load = async move {
        let model = tokio::task::spawn_blocking(move || model::load(&loading)).await??;
        Ok(model)
    };
    serve(config, listener, load, lifecycle).await
}

/// Serves the model that `load` gives, and until then says that it is loading.
pub(crate) async fn serve(
    config: Config,
    listener: TcpListener,
    load: impl Future<Output = Result<LoadedModel, StartError>>,
    lifecycle: Lifecycle,
) -> Result<Running, StartError> {
    let address = local_address(&config, &listener)?;
    let page = MetricsPage::new();
    page.keep_up(&lifecycle);
    let reporter = HealthReporter::new();
    // Unknown services are answered NOT_FOUND; these are known and not ready.
    for service in ["", SERVICE_NAME] {
        let not_serving = ServingStatus::NotServing;
        reporter.set_service_status(service, not_serving).await;
    }
    let loading = Loading::new(loading::routes(&reporter, page.clone()));
    let (app, life) = (loading.app(), lifecycle.clone());
    lifecycle.spawn("server", async move {
        runtime::serve(listener, app, &life, ServeOptions::default()).await;
    });
    let model = load.await?;
    let shared = Arc::new(assemble(&config, address, model, &page, &lifecycle)?);
    let running = Running {
        address,
        worker_id: shared.description.worker_id.clone(),
        model: shared.description.model.clone(),
        role: config.role,
        total_blocks: shared.description.total_blocks as usize,
        feed: shared.feed.clone(),
    };
    let app = grpc_routes(&shared, &reporter)?.merge(http::routes(shared.clone(), page));
    let health = Health {
        reporter,
        engine: shared.engine.clone(),
        feed: shared.feed.clone(),
    };
    loading.finish(app);
    lifecycle.spawn("health", health.watch(lifecycle.clone()));
    if config.etcd.server.is_given() {
        let registration = registration(&shared, config.role)?;
        etcd::register(config.etcd, &registration, &lifecycle)?;
    }
    Ok(running)
}

impl Running {
    /// The load now.
    pub fn status(&self) -> WorkerStatus {
        self.feed.status()
    }

    /// Waits until the load is as `wanted`.
    pub async fn status_when(&self, wanted: impl FnMut(&WorkerStatus) -> bool) -> WorkerStatus {
        self.feed.status_when(wanted).await
    }
}

/// What routers learn from etcd.
fn registration(shared: &Shared, role: Role) -> Result<Registration, AddressError> {
    let role = match role {
        Role::Prefill => "prefill",
        Role::Decode => "decode",
        Role::Both => "both",
    };
    Ok(Registration {
        id: shared.description.worker_id.clone(),
        address: shared.address.parse()?,
        epoch: shared.description.epoch,
        labels: BTreeMap::from([
            ("model".to_owned(), shared.description.model.clone()),
            ("role".to_owned(), role.to_owned()),
        ]),
    })
}

fn local_address(config: &Config, listener: &TcpListener) -> Result<SocketAddr, StartError> {
    listener.local_addr().map_err(|source| {
        StartError::Bind(BindError::Other {
            address: config.listen.clone(),
            source,
        })
    })
}

pub(crate) fn assemble(
    config: &Config,
    address: SocketAddr,
    model: LoadedModel,
    page: &MetricsPage,
    lifecycle: &Lifecycle,
) -> Result<Shared, StartError> {
    let mut engine = Engine::new(engine_config(config), model.runner);
    let shape = engine.shape().clone();
    let max_model_len = engine.max_model_len();
    let metrics = Metrics::new(page, &model.name, config.kv_host_memory.0 > 0);
    set_kv_block(page, &shape.kv);
    let feed = Arc::new(EventFeed::new(epoch(), WorkerStatus::default()));
    let publish = Publish {
        feed: feed.clone(),
        metrics: metrics.clone(),
    };
    let (host_memory, host_metrics) = (config.kv_host_memory, metrics.host_tier().cloned());
    let setup = |wake| {
        if let Some(metrics) = host_metrics {
            kv_tier::add_host_memory(&mut engine, host_memory, wake, metrics)?;
        }
        Ok(engine)
    };
    let engine = engine_thread::spawn(setup, publish, lifecycle.enter("engine"))
        .map_err(StartError::Thread)?;
    let identity = BlockIdentity {
        model_fingerprint: model.fingerprint,
        block_size: shape.block_size,
    };
    let layout = wire::kv_layout(&shape.kv, &identity);
    let description = WorkerDescription {
        worker_id: config.id.clone().unwrap_or_else(|| default_id(address)),
        epoch: feed.epoch(),
        model: model.name,
        model_fingerprint: identity.model_fingerprint.clone(),
        role: wire::role(config.role).into(),
        block_size: shape.block_size as u32,
        total_blocks: shape.total_blocks as u32,
        max_model_len: max_model_len as u32,
        vocab_size: shape.vocab_size as u32,
        max_sequences: config.max_sequences as u32,
        kv_dtype: shape.kv.dtype.to_owned(),
        kv_block_bytes: shape.kv.block_bytes as u64,
    };
    let receiver = Receiver::new(ReceiverOptions {
        engine: engine.clone(),
        layout: layout.clone(),
        block_bytes: shape.kv.block_bytes,
        timeout: config.transfer_timeout.0,
        metrics: metrics.clone(),
    });
    Ok(Shared {
        structured: Structured::new(
            &model.files,
            &shape.eos_token_ids,
            metrics.grammars().clone(),
        ),
        description,
        files: model.files,
        address: config
            .advertise
            .clone()
            .unwrap_or_else(|| address.to_string()),
        identity,
        layout,
        engine,
        feed,
        tickets: Tickets::default(),
        ticket_lease: config.ticket_lease.0,
        receiver,
        metrics,
        lifecycle: lifecycle.clone(),
    })
}

fn engine_config(config: &Config) -> EngineConfig {
    EngineConfig {
        max_batch_tokens: config.max_batch_tokens,
        max_sequences: config.max_sequences,
        max_waiting: config.max_waiting,
        target_step: config.target_step(),
        ..EngineConfig::default()
    }
}

fn grpc_routes(
    shared: &Arc<Shared>,
    reporter: &HealthReporter,
) -> Result<axum::Router, StartError> {
    let health = tonic_health::server::HealthService::from_health_reporter(reporter.clone());
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(proto::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()?;
    // A prompt of a million tokens has about 4 MiB.
    let worker = WorkerServer::new(WorkerService(shared.clone()))
        .max_decoding_message_size(64 * 1024 * 1024)
        .max_encoding_message_size(usize::MAX);
    let routes = Routes::new(worker)
        .add_service(tonic_health::pb::health_server::HealthServer::new(health))
        .add_service(reflection);
    Ok(routes.prepare().into_axum_router())
}

/// Larger than at every earlier start, as far as the clock goes.
fn epoch() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(1, |time| time.as_micros() as u64)
}

fn default_id(address: SocketAddr) -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname");
    let host = host.as_deref().map(str::trim).unwrap_or("worker");
    format!("{host}:{}", address.port())
}

/// Tells health watchers and subscribers when no new work is taken.
struct Health {
    reporter: HealthReporter,
    engine: EngineHandle,
    feed: Arc<EventFeed>,
}

impl Health {
    async fn watch(mut self, lifecycle: Lifecycle) {
        tokio::select! {
            () = lifecycle.drain_started() => {}
            () = self.follow_engine() => lifecycle.drain_started().await,
        }
        self.feed.update_status(|status| status.draining = true);
        self.set(ServingStatus::NotServing).await;
        // Ends the watches, which would hold up the drain.
        for service in ["", SERVICE_NAME] {
            self.reporter.clear_service_status(service).await;
        }
    }

    /// Until the engine has ended. One whose steps all fail is said to be not
    /// ready for a while; then work shows whether it still is.
    async fn follow_engine(&self) {
        loop {
            self.set(ServingStatus::Serving).await;
            tokio::select! {
                () = self.engine.ended() => break,
                _ = self.feed.status_when(|status| status.not_ready) => {}
            }
            self.set(ServingStatus::NotServing).await;
            tokio::select! {
                () = tokio::time::sleep(NOT_READY) => {}
                _ = self.feed.status_when(|status| !status.not_ready) => {}
            }
            self.feed.update_status(|status| status.not_ready = false);
        }
        self.set(ServingStatus::NotServing).await;
    }

    async fn set(&self, status: ServingStatus) {
        for service in ["", SERVICE_NAME] {
            self.reporter.set_service_status(service, status).await;
        }
    }
}
