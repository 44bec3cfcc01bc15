//! Host memory: a slot is a buffer.

use std::io;

use bytes::Bytes;

use super::Slots;

/// Keeps the buffers it is given; copies nothing.
#[derive(Default)]
pub struct HostMemory {
    slots: Vec<Bytes>,
}

impl Slots for HostMemory {
    fn write(&mut self, slot: usize, bytes: Bytes) -> io::Result<()> {
        if self.slots.len() <= slot {
            self.slots.resize(slot + 1, Bytes::new());
        }
        self.slots[slot] = bytes;
        Ok(())
    }

    fn read(&mut self, slot: usize) -> io::Result<Bytes> {
        self.slots
            .get(slot)
            .cloned()
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}
