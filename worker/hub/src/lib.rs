//! The Hugging Face hub: from a model's name to its files on this machine.
//!
//! [`fetch`] downloads what of a model is needed into the cache that all of the
//! hub's tools share, and leaves alone what is there. What was cut goes on where
//! it stopped; what arrives is checked against the hub's checksums. Blocks its
//! thread. Knows nothing of what the files mean, but for their names and the
//! index of sharded weights.

mod cache;
mod checksum;
mod choice;
mod client;
mod download;
mod error;
mod fetch;
mod name;
mod progress;
mod settings;
#[cfg(test)]
mod tests;

pub use error::HubError;
pub use fetch::{Request, Snapshot, fetch};
pub use name::ModelName;
pub use settings::{Settings, Token};
