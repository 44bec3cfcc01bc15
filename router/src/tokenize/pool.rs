//! Threads for work that would hold up the async runtime: rendering and
//! encoding. The queue has a length and a time limit; a job whose client went
//! away is not started.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use proto::ErrorCode;
use tokio::sync::oneshot;

use crate::error::ApiError;

/// Older jobs are given up: their client would get a late answer only by making
/// all later ones late too.
const MAX_WAIT: Duration = Duration::from_secs(10);

type Job = Box<dyn FnOnce() + Send>;

/// The threads end when the pool is dropped.
#[derive(Clone, Debug)]
pub(super) struct Pool {
    jobs_tx: SyncSender<Job>,
}

impl Pool {
    pub(super) fn new(threads: usize, queue: usize) -> std::io::Result<Pool> {
        let (jobs_tx, jobs_rx) = sync_channel::<Job>(queue);
        let jobs_rx = Arc::new(Mutex::new(jobs_rx));
        for number in 0..threads.max(1) {
            let jobs_rx = Arc::clone(&jobs_rx);
            std::thread::Builder::new()
                .name(format!("tokenize-{number}"))
                .spawn(move || work(&jobs_rx))?;
        }
        Ok(Pool { jobs_tx })
    }

    /// Runs `job` on a thread of the pool.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let (result_tx, result_rx) = oneshot::channel();
        let queued = Instant::now();
        let job: Job = Box::new(move || {
            if result_tx.is_closed() {
                return;
            }
            let result = if queued.elapsed() > MAX_WAIT {
                Err(overloaded())
            } else {
                catch_unwind(AssertUnwindSafe(job)).unwrap_or_else(|_| Err(defect()))
            };
            // The client may have gone away meanwhile.
            let _ = result_tx.send(result);
        });
        self.jobs_tx
            .try_send(job)
            .map_err(|refused| match refused {
                TrySendError::Full(_) => overloaded(),
                TrySendError::Disconnected(_) => defect(),
            })?;
        result_rx.await.unwrap_or_else(|_| Err(defect()))
    }
}

fn work(jobs_rx: &Mutex<Receiver<Job>>) {
    loop {
        // Held while waiting: the threads take turns at the queue.
        let job = jobs_rx
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .recv();
        match job {
            Ok(job) => job(),
            Err(_) => return,
        }
    }
}

fn overloaded() -> ApiError {
    ApiError {
        retry_after: Some(1),
        ..ApiError::new(
            ErrorCode::Overloaded,
            "too many prompts wait for tokenisation; try again shortly",
        )
    }
}

fn defect() -> ApiError {
    ApiError::new(
        ErrorCode::Internal,
        "the prompt could not be tokenised, which is a defect of this router",
    )
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn sheds_when_queue_is_full() {
        let pool = Pool::new(1, 1).unwrap();
        let (started_tx, started_rx) = mpsc::channel();
        let (go_tx, go_rx) = mpsc::channel::<()>();
        let busy = pool.run(move || {
            started_tx.send(()).unwrap();
            go_rx.recv().unwrap();
            Ok(1)
        });
        let waiting = pool.run(|| Ok(2));
        let driver = async {
            tokio::task::spawn_blocking(move || started_rx.recv())
                .await
                .unwrap()
                .unwrap();
        };
        tokio::pin!(busy, waiting);
        tokio::select! {
            biased;
            _ = &mut busy => panic!("the first job can't be done yet"),
            () = driver => {}
        }
        assert!(futures::poll!(&mut waiting).is_pending());

        let shed = pool.run(|| Ok(3)).await.unwrap_err();

        assert_eq!(
            (shed.code, shed.retry_after),
            (ErrorCode::Overloaded, Some(1))
        );
        go_tx.send(()).unwrap();
        assert_eq!(busy.await, Ok(1));
        assert_eq!(waiting.await, Ok(2));
    }

    #[tokio::test]
    async fn a_panic_ends_the_job_not_the_thread() {
        let pool = Pool::new(1, 8).unwrap();
        let failed = pool.run::<()>(|| panic!("on purpose")).await;
        assert_eq!(failed.unwrap_err().code, ErrorCode::Internal);
        assert_eq!(pool.run(|| Ok(7)).await, Ok(7));
    }

    #[tokio::test]
    async fn job_of_a_gone_client_is_not_run() {
        let pool = Pool::new(1, 8).unwrap();
        let (go_tx, go_rx) = mpsc::channel::<()>();
        let mut busy = Box::pin(pool.run(move || Ok(go_rx.recv().is_ok())));
        assert!(futures::poll!(&mut busy).is_pending());
        let (ran_tx, ran_rx) = mpsc::channel();
        let mut gone = Box::pin(pool.run(move || Ok(ran_tx.send(()).is_ok())));
        assert!(futures::poll!(&mut gone).is_pending());
        drop(gone);
        go_tx.send(()).unwrap();

        assert_eq!(busy.await, Ok(true));
        assert_eq!(pool.run(|| Ok(())).await, Ok(()));
        assert!(ran_rx.try_recv().is_err());
    }
}
