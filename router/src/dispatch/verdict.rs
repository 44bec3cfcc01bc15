//! What an attempt says of one of its workers, told once, by drop: whatever way
//! an attempt ends, health hears of it.

use std::sync::Arc;
use std::time::Duration;

use proto::ErrorCode;
use tokio::time::Instant;

use crate::cluster::health::{Outcome, Sample};
use crate::cluster::{Cluster, WorkerRef};
use crate::error::ApiError;

/// Fewer gaps say little about a worker's speed.
const MIN_GAPS: u32 = 8;

pub(super) struct Verdict {
    cluster: Arc<Cluster>,
    worker: WorkerRef,
    outcome: Outcome,
    first_tokens: Option<Instant>,
    last_tokens: Option<Instant>,
    tokens: u32,
}

impl Verdict {
    pub fn new(cluster: &Arc<Cluster>, worker: &WorkerRef) -> Verdict {
        Verdict {
            cluster: cluster.clone(),
            worker: worker.clone(),
            outcome: Outcome::Neutral,
            first_tokens: None,
            last_tokens: None,
            tokens: 0,
        }
    }

    /// So many tokens came of it now.
    pub fn tokens(&mut self, tokens: usize) {
        let now = Instant::now();
        self.last_tokens = Some(now);
        if self.first_tokens.is_none() {
            self.first_tokens = Some(now);
            self.cluster.progressed(&self.worker);
            return;
        }
        // Gaps, so without the tokens of the first message.
        self.tokens = self.tokens.saturating_add(tokens as u32);
    }

    /// When the last tokens came, if there were any.
    pub fn last_tokens(&self) -> Option<Instant> {
        self.last_tokens
    }

    pub fn served(&mut self) {
        self.outcome = Outcome::Served(Sample {
            token_gap: self.token_gap(),
        });
    }

    /// It ended its part with `error`: only what is its own fault counts.
    pub fn failed(&mut self, error: &ApiError) {
        if matches!(error.code, ErrorCode::WorkerLost | ErrorCode::EngineFailed) {
            self.outcome = Outcome::Failed;
        }
    }

    fn token_gap(&self) -> Option<Duration> {
        let time = self.last_tokens? - self.first_tokens?;
        (self.tokens >= MIN_GAPS).then(|| time / self.tokens)
    }
}

impl Drop for Verdict {
    fn drop(&mut self) {
        self.cluster.ended(&self.worker, self.outcome);
    }
}
