//! What a sequence has tried in vain, and whether it tries again.

use proto::ErrorCode;
use tracing::warn;

use super::attempt::Failure;
use crate::cluster::{Cluster, Excluded};
use crate::error::ApiError;
use crate::sequence::Event;

/// Failures in a row, without a token between them, before the request fails: a
/// request that breaks every engine must not take down the cluster. Workers
/// that only refuse it don't count.
const MAX_FRUITLESS_ATTEMPTS: usize = 4;

#[derive(Debug, Default)]
pub(super) struct Retries {
    failed: Excluded,
    /// Took no more sequences; they may again once time has passed.
    full: Excluded,
    fruitless: usize,
    /// The last failure that was an engine's.
    engine_failure: Option<ApiError>,
}

impl Retries {
    pub fn saw(&mut self, event: &Event) {
        if matches!(event, Event::Tokens(_)) {
            self.fruitless = 0;
            self.full.clear();
        }
    }

    /// Whether to go on after `failure`.
    pub fn after(&mut self, failure: Failure, cluster: &Cluster) -> Result<(), ApiError> {
        let Failure { worker, error } = failure;
        if !error.code.may_retry() {
            return Err(error);
        }
        warn!(worker = %worker.id, error = error.message, "worker failed; planning again");
        let tried = (worker.slot, worker.epoch);
        match error.code {
            ErrorCode::WorkerBusy => self.full.push(tried),
            ErrorCode::ShuttingDown => self.failed.push(tried),
            code => {
                if code == ErrorCode::WorkerLost {
                    cluster.suspect(&worker);
                }
                self.failed.push(tried);
                self.fruitless += 1;
                if self.fruitless >= MAX_FRUITLESS_ATTEMPTS {
                    return Err(error);
                }
                if code == ErrorCode::EngineFailed {
                    self.engine_failure = Some(error);
                }
            }
        }
        Ok(())
    }

    /// Whom not to try again.
    pub fn excluded(&self) -> Excluded {
        [self.failed.as_slice(), &self.full].concat()
    }

    /// Why `none` is left to try: workers that are full, or whose engine failed,
    /// are not missing ones.
    pub fn explain(&self, none: ApiError) -> ApiError {
        if self.full.is_empty() {
            return self.engine_failure.clone().unwrap_or(none);
        }
        ApiError {
            retry_after: Some(1),
            ..ApiError::new(
                ErrorCode::Overloaded,
                "every worker that serves this model is full; try again later",
            )
        }
    }
}
