//! What a worker says of its blocks, as the index consumes it.

/// A change of one worker's set of stored blocks. Hashes are
/// [`BlockHash::short`](crate::BlockHash::short).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KvEvent {
    /// `hashes` follow each other; the first follows `parent`, or starts a
    /// prompt if that is 0.
    Stored { parent: u64, hashes: Vec<u64> },
    /// These blocks are gone.
    Removed { hashes: Vec<u64> },
    /// All blocks are gone.
    Cleared,
}
