use engine::{BlockId, RunError, RunnerShape, Step, StepResult};

use super::generate::http_get;
use super::*;

/// The token that breaks the device, and the one that breaks the engine.
const FAILS: u32 = 998;
const PANICS: u32 = 999;

/// A device with faults.
struct Faulty(SimRunner);

impl Runner for Faulty {
    fn shape(&self) -> &RunnerShape {
        self.0.shape()
    }

    fn run(&mut self, step: &Step<'_>) -> Result<StepResult, RunError> {
        let contains = |token| step.chunks.iter().any(|it| it.tokens[0] == token);
        assert!(!contains(PANICS), "this test breaks the engine");
        match contains(FAILS) {
            true => Err(RunError("this test breaks the device".into())),
            false => self.0.run(step),
        }
    }

    fn export_block(&self, block: BlockId, out: &mut Vec<u8>) -> Result<(), RunError> {
        self.0.export_block(block, out)
    }

    fn import_block(&mut self, block: BlockId, bytes: &[u8]) -> Result<(), RunError> {
        self.0.import_block(block, bytes)
    }
}

async fn faulty() -> TestWorker {
    let setup = Setup::default();
    start(setup.config, Box::new(Faulty(SimRunner::new(setup.sim)))).await
}

#[tokio::test]
async fn a_failed_step_fails_its_sequence_and_the_engine_goes_on() {
    let worker = faulty().await;
    let failed = collect(worker.generate(prompt([FAILS, 2], 5)).await.unwrap()).await;
    assert_eq!(code(failed), ErrorCode::EngineFailed);
    worker.all_blocks_free().await;
    let next = collect(worker.generate(prompt([2, 3], 5)).await.unwrap()).await;
    assert_eq!(next.unwrap().tokens.len(), 5);
    assert!(
        http_get(&worker, "/ready")
            .await
            .starts_with("HTTP/1.1 200")
    );
}

#[tokio::test]
async fn a_panic_ends_the_engine_and_the_worker_says_so() {
    let worker = faulty().await;
    let waiting = worker.prefill(prompt([2, 3], 5)).await.unwrap();
    let failed = collect(worker.generate(prompt([PANICS, 2], 5)).await.unwrap()).await;
    assert_eq!(code(failed), ErrorCode::EngineFailed);
    drop(waiting);
    let refused = worker.generate(prompt([2, 3], 5)).await;
    assert_eq!(code(refused), ErrorCode::EngineFailed);
    assert!(
        http_get(&worker, "/health")
            .await
            .starts_with("HTTP/1.1 503")
    );
    assert!(
        http_get(&worker, "/ready")
            .await
            .starts_with("HTTP/1.1 503")
    );
    let told = worker.running.status_when(|status| status.draining);
    tokio::time::timeout(PATIENCE, told).await.unwrap();
    assert_eq!(worker.lifecycle.finish(PATIENCE).await, Ok(()));
}

#[tokio::test]
async fn an_engine_whose_every_step_fails_is_not_ready_until_one_works() {
    let worker = faulty().await;
    let fail = async || collect(worker.generate(prompt([FAILS, 2], 5)).await.unwrap()).await;
    let is_ready = async || {
        let answer = http_get(&worker, "/ready").await;
        answer.starts_with("HTTP/1.1 200")
    };
    for _ in 0..2 {
        assert_eq!(code(fail().await), ErrorCode::EngineFailed);
        assert!(is_ready().await);
    }
    assert_eq!(code(fail().await), ErrorCode::EngineFailed);
    assert!(!is_ready().await);
    assert!(worker.running.status().not_ready);
    let alive = http_get(&worker, "/health").await;
    assert!(alive.starts_with("HTTP/1.1 200"), "it may recover: {alive}");
    // Work is not refused: it shows that the engine works again.
    let next = collect(worker.generate(prompt([2, 3], 5)).await.unwrap()).await;
    assert_eq!(next.unwrap().tokens.len(), 5);
    assert!(is_ready().await);
}
