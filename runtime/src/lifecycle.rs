//! From the first task to the last: who still runs, and how they are asked to
//! leave.
//!
//! A shutdown has two steps. *Drain*: take no new work, finish what there is.
//! *Stop*: the grace time is over, leave now. Every task is spawned here, so
//! that [`Lifecycle::finish`] can wait for all of them and name who is late.

mod presence;

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

pub use presence::Presence;
use presence::Present;

/// After the hard stop, so long may a task that watches
/// [`Lifecycle::stopped`] take before it is aborted.
const STOP_TIME: Duration = Duration::from_millis(250);

/// A handle on the life of a process, or of one part of it. Clones are the same
/// life.
#[derive(Clone)]
pub struct Lifecycle {
    drain: CancellationToken,
    stop: CancellationToken,
    /// Of this life first, then of its ancestors: a task counts in all of them.
    present: Vec<Arc<Present>>,
}

/// Some tasks did not end within the grace time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Late {
    /// Names of the tasks, with repetitions.
    pub tasks: Vec<&'static str>,
}

impl Lifecycle {
    pub fn new() -> Lifecycle {
        Lifecycle {
            drain: CancellationToken::new(),
            stop: CancellationToken::new(),
            present: vec![Arc::default()],
        }
    }

    /// A life within this one: it can end alone, and ends when this one does.
    /// Its tasks are also tasks of this life.
    pub fn child(&self) -> Lifecycle {
        let mut present = vec![Arc::default()];
        present.extend(self.present.iter().cloned());
        Lifecycle {
            drain: self.drain.child_token(),
            stop: self.stop.child_token(),
            present,
        }
    }

    /// Starts a task of this life, in the current tracing span. The task is
    /// aborted if it outlives the hard stop.
    pub fn spawn<F>(&self, name: &'static str, future: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let presence = self.enter(name);
        let abort = presence.abort_slot();
        // No async block: it would keep room for `future` twice.
        let task = future.map(|output| {
            drop(presence);
            output
        });
        #[allow(clippy::disallowed_methods, reason = "the one place that spawns")]
        let handle = tokio::spawn(task.in_current_span());
        abort.set(handle.abort_handle());
        handle
    }

    /// Counts as a task of this life until dropped; for threads, and for work
    /// that has no task of its own.
    pub fn enter(&self, name: &'static str) -> Presence {
        Presence::enter(name, &self.present)
    }

    /// Starts the drain. Idempotent.
    pub fn begin_drain(&self) {
        self.drain.cancel();
    }

    pub fn is_draining(&self) -> bool {
        self.drain.is_cancelled()
    }

    /// Resolves when no new work is to be taken.
    pub fn drain_started(&self) -> impl Future<Output = ()> + Send + 'static {
        self.drain.clone().cancelled_owned()
    }

    /// Resolves when the grace time is over: leave at once.
    pub fn stopped(&self) -> impl Future<Output = ()> + Send + 'static {
        self.stop.clone().cancelled_owned()
    }

    /// Ends the grace time of a drain now. Idempotent.
    pub fn stop(&self) {
        self.drain.cancel();
        self.stop.cancel();
    }

    /// Drains, and waits until every task has left. When `grace` is over (or
    /// [`Lifecycle::stop`] is called) tasks are stopped hard and named.
    pub async fn finish(&self, grace: Duration) -> Result<(), Late> {
        self.begin_drain();
        let present = &self.present[0];
        tokio::select! {
            biased;
            () = present.all_left() => {
                self.stop();
                return Ok(());
            }
            () = tokio::time::sleep(grace) => {}
            () = self.stop.cancelled() => {}
        }
        let tasks = present.names();
        self.stop();
        if tokio::time::timeout(STOP_TIME, present.all_left())
            .await
            .is_err()
        {
            present.abort_all();
            // A task that blocks its thread can't be aborted: don't wait for it.
            let _ = tokio::time::timeout(STOP_TIME, present.all_left()).await;
        }
        if tasks.is_empty() {
            Ok(())
        } else {
            Err(Late { tasks })
        }
    }
}

impl Default for Lifecycle {
    fn default() -> Lifecycle {
        Lifecycle::new()
    }
}

impl fmt::Display for Late {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "stopped before they were done: {}",
            self.tasks.join(", ")
        )
    }
}

impl std::error::Error for Late {}

/// Resolves at the next Ctrl-C or SIGTERM. Once it was called, these signals no
/// longer kill the process.
pub async fn shutdown_signal() -> std::io::Result<()> {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        Ok(())
    }
    #[cfg(not(unix))]
    {
        tokio::signal::ctrl_c().await
    }
}

#[cfg(test)]
mod tests;
