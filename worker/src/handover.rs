//! KV blocks from worker to worker, in pieces, while the prompt still runs.
//!
//! The decode worker pulls ([`receive`]): a slow receiver holds up only its own
//! pull. Whatever goes wrong, its sequence goes on by computing the prompt
//! itself. The prefill worker answers ([`send`]) from the engine's blocks as
//! they are computed.

pub mod receive;
pub mod send;

pub use receive::Receiver;

/// KV bytes in one message, unless a single block has more.
const MESSAGE_BYTES: usize = 1024 * 1024;
