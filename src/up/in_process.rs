//! Parts as tasks of this process. Their logs carry the part's name.

use runtime::Lifecycle;
use runtime::telemetry::PART;
use tracing::{Instrument, info_span};
use worker::HubSettings;

use super::shape::{RouterPart, WorkerPart};
use crate::part::Ready;

pub async fn start_worker(
    part: &WorkerPart,
    hub: &HubSettings,
    life: Lifecycle,
) -> anyhow::Result<Ready> {
    let span = info_span!(PART, name = part.name);
    let config = worker::Config {
        hub: hub.clone(),
        ..part.parse()?
    };
    let running = worker::start(config, life).instrument(span).await?;
    Ok(Ready::Worker {
        id: running.worker_id,
        address: running.address,
        model: running.model,
    })
}

pub async fn start_router(part: &RouterPart, life: Lifecycle) -> anyhow::Result<Ready> {
    let span = info_span!(PART, name = "router");
    let running = router::start(part.parse()?, life).instrument(span).await?;
    running.ready().await;
    Ok(Ready::Router {
        address: running.address,
    })
}
