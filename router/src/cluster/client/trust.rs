//! What a worker's link tells the calls in progress: how long silence is
//! normal, and when to give up on the worker.

use std::sync::Arc;
use std::time::Duration;

use proto::ErrorCode;
use tokio::sync::watch;

use crate::error::ApiError;

/// Shared by all clones of one client.
#[derive(Clone, Debug)]
pub(super) struct Trust(Arc<watch::Sender<View>>);

#[derive(Clone, Debug)]
struct View {
    /// Counts how often calls were given up.
    given_up: u64,
    why: &'static str,
    /// Silence in mid-sequence that the worker's own steps explain.
    patience: Duration,
}

/// What a call holds from before its start.
#[derive(Debug)]
pub(in crate::cluster) struct Trusted {
    view_rx: watch::Receiver<View>,
    given_up: u64,
}

impl Trust {
    pub fn new(patience: Duration) -> Trust {
        Trust(Arc::new(watch::Sender::new(View {
            given_up: 0,
            why: "",
            patience,
        })))
    }

    pub fn patience(&self) -> Duration {
        self.0.borrow().patience
    }

    pub fn set_patience(&self, patience: Duration) {
        self.0.send_if_modified(|view| {
            view.patience = patience;
            // Nobody waits for it.
            false
        });
    }

    /// Fails all calls in progress; later ones are not concerned.
    pub fn give_up(&self, why: &'static str) {
        self.0.send_modify(|view| {
            view.given_up += 1;
            view.why = why;
        });
    }

    pub fn watch(&self) -> Trusted {
        let view_rx = self.0.subscribe();
        let given_up = view_rx.borrow().given_up;
        Trusted { view_rx, given_up }
    }
}

impl Trusted {
    /// Resolves when the calls of this time are given up.
    pub async fn lost(&mut self) -> ApiError {
        let given_up = self.given_up;
        let changed = self
            .view_rx
            .wait_for(|view| view.given_up != given_up)
            .await;
        // Without a sender nobody calls either.
        let why = changed.map_or("its link is gone", |view| view.why);
        ApiError::new(ErrorCode::WorkerLost, why)
    }
}
