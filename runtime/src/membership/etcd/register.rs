//! A worker's side: a key under a lease, kept as long as the worker takes work.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use etcd_client::{LeaseKeepAliveStream, LeaseKeeper, PutOptions};
use tracing::{debug, info, warn};

use super::backoff::{Backoff, random};
use super::connection::{Connection, Failure, Servers};
use super::{EtcdError, RegisterConfig, Registration, record};
use crate::Lifecycle;

/// Keeps `registration` in etcd until the drain starts, as a task of
/// `lifecycle`. While etcd is away it goes on trying.
pub fn register(
    config: RegisterConfig,
    registration: &Registration,
    lifecycle: &Lifecycle,
) -> Result<(), EtcdError> {
    let registrar = Registrar {
        servers: Servers::new(&config.server)?,
        key: format!("{}{}", config.server.prefix(), registration.id),
        value: record::encode(registration),
        ttl_seconds: config.etcd_lease_ttl.0.as_secs_f64().ceil() as i64,
        held: None,
        last_failure: String::new(),
        is_shadowed: false,
    };
    let drain = lifecycle.drain_started();
    lifecycle.spawn("registration", registrar.keep(drain));
    Ok(())
}

struct Registrar {
    servers: Servers,
    key: String,
    value: Vec<u8>,
    ttl_seconds: i64,
    /// The lease, and where it was granted.
    held: Option<(Connection, i64)>,
    last_failure: String,
    /// Another worker has our id.
    is_shadowed: bool,
}

impl Registrar {
    async fn keep(mut self, drain: impl Future<Output = ()>) {
        tokio::select! {
            biased;
            () = drain => {}
            never = self.retry() => match never {},
        }
        self.deregister().await;
    }

    async fn retry(&mut self) -> Infallible {
        let mut backoff = Backoff::new();
        loop {
            let Err(failure) = self.session().await;
            let failure = failure.to_string();
            if failure != self.last_failure {
                warn!(reason = failure, "not registered in etcd; trying on");
                self.last_failure = failure;
            }
            tokio::time::sleep(backoff.next(Instant::now(), random())).await;
        }
    }

    /// A lease from its grant to its loss. Each has a new one: what is left of
    /// the old one ends by itself, and no key hangs on it.
    async fn session(&mut self) -> Result<Infallible, Failure> {
        let connection = self.servers.connect().await?;
        let mut client = connection.client.clone();
        let granted = connection
            .answer(client.lease_grant(self.ttl_seconds, None))
            .await?;
        let lease = granted.id();
        self.held = Some((connection.clone(), lease));
        self.put(&connection, lease).await?;
        info!(
            etcd = connection.url(),
            key = self.key,
            "registered in etcd"
        );
        self.last_failure.clear();
        let mut alive = connection.answer(client.lease_keep_alive(lease)).await?;
        // So that two of them may fail before the lease ends.
        let pause = Duration::from_secs(granted.ttl().max(1) as u64) / 3;
        loop {
            tokio::time::sleep(pause).await;
            keep_alive(&connection, &mut alive).await?;
            self.check(&connection, lease).await?;
        }
    }

    async fn put(&self, connection: &Connection, lease: i64) -> Result<(), Failure> {
        let mut client = connection.client.clone();
        let options = PutOptions::new().with_lease(lease);
        let put = client.put(self.key.as_str(), self.value.clone(), Some(options));
        connection.answer(put).await.map(drop)
    }

    /// The key may be gone while the lease lives: deleted by hand, or by an end
    /// of somebody else who had it.
    async fn check(&mut self, connection: &Connection, lease: i64) -> Result<(), Failure> {
        let mut client = connection.client.clone();
        let found = connection
            .answer(client.get(self.key.as_str(), None))
            .await?;
        let Some(found) = found.kvs().first() else {
            warn!(
                key = self.key,
                "the registration was deleted; registering again"
            );
            return self.put(connection, lease).await;
        };
        let is_shadowed = found.lease() != lease;
        if is_shadowed && !self.is_shadowed {
            warn!(
                key = self.key,
                "another worker has registered under this id and is the one that routers see; \
                 give each worker its own --id"
            );
        }
        self.is_shadowed = is_shadowed;
        Ok(())
    }

    async fn deregister(&mut self) {
        let Some((connection, lease)) = self.held.take() else {
            return;
        };
        let mut client = connection.client.clone();
        match connection.answer(client.lease_revoke(lease)).await {
            Ok(_) => info!(key = self.key, "deregistered from etcd"),
            // The lease ends by itself.
            Err(error) => debug!(%error, "can't deregister from etcd"),
        }
    }
}

async fn keep_alive(
    connection: &Connection,
    (keeper, answers): &mut (LeaseKeeper, LeaseKeepAliveStream),
) -> Result<(), Failure> {
    connection.answer(keeper.keep_alive()).await?;
    match connection.answer(answers.message()).await? {
        Some(answer) if answer.ttl() > 0 => Ok(()),
        _ => Err(Failure::LeaseLost),
    }
}
