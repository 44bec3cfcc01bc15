//! The gRPC services on the router's port: generation, health and reflection.

use std::sync::Arc;

use axum::Router;
use proto::v1::inference_server::InferenceServer;
use runtime::Lifecycle;
use tonic::service::Routes;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use super::InferenceService;
use crate::cluster::Cluster;
use crate::gateway::Gateway;

/// Name of the service as health checks ask for it.
const SERVICE: &str = "kvasir.v1.Inference";

pub(crate) fn services(
    cluster: &Arc<Cluster>,
    gateway: &Arc<Gateway>,
    lifecycle: &Lifecycle,
) -> Result<Router, tonic_reflection::server::Error> {
    let limits = gateway.limits;
    let inference = InferenceService::new(gateway.clone(), limits.max_sequences);
    let inference =
        InferenceServer::new(inference).max_decoding_message_size(limits.max_body_bytes);
    let (reporter, health) = tonic_health::server::health_reporter();
    let reported = report_health(cluster.clone(), reporter, lifecycle.clone());
    lifecycle.spawn("grpc health", reported);
    let routes = Routes::new(inference)
        .add_service(health)
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?);
    Ok(routes.into_axum_router().reset_fallback())
}

/// To be built in the protocol's both versions: Python's official client knows
/// only the older one.
fn reflection() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(proto::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .with_service_name(SERVICE)
        .with_service_name("grpc.health.v1.Health")
}

/// Serving as long as a worker is connected and no drain has begun.
async fn report_health(cluster: Arc<Cluster>, reporter: HealthReporter, lifecycle: Lifecycle) {
    let mut connected = cluster.watch_connected();
    loop {
        let status = if *connected.borrow_and_update() > 0 && !lifecycle.is_draining() {
            ServingStatus::Serving
        } else {
            ServingStatus::NotServing
        };
        reporter.set_service_status(SERVICE, status).await;
        reporter.set_service_status("", status).await;
        if lifecycle.is_draining() {
            return;
        }
        tokio::select! {
            changed = connected.changed() => if changed.is_err() { return },
            () = lifecycle.drain_started() => {}
        }
    }
}
