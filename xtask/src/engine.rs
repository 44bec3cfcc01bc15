//! What the engine does to those who wait for it: a cluster of one worker with a
//! real model, seen by its clients, each figure held against its bar.
//!
//! No part of the tests: a busy machine moves the figures, and the model is the
//! user's. Speed alone is `kvasir worker bench`.

mod gaps;
mod scene;
mod stalls;
mod stream;

use anyhow::{Result, bail};

pub fn run(mut arguments: impl Iterator<Item = String>) -> Result<()> {
    match arguments.next().as_deref() {
        Some("stalls") => stalls::run(arguments),
        _ => bail!("usage: {}", stalls::USAGE),
    }
}
