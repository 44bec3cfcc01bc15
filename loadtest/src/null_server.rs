//! A server of known speed: as fast as possible by default, or by a script, so
//! that what the generator says of it can be held against what it does.
//!
//! It knows no HTTP but what this crate's client, `curl`, `wrk` and the like
//! send, and no model.

mod connection;
mod reply;
mod script;

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use runtime::Lifecycle;
use tokio::net::TcpListener;
use tokio::sync::Notify;

use crate::generator::Pacer;
pub use script::{Fault, Script, SendLog, SentStream, Stall};

/// After a connection that could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// A server that serves until its life ends.
pub struct ScriptedServer {
    address: SocketAddr,
    state: Arc<State>,
}

/// What all connections share.
struct State {
    script: Script,
    pacer: Pacer,
    /// The script's time starts with the first request.
    started: OnceLock<Instant>,
    requests: AtomicU64,
    connections: AtomicU64,
    closed: AtomicU64,
    /// One of the counts did.
    changed: Notify,
}

/// Counts a connection as closed when it ends, by whatever way.
struct Open(Arc<State>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.closed.fetch_add(1, Ordering::SeqCst);
        self.0.changed.notify_waiters();
    }
}

impl ScriptedServer {
    /// On a free port of loopback.
    pub async fn start(life: &Lifecycle, script: Script) -> io::Result<ScriptedServer> {
        ScriptedServer::start_at(life, SocketAddr::from(([127, 0, 0, 1], 0)), script).await
    }

    pub async fn start_at(
        life: &Lifecycle,
        address: SocketAddr,
        script: Script,
    ) -> io::Result<ScriptedServer> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let state = Arc::new(State {
            script,
            pacer: Pacer::start()?,
            started: OnceLock::new(),
            requests: AtomicU64::new(0),
            connections: AtomicU64::new(0),
            closed: AtomicU64::new(0),
            changed: Notify::new(),
        });
        life.spawn(
            "scripted-server",
            accept(life.clone(), listener, state.clone()),
        );
        Ok(ScriptedServer { address, state })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Requests for answers received so far.
    pub fn requests(&self) -> u64 {
        self.state.requests.load(Ordering::SeqCst)
    }

    /// Connections accepted so far.
    pub fn connections(&self) -> u64 {
        self.state.connections.load(Ordering::SeqCst)
    }

    /// Resolves once so many requests have been received.
    pub async fn received(&self, requests: u64) {
        self.until(|| self.requests() >= requests).await;
    }

    /// Resolves when no connection is open.
    pub async fn deserted(&self) {
        let closed = || self.state.closed.load(Ordering::SeqCst);
        self.until(|| closed() == self.connections()).await;
    }

    async fn until(&self, is_so: impl Fn() -> bool) {
        loop {
            let changed = self.state.changed.notified();
            let mut changed = std::pin::pin!(changed);
            // From here on a change is seen, even one before the wait.
            changed.as_mut().enable();
            if is_so() {
                return;
            }
            changed.await;
        }
    }
}

async fn accept(life: Lifecycle, listener: TcpListener, state: Arc<State>) {
    let serving = async {
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                // No file is left, most likely: one has to be closed first.
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            };
            state.connections.fetch_add(1, Ordering::SeqCst);
            let open = Open(state.clone());
            let connection = connection::serve(stream, state.clone());
            let drained = life.drain_started();
            life.spawn("scripted-connection", async move {
                let _open = open;
                tokio::select! {
                    _ = connection => {}
                    () = drained => {}
                }
            });
        }
    };
    tokio::select! {
        () = serving => {}
        () = life.drain_started() => {}
    }
}
