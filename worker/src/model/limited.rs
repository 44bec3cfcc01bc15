//! A runner for shorter sequences than the model was made for.

use engine::{BlockId, RunError, Runner, RunnerShape, Step, StepResult};

/// Differs from `runner` in its longest sequence.
pub struct Limited<R> {
    runner: R,
    shape: RunnerShape,
}

impl<R: Runner> Limited<R> {
    pub fn new(runner: R, max_model_len: usize) -> Limited<R> {
        let shape = runner.shape();
        Limited {
            shape: RunnerShape {
                max_model_len: max_model_len.min(shape.max_model_len),
                ..shape.clone()
            },
            runner,
        }
    }
}

impl<R: Runner> Runner for Limited<R> {
    fn shape(&self) -> &RunnerShape {
        &self.shape
    }

    fn run(&mut self, step: &Step<'_>) -> Result<StepResult, RunError> {
        self.runner.run(step)
    }

    fn copy_block(&mut self, from: BlockId, to: BlockId) -> Result<(), RunError> {
        self.runner.copy_block(from, to)
    }

    fn export_block(&self, block: BlockId, out: &mut Vec<u8>) -> Result<(), RunError> {
        self.runner.export_block(block, out)
    }

    fn import_block(&mut self, block: BlockId, bytes: &[u8]) -> Result<(), RunError> {
        self.runner.import_block(block, bytes)
    }
}
