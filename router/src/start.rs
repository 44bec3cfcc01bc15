//! Puts a router together and starts it.

use std::net::SocketAddr;
use std::sync::Arc;

use runtime::membership::etcd::{self, EtcdError};
use runtime::membership::{Membership, StaticList};
use runtime::server::BindError;
use runtime::{Lifecycle, MetricsPage, ServeOptions};

use crate::admission::Admission;
use crate::cluster::{self, Cluster};
use crate::config::Config;
use crate::dispatch::Dispatch;
use crate::gateway::Gateway;
use crate::grpc;
use crate::metrics::Metrics;
use crate::routes::{Shared, routes};
use crate::tokenize::Tokenize;

/// A router that serves.
#[derive(Debug)]
pub struct Running {
    pub address: SocketAddr,
    cluster: Arc<Cluster>,
    workers: usize,
}

impl Running {
    /// Until every configured worker is connected. Workers found by etcd are not
    /// waited for: nobody knows how many there are.
    pub async fn ready(&self) {
        self.cluster.joined(self.workers).await;
    }
}

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error("no threads to tokenise on: {0}")]
    Threads(#[from] std::io::Error),
    #[error("gRPC reflection: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
    #[error(transparent)]
    Etcd(#[from] EtcdError),
}

/// Starts a router as tasks of `lifecycle`.
pub async fn start(config: Config, lifecycle: Lifecycle) -> Result<Running, StartError> {
    let listener = runtime::bind(&config.listen).await?;
    let address = listener.local_addr()?;
    let page = MetricsPage::new();
    page.keep_up(&lifecycle);
    let metrics = Arc::new(page.record(Metrics::new));
    let cluster = Cluster::new(
        config.policy,
        usize::try_from(config.index_memory.0).unwrap_or(usize::MAX),
        config.link.health.clone(),
        metrics.clone(),
    );
    let (membership, workers) = membership(&config, &metrics)?;
    let watch = cluster::watch(
        cluster.clone(),
        membership,
        config.link.clone(),
        lifecycle.clone(),
    );
    lifecycle.spawn("membership", watch);
    let gateway = Arc::new(Gateway {
        limits: config.limits(),
        objectives: config.objectives.clone(),
        admission: Admission::new(&config.admission, metrics.clone()),
        tokenize: Tokenize::new(&config.tokenize())?,
        cluster: cluster.clone(),
        dispatch: Dispatch::new(config.dispatch.clone(), cluster.clone(), metrics.clone()),
        metrics,
    });
    let (following, draining) = (gateway.clone(), lifecycle.drain_started());
    lifecycle.spawn("room", async move {
        tokio::select! {
            () = following.follow_room() => {}
            () = draining => {}
        }
    });
    let shared = Shared {
        gateway: gateway.clone(),
        page,
        lifecycle: lifecycle.clone(),
    };
    let app = routes(shared, grpc::services(&cluster, &gateway, &lifecycle)?);
    let serving = lifecycle.clone();
    lifecycle.spawn("router", async move {
        runtime::serve(listener, app, &serving, ServeOptions::default()).await;
    });
    Ok(Running {
        address,
        cluster,
        workers,
    })
}

/// Who says who the workers are, and how many to wait for.
fn membership(
    config: &Config,
    metrics: &Arc<Metrics>,
) -> Result<(Box<dyn Membership>, usize), StartError> {
    if config.etcd.server.is_given() {
        let metrics = metrics.clone();
        let on_source = move |answers: bool| metrics.membership_up.set(f64::from(answers));
        return Ok((etcd::follow(config.etcd.clone(), on_source)?, 0));
    }
    let list = StaticList::new(config.worker.iter().cloned());
    let workers = list.members().len();
    metrics.membership_up.set(1.0);
    Ok((Box::new(list), workers))
}
