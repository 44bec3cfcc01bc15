//! The wire form of a simulated block: its KV, a checksum, and padding.

use crate::runner::RunError;
use crate::sim::kv;

/// Bytes without padding.
pub(super) fn len(block_size: usize) -> usize {
    (block_size + 1) * 8
}

pub(super) fn write(block: &[u64], bytes: usize, out: &mut Vec<u8>) {
    let end = out.len() + bytes;
    for value in block.iter().copied().chain([checksum(block)]) {
        out.extend_from_slice(&value.to_le_bytes());
    }
    out.resize(end, 0);
}

pub(super) fn read(bytes: &[u8], block: &mut [u64]) -> Result<(), RunError> {
    let mut values = bytes.as_chunks().0.iter().copied().map(u64::from_le_bytes);
    let image: Vec<u64> = values.by_ref().take(block.len()).collect();
    if image.len() != block.len() || values.next() != Some(checksum(&image)) {
        return Err(RunError("a kv block's image is damaged".to_owned()));
    }
    block.copy_from_slice(&image);
    Ok(())
}

fn checksum(block: &[u64]) -> u64 {
    let fold = |sum, value: &u64| kv::mix(sum ^ *value);
    block.iter().fold(block.len() as u64, fold)
}
