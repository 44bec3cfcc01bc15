//! What loading put on the device.

use std::cell::Cell;
use std::time::{Duration, Instant};

/// Weights of a loaded model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Loaded {
    /// Bytes of matrices as they are stored.
    pub weight_bytes: u64,
    /// What it took to bring them into the device's form; next to nothing where
    /// they stay mapped from their files.
    pub packing: Duration,
}

/// Counts while weights are loaded.
#[derive(Default)]
pub(crate) struct Tally(Cell<Loaded>);

impl Tally {
    /// Counts a matrix of so many bytes, which `put` brings to the device.
    pub(crate) fn count<T>(&self, bytes: usize, put: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let result = put();
        let so_far = self.0.get();
        self.0.set(Loaded {
            weight_bytes: so_far.weight_bytes + bytes as u64,
            packing: so_far.packing + start.elapsed(),
        });
        result
    }

    pub(crate) fn loaded(&self) -> Loaded {
        self.0.get()
    }
}
