//! How often what failed is tried again.

use std::time::Duration;

/// Failures in a row, without a byte between them.
const MOST: u32 = 5;

pub(crate) struct Patience {
    pause: Duration,
    failures: u32,
}

impl Patience {
    pub(super) fn new(pause: Duration) -> Patience {
        Patience { pause, failures: 0 }
    }

    /// Something came: what failed before does not count.
    pub(crate) fn restore(&mut self) {
        self.failures = 0;
    }

    /// Waits after a failure; `false` when it was the last.
    pub(crate) fn wait(&mut self, what: &str, reason: &str) -> bool {
        self.failures += 1;
        if self.failures >= MOST {
            return false;
        }
        tracing::warn!("{what}: {reason}; trying again");
        std::thread::sleep(self.pause * 2u32.pow(self.failures - 1));
        true
    }
}
