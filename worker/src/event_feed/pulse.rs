//! Whether the engine moves: how long its current step runs, and how long steps
//! took lately. Read at each status, since a stuck engine publishes nothing.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// No step runs.
const IDLE: u64 = u64::MAX;

/// Written by the engine's thread, read by anyone.
#[derive(Debug)]
pub struct EnginePulse {
    origin: Instant,
    /// Milliseconds from `origin`, or [`IDLE`].
    step_began: AtomicU64,
    /// Milliseconds.
    longest_step: AtomicU64,
}

/// The engine's steps at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pulse {
    /// How long the current step runs; 0: there is none.
    pub step_age: Duration,
    /// The longest of recent steps; 0 while unknown.
    pub longest_step: Duration,
}

impl EnginePulse {
    pub fn begin_step(&self) {
        let now = self.origin.elapsed().as_millis() as u64;
        self.step_began.store(now, Ordering::Relaxed);
    }

    pub fn end_step(&self, longest_step: Duration) {
        let longest_step = longest_step.as_millis() as u64;
        self.longest_step.store(longest_step, Ordering::Relaxed);
        self.step_began.store(IDLE, Ordering::Relaxed);
    }

    pub fn read(&self) -> Pulse {
        let now = self.origin.elapsed().as_millis() as u64;
        let step_age = match self.step_began.load(Ordering::Relaxed) {
            IDLE => 0,
            began => now.saturating_sub(began),
        };
        let longest_step = self.longest_step.load(Ordering::Relaxed);
        Pulse {
            step_age: Duration::from_millis(step_age),
            longest_step: Duration::from_millis(longest_step),
        }
    }
}

impl Default for EnginePulse {
    fn default() -> EnginePulse {
        EnginePulse {
            origin: Instant::now(),
            step_began: AtomicU64::new(IDLE),
            longest_step: AtomicU64::new(0),
        }
    }
}
