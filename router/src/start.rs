//! Puts a router together and starts it.

use std::net::SocketAddr;
use std::sync::Arc;

use runtime::membership::StaticList;
use runtime::server::BindError;
use runtime::{Lifecycle, MetricsPage, ServeOptions};

use crate::admission::Admission;
use crate::cluster::{self, Cluster};
use crate::config::Config;
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
    /// Until every configured worker is connected.
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
}

/// Starts a router as tasks of `lifecycle`.
pub async fn start(config: Config, lifecycle: Lifecycle) -> Result<Running, StartError> {
    let listener = runtime::bind(&config.listen).await?;
    let address = listener.local_addr()?;
    let page = MetricsPage::new();
    page.keep_up(&lifecycle);
    let metrics = Arc::new(page.record(Metrics::new));
    let cluster = Cluster::new(config.policy, metrics.clone());
    let members = StaticList::new(config.worker.iter().cloned());
    let workers = members.members().len();
    let watch = cluster::watch(
        cluster.clone(),
        members,
        config.link.clone(),
        lifecycle.clone(),
    );
    lifecycle.spawn("membership", watch);
    let gateway = Arc::new(Gateway {
        limits: config.limits(),
        admission: Admission::new(&config.admission, metrics.clone()),
        tokenize: Tokenize::new(&config.tokenize())?,
        cluster: cluster.clone(),
        metrics,
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
