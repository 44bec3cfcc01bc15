//! Where a tier's thread keeps blocks.

use std::io;

use bytes::Bytes;
use kvcache_index::BlockHash;

/// Numbered places for blocks. Calls may take their time: a tier's thread makes
/// them.
pub trait Slots: Send + 'static {
    /// Takes the place of what was in the slot.
    fn write(&mut self, slot: usize, bytes: Bytes) -> io::Result<()>;

    fn read(&mut self, slot: usize) -> io::Result<Bytes>;
}

/// Slots that give back what was written, or an error.
pub(super) struct Checked<S> {
    slots: S,
    /// By slot; `None`: nothing whole was written.
    checksums: Vec<Option<[u8; 32]>>,
}

impl<S: Slots> Checked<S> {
    pub(super) fn new(slots: S, total: usize) -> Checked<S> {
        Checked {
            slots,
            checksums: vec![None; total],
        }
    }

    pub(super) fn write(&mut self, slot: usize, hash: BlockHash, bytes: Bytes) -> io::Result<()> {
        let sum = checksum(hash, &bytes);
        self.checksums[slot] = None;
        self.slots.write(slot, bytes)?;
        self.checksums[slot] = Some(sum);
        Ok(())
    }

    /// The block `hash`, as it was written to `slot`.
    pub(super) fn read(&mut self, slot: usize, hash: BlockHash) -> io::Result<Bytes> {
        let bytes = self.slots.read(slot)?;
        match self.checksums[slot] == Some(checksum(hash, &bytes)) {
            true => Ok(bytes),
            false => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the checksum of a KV block is wrong",
            )),
        }
    }
}

/// Of a block's identity and bytes.
fn checksum(hash: BlockHash, bytes: &[u8]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&hash.0.to_le_bytes());
    hasher.update(bytes);
    *hasher.finalize().as_bytes()
}
