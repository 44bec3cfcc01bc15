//! What a worker says of its blocks, as the index consumes it.

/// Where a worker keeps a block, from the fastest to the slowest to use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Tier {
    /// The accelerator's memory.
    #[default]
    Device,
    /// Memory of its host.
    Host,
    /// A disk of its host.
    Disk,
    /// A store that other workers read too.
    Shared,
}

impl Tier {
    pub const ALL: [Tier; 4] = [Tier::Device, Tier::Host, Tier::Disk, Tier::Shared];
}

/// A change of one worker's set of stored blocks. Hashes are
/// [`BlockHash::short`](crate::BlockHash::short).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KvEvent {
    /// `hashes` follow each other; the first follows `parent`, or starts a
    /// prompt if that is 0.
    Stored {
        parent: u64,
        hashes: Vec<u64>,
        tier: Tier,
    },
    /// These blocks are gone from `tier`.
    Removed { hashes: Vec<u64>, tier: Tier },
    /// All blocks are gone from all tiers.
    Cleared,
}

impl KvEvent {
    /// `hashes` follow `parent` on the device.
    pub fn stored(parent: u64, hashes: Vec<u64>) -> KvEvent {
        KvEvent::Stored {
            parent,
            hashes,
            tier: Tier::Device,
        }
    }

    /// `hashes` are gone from the device.
    pub fn removed(hashes: Vec<u64>) -> KvEvent {
        KvEvent::Removed {
            hashes,
            tier: Tier::Device,
        }
    }
}
