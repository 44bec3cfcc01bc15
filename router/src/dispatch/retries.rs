//! What a sequence has tried in vain, and whether and at what price it tries
//! again.

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

/// What trying again costs the router's budget.
#[derive(Debug, PartialEq)]
pub(super) enum Price {
    /// The attempt bore fruit: what goes on elsewhere is no more work than what
    /// ended.
    Free,
    /// One retry. The error is the client's if the budget has none.
    Retry { or: ApiError },
}

#[derive(Debug, Default)]
pub(super) struct Retries {
    failed: Excluded,
    /// Could not be reached; they may come back.
    lost: Excluded,
    /// Took no more sequences; they may again once time has passed.
    full: Excluded,
    fruitless: usize,
    /// Tokens came of the current attempt.
    has_tokens: bool,
    /// The last failure that was an engine's.
    engine_failure: Option<ApiError>,
}

impl Retries {
    pub fn saw(&mut self, event: &Event) {
        if matches!(event, Event::Tokens(_)) {
            self.fruitless = 0;
            self.has_tokens = true;
            self.full.clear();
        }
    }

    /// Whether to go on after `failure`.
    pub fn after(&mut self, failure: Failure, cluster: &Cluster) -> Result<Price, ApiError> {
        let Failure { worker, error } = failure;
        if !error.code.may_retry() {
            return Err(error);
        }
        warn!(worker = %worker.id, error = error.message, "worker failed; planning again");
        let tried = (worker.slot, worker.epoch);
        match error.code {
            ErrorCode::WorkerBusy => self.full.push(tried),
            ErrorCode::ShuttingDown | ErrorCode::NotReady => self.failed.push(tried),
            code => {
                if code == ErrorCode::WorkerLost {
                    cluster.suspect(&worker);
                    self.lost.push(tried);
                } else {
                    self.failed.push(tried);
                }
                self.fruitless += 1;
                if self.fruitless >= MAX_FRUITLESS_ATTEMPTS {
                    return Err(error);
                }
                if code == ErrorCode::EngineFailed {
                    self.engine_failure = Some(error.clone());
                }
            }
        }
        Ok(match std::mem::take(&mut self.has_tokens) {
            true => Price::Free,
            false => Price::Retry { or: error },
        })
    }

    /// Whom not to try again.
    pub fn excluded(&self) -> Excluded {
        [self.failed.as_slice(), &self.lost, &self.full].concat()
    }

    /// Lost workers may be tried again.
    pub fn forgive_lost(&mut self) {
        self.lost.clear();
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
