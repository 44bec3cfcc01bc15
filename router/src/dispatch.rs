//! Runs planned sequences on their workers and survives their failures.
//!
//! One loop: attempt, and when a worker fails plan again without it, from the
//! prompt and the tokens generated so far. Before the first token that is a
//! retry, after it a migration; the client sees neither. The stream owns permit
//! and booking: end, error and hang-up release them the same way, by drop.

mod attempt;
mod config;
mod progress;
mod race;
mod retries;
mod retry_budget;
mod run;
mod times;
mod verdict;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use proto::ErrorCode;
use tokio::time::{Instant, timeout_at};

use crate::admission::Permit;
use crate::cluster::{Booking, Cluster, Excluded};
use crate::error::ApiError;
use crate::metrics::Metrics;
use crate::sequence::{Event, Events, Sequence};
pub use config::Config;
use retry_budget::RetryBudget;
use run::Run;

/// A sequence with its first booking.
#[derive(Debug)]
pub struct Planned {
    pub sequence: Sequence,
    pub booking: Booking,
}

/// What all sequences share.
#[derive(Debug)]
pub struct Dispatch {
    cluster: Arc<Cluster>,
    metrics: Arc<Metrics>,
    config: Config,
    budget: Mutex<RetryBudget>,
}

impl Dispatch {
    pub fn new(config: Config, cluster: Arc<Cluster>, metrics: Arc<Metrics>) -> Arc<Dispatch> {
        Arc::new(Dispatch {
            cluster,
            metrics,
            budget: Mutex::new(RetryBudget::new(config.allowance())),
            config,
        })
    }

    /// Chooses and books workers for every sequence, or for none. Waits a little
    /// for a worker if none is there.
    pub async fn plan(&self, sequences: &[Sequence]) -> Result<Vec<Planned>, ApiError> {
        let span = tracing::info_span!("plan", sequences = sequences.len());
        let give_up = Instant::now() + self.config.worker_wait.0;
        loop {
            let available = self.cluster.available();
            match span.in_scope(|| self.book(sequences)) {
                Err(none) if none.code == ErrorCode::NoWorker => {
                    timeout_at(give_up, available).await.map_err(|_| none)?;
                }
                planned => return planned,
            }
        }
    }

    fn book(&self, sequences: &[Sequence]) -> Result<Vec<Planned>, ApiError> {
        let book = |sequence: &Sequence| {
            Ok(Planned {
                booking: self.cluster.book(sequence, &[], &Excluded::new())?,
                sequence: sequence.clone(),
            })
        };
        sequences.iter().map(book).collect()
    }

    /// Starts planned sequences; all of them hold `permit`.
    pub fn run(self: &Arc<Self>, planned: Vec<Planned>, permit: Permit) -> Vec<Events> {
        let permit = Arc::new(permit);
        planned
            .into_iter()
            .map(|planned| {
                self.budget().deposit(Instant::now().into_std());
                stream(Run::new(self, planned, permit.clone())).boxed()
            })
            .collect()
    }

    /// Takes a retry from the budget, or tells how long to wait.
    fn withdraw(&self) -> Result<(), Duration> {
        self.budget().withdraw(Instant::now().into_std())
    }

    fn budget(&self) -> MutexGuard<'_, RetryBudget> {
        self.budget.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn stream(mut run: Run) -> impl futures::Stream<Item = Result<Event, ApiError>> {
    async_stream::try_stream! {
        if let Some(event) = run.opening() {
            yield event;
        }
        loop {
            let event = run.next().await?;
            let last = matches!(event, Event::Finished(_));
            yield event;
            if last {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests;
