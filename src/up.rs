//! `kvasir up`: a whole cluster on this machine.
//!
//! A part is its command line: in this process it is parsed and started as
//! tasks, with `--processes` it is handed to a process of its own. Everything
//! else (ports, names, order of start and end) is the same.

mod config;
mod in_process;
mod passed_on;
mod processes;
mod shape;

use std::fmt::Write;
use std::time::{Duration, Instant};

use anyhow::Context;
use futures::future::try_join_all;
use runtime::{Lifecycle, shutdown_signal};
use worker::HubSettings;

pub use config::Config;

use crate::part::{self, Ready};
use crate::stdio::say;
use shape::{RouterPart, Shape, WorkerPart};

/// The lives of a cluster's parts. Workers outlive the router, which finishes
/// its requests on them.
struct Cluster {
    all: Lifecycle,
    workers: Lifecycle,
    router: Lifecycle,
}

/// How parts come to life.
enum Starter<'a> {
    InProcess(&'a HubSettings),
    Processes,
}

impl Starter<'_> {
    async fn worker(&self, part: &WorkerPart, life: &Lifecycle) -> anyhow::Result<Ready> {
        match self {
            Starter::InProcess(hub) => in_process::start_worker(part, hub, life.child()).await,
            Starter::Processes => processes::start(part.name.clone(), part.command(), life).await,
        }
        .with_context(|| format!("can't start {}", part.name))
    }

    async fn router(&self, part: &RouterPart, life: &Lifecycle) -> anyhow::Result<Ready> {
        match self {
            Starter::InProcess(_) => in_process::start_router(part, life.child()).await,
            Starter::Processes => processes::start("router".into(), part.command(), life).await,
        }
        .context("can't start the router")
    }
}

pub async fn run(config: Config) -> anyhow::Result<()> {
    let all = Lifecycle::new();
    let cluster = Cluster {
        workers: all.child(),
        router: all.child(),
        all,
    };
    let result = tokio::select! {
        result = serve(&config, &cluster) => result,
        signal = shutdown_signal() => signal.context("can't wait for signals"),
    };
    if result.is_ok() {
        say("draining; Ctrl-C again stops at once");
    }
    let grace = if result.is_ok() {
        config.drain_grace.0
    } else {
        Duration::ZERO
    };
    let start = Instant::now();
    part::finish(&cluster.router, grace).await?;
    part::finish(&cluster.workers, grace.saturating_sub(start.elapsed())).await?;
    part::finish(&cluster.all, Duration::ZERO).await?;
    result
}

/// Starts everything, says so, and goes on for ever.
async fn serve(config: &Config, cluster: &Cluster) -> anyhow::Result<()> {
    let start = Instant::now();
    let shape = Shape::of(config);
    // Before the models are loaded, which may take long. The router takes the
    // port later.
    drop(runtime::bind(&shape.listen).await?);
    let starter = if config.processes {
        Starter::Processes
    } else {
        Starter::InProcess(&config.hub)
    };
    let parts = shape.workers();
    let starting = parts
        .iter()
        .map(|part| starter.worker(part, &cluster.workers));
    let workers = try_join_all(starting).await?;
    for (part, ready) in parts.iter().zip(&workers) {
        say(&format!(
            "{:<11} {:<8} grpc://{}",
            part.name,
            part.role,
            ready.address()
        ));
    }
    let addresses = workers.iter().map(Ready::address).collect();
    let router = starter
        .router(&shape.router(addresses), &cluster.router)
        .await?;
    let url = format!("http://{}", router.address());
    say(&format!("{:<11} {:<8} {url}", "router", "gateway"));
    let model = workers.iter().find_map(|ready| match ready {
        Ready::Worker { model, .. } => Some(model.as_str()),
        Ready::Router { .. } => None,
    });
    say(&welcome(start.elapsed(), &url, model.unwrap_or_default()));
    std::future::pending().await
}

fn welcome(took: Duration, url: &str, model: &str) -> String {
    let body = format!(
        r#"{{"model": {model:?}, "temperature": 0, "messages": [{{"role": "user", "content": "What is Kvasir?"}}]}}"#
    );
    let mut text = format!("ready after {:.2} s: {url}\n\n", took.as_secs_f64());
    let _ = writeln!(text, "  curl {url}/v1/chat/completions \\");
    let _ = writeln!(text, "    -H 'Content-Type: application/json' \\");
    let _ = writeln!(text, "    -d '{body}'\n");
    text.push_str("Ctrl-C drains and stops.");
    text
}
