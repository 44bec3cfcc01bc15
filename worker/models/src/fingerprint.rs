//! One name for equal models.

use crate::checkpoint::Checkpoint;
use crate::error::LoadError;
use crate::files::ModelFiles;

/// Bytes at each end of a tensor that count: enough to tell fine-tunes of one
/// base apart, without reading the whole checkpoint.
const EDGE: usize = 4096;

impl ModelFiles {
    /// Equal for equal tokenizer, template, config and weights: a hash of the
    /// small files, and of the weights' headers, sizes and both ends of every
    /// tensor. 64 hexadecimal digits.
    pub fn fingerprint(&self) -> Result<String, LoadError> {
        let mut hasher = blake3::Hasher::new_derive_key("kvasir 2026-11-21 model fingerprint");
        let mut add = |part: &[u8]| {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        };
        for (name, content) in self.tokenizer_files()? {
            add(name.as_bytes());
            add(&content);
        }
        if let Some(file) = self.gguf_file() {
            add(file.header());
            for tensor in file.tensors_by_offset() {
                add(&tensor[..tensor.len().min(EDGE)]);
                add(&tensor[tensor.len().saturating_sub(EDGE)..]);
            }
            return Ok(hasher.finalize().to_hex().to_string());
        }
        for shard in Checkpoint::open(self)?.shards() {
            add(shard.header());
            for tensor in shard.tensors_by_offset() {
                add(&tensor[..tensor.len().min(EDGE)]);
                add(&tensor[tensor.len().saturating_sub(EDGE)..]);
            }
        }
        Ok(hasher.finalize().to_hex().to_string())
    }
}
