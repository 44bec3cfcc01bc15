//! `kvasir router` and `kvasir worker`: one part as this process.
//!
//! When the part is ready, one line on standard output says so, for whoever
//! started it; logs go to standard error.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, bail};
use runtime::{Lifecycle, shutdown_signal};

use crate::stdio::{ParentFlag, say};
use crate::{Router, Worker};

/// What a part says when it is ready: `ready router ADDRESS` or
/// `ready worker ID ADDRESS MODEL`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ready {
    Router {
        address: SocketAddr,
    },
    Worker {
        id: String,
        address: SocketAddr,
        model: String,
    },
}

impl Ready {
    pub fn address(&self) -> SocketAddr {
        match self {
            Ready::Router { address } | Ready::Worker { address, .. } => *address,
        }
    }
}

impl fmt::Display for Ready {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ready::Router { address } => write!(f, "ready router {address}"),
            Ready::Worker { id, address, model } => {
                write!(f, "ready worker {id} {address} {model}")
            }
        }
    }
}

impl std::str::FromStr for Ready {
    type Err = anyhow::Error;

    fn from_str(line: &str) -> anyhow::Result<Ready> {
        let words: Vec<_> = line.trim_end().splitn(5, ' ').collect();
        match words.as_slice() {
            ["ready", "router", address] => Ok(Ready::Router {
                address: address.parse()?,
            }),
            ["ready", "worker", id, address, model] => Ok(Ready::Worker {
                id: id.to_string(),
                address: address.parse()?,
                model: model.to_string(),
            }),
            _ => bail!("{line:?} is no ready line"),
        }
    }
}

pub async fn run_router(config: Router) -> anyhow::Result<()> {
    let lifecycle = Lifecycle::new();
    let start = async {
        let running = router::start(config.router, lifecycle.child()).await?;
        tracing::info!(address = %running.address, "router listens; waiting for its workers");
        running.ready().await;
        Ok(Ready::Router {
            address: running.address,
        })
    };
    run(start, &lifecycle, &config.parent, config.drain_grace.0).await
}

pub async fn run_worker(config: Worker) -> anyhow::Result<()> {
    let lifecycle = Lifecycle::new();
    let grace = config.worker.drain_grace.0;
    let start = async {
        let running = worker::start(config.worker, lifecycle.child()).await?;
        Ok(Ready::Worker {
            id: running.worker_id,
            address: running.address,
            model: running.model,
        })
    };
    run(start, &lifecycle, &config.parent, grace).await
}

/// From start to end of a part. Whoever asks for the end, it drains; asked
/// twice, it stops at once.
async fn run(
    start: impl Future<Output = anyhow::Result<Ready>>,
    lifecycle: &Lifecycle,
    parent: &ParentFlag,
    grace: Duration,
) -> anyhow::Result<()> {
    let serve = async {
        say(&start.await?.to_string());
        std::future::pending::<anyhow::Result<()>>().await
    };
    tokio::select! {
        result = serve => return result,
        signal = shutdown_signal() => signal.context("can't wait for signals")?,
        () = parent.closed() => {}
    }
    tracing::info!("draining");
    finish(lifecycle, grace).await
}

/// Drains within `grace`; another signal ends the grace time.
pub async fn finish(lifecycle: &Lifecycle, grace: Duration) -> anyhow::Result<()> {
    let hurry = async {
        match shutdown_signal().await {
            Ok(()) => lifecycle.stop(),
            Err(error) => tracing::warn!(%error, "can't wait for signals"),
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        result = lifecycle.finish(grace) => {
            if let Err(late) = result {
                tracing::warn!("{late}");
            }
        }
        () = hurry => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_line_round_trips() {
        let address = "127.0.0.1:8080".parse().unwrap();
        let lines = [
            Ready::Router { address },
            Ready::Worker {
                id: "prefill-0".into(),
                address,
                model: "my model".into(),
            },
        ];
        for ready in lines {
            assert_eq!(ready.to_string().parse::<Ready>().unwrap(), ready);
        }
        for line in [
            "",
            "ready",
            "ready worker a 127.0.0.1:1",
            "ready router nowhere",
            "steady router 127.0.0.1:1",
        ] {
            assert!(line.parse::<Ready>().is_err(), "{line}");
        }
    }
}
