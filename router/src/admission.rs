//! The one place where a request is let in or turned away.
//!
//! A bounded number of requests run at once; a bounded number wait for a
//! bounded time; the rest are told at once when to come back. A [`Permit`]
//! lives as long as the reply.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use metrics::Gauge;
use proto::ErrorCode;
use runtime::config::HumanDuration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::ApiError;
use crate::metrics::Metrics;

#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
pub struct Config {
    /// Requests served at once; more than the workers' --max-sequences
    /// together only moves the queue from here to them
    #[arg(long, default_value_t = 1024, value_name = "N")]
    pub max_concurrent_requests: usize,
    /// Requests that may wait for their turn; more are answered 429 at once
    #[arg(long, default_value_t = 1024, value_name = "N")]
    pub max_queued_requests: usize,
    /// Longest wait for a turn; then 429
    #[arg(long, default_value = "30s", value_name = "DURATION")]
    pub max_queue_wait: HumanDuration,
}

/// Lets requests in.
#[derive(Debug)]
pub struct Admission {
    turns: Arc<Semaphore>,
    waiting: AtomicUsize,
    max_waiting: usize,
    max_wait: Duration,
    metrics: Arc<Metrics>,
}

/// A request's place in the router, given back by drop.
#[derive(Debug)]
pub struct Permit {
    _turn: OwnedSemaphorePermit,
    _counted: Counted,
}

impl Admission {
    pub fn new(config: &Config, metrics: Arc<Metrics>) -> Admission {
        Admission {
            turns: Arc::new(Semaphore::new(config.max_concurrent_requests)),
            waiting: AtomicUsize::new(0),
            max_waiting: config.max_queued_requests,
            max_wait: config.max_queue_wait.0,
            metrics,
        }
    }

    /// Waits for a turn, in order of arrival.
    pub async fn admit(&self) -> Result<Permit, ApiError> {
        let turn = match self.turns.clone().try_acquire_owned() {
            Ok(turn) => turn,
            Err(_) => self.wait().await?,
        };
        Ok(Permit {
            _turn: turn,
            _counted: Counted::up(&self.metrics.permits),
        })
    }

    async fn wait(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        let place = Place::take(&self.waiting, self.max_waiting)
            .ok_or_else(|| self.overloaded("the queue is full"))?;
        let _waiting = Counted::up(&self.metrics.queued_requests);
        let turn = tokio::time::timeout(self.max_wait, self.turns.clone().acquire_owned()).await;
        drop(place);
        match turn {
            Ok(Ok(turn)) => Ok(turn),
            Ok(Err(_closed)) => Err(ApiError::new(
                ErrorCode::ShuttingDown,
                "the router is shutting down",
            )),
            Err(_elapsed) => Err(self.overloaded("no turn came within the longest wait")),
        }
    }

    fn overloaded(&self, why: &str) -> ApiError {
        self.metrics.shed_requests.increment(1);
        ApiError {
            retry_after: Some(self.max_wait.as_secs().clamp(1, 10)),
            ..ApiError::new(
                ErrorCode::Overloaded,
                format!("the cluster is overloaded: {why}; try again later"),
            )
        }
    }
}

/// A place in the queue.
struct Place<'a>(&'a AtomicUsize);

impl<'a> Place<'a> {
    fn take(waiting: &'a AtomicUsize, most: usize) -> Option<Place<'a>> {
        waiting
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| {
                (n < most).then_some(n + 1)
            })
            .ok()
            .map(|_| Place(waiting))
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One on a gauge for as long as it lives.
pub struct Counted(Gauge);

impl Counted {
    pub fn up(gauge: &Gauge) -> Counted {
        gauge.increment(1.0);
        Counted(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}

impl std::fmt::Debug for Counted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Counted")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admission(running: usize, queued: usize) -> Arc<Admission> {
        let config = Config {
            max_concurrent_requests: running,
            max_queued_requests: queued,
            max_queue_wait: HumanDuration(Duration::from_secs(5)),
        };
        Arc::new(Admission::new(&config, Arc::new(Metrics::unrecorded())))
    }

    #[tokio::test]
    async fn a_dropped_permit_lets_the_next_in() {
        let admission = admission(1, 1);
        let first = admission.admit().await.expect("free");
        let second = admission.admit();
        tokio::pin!(second);
        assert!(futures::poll!(&mut second).is_pending());
        drop(first);
        assert!(second.await.is_ok());
    }

    #[tokio::test]
    async fn sheds_when_the_queue_is_full() {
        let admission = admission(1, 1);
        let _first = admission.admit().await.expect("free");
        let second = admission.admit();
        tokio::pin!(second);
        assert!(futures::poll!(&mut second).is_pending());
        let third = admission.admit().await.expect_err("full");
        assert_eq!(third.code, ErrorCode::Overloaded);
        assert!(third.retry_after.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_longer_than_the_limit() {
        let admission = admission(1, 1);
        let _first = admission.admit().await.expect("free");
        let started = tokio::time::Instant::now();
        let second = admission.admit().await.expect_err("no turn");
        assert_eq!(second.code, ErrorCode::Overloaded);
        assert_eq!(started.elapsed(), Duration::from_secs(5));
    }

    #[tokio::test]
    async fn a_waiter_that_leaves_gives_its_place_back() {
        let admission = admission(1, 1);
        let _first = admission.admit().await.expect("free");
        {
            let second = admission.admit();
            tokio::pin!(second);
            assert!(futures::poll!(&mut second).is_pending());
        }
        let third = admission.admit();
        tokio::pin!(third);
        assert!(futures::poll!(&mut third).is_pending());
    }
}
