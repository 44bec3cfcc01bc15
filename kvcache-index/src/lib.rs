//! Which worker holds which KV blocks.
//!
//! Block identities, the events that announce blocks (our workers' and those of
//! vLLM and SGLang), and the index a router keeps from them. Pure: no IO, no clock, no task; the router's subscription
//! and the simulator drive the same code.

pub mod block_hash;
pub mod engine_blocks;
pub mod engine_events;
pub mod event;
pub mod feed;
pub mod prefix_index;

pub use block_hash::{BlockHash, HashScope};
pub use engine_blocks::EngineBlocks;
pub use engine_events::EngineBatch;
pub use event::{KvEvent, Tier};
pub use feed::{Feed, FeedError};
pub use prefix_index::{Overlap, Overlaps, PrefixIndex, WorkerSlot};
