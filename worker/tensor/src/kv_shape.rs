//! What a KV pool holds.

use crate::error::DeviceError;

/// The shape of a KV pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KvShape {
    pub layers: usize,
    pub kv_heads: usize,
    /// Numbers of a key.
    pub head_dim: usize,
    pub values: KvValues,
    /// Tokens in a block.
    pub block_size: usize,
    pub total_blocks: usize,
}

/// Where attention finds its values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvValues {
    /// Beside the keys, as long as they are.
    Stored,
    /// They are the first so many numbers of each key, as multi-head latent
    /// attention has it (DeepSeek-AI 2024, DeepSeek-V2): nothing else is kept.
    KeyPrefix(usize),
}

impl KvShape {
    /// Numbers of a value.
    pub fn value_dim(&self) -> usize {
        match self.values {
            KvValues::Stored => self.head_dim,
            KvValues::KeyPrefix(dim) => dim,
        }
    }

    /// Kinds of numbers that a layer keeps: keys and values, or only keys.
    pub fn planes(&self) -> usize {
        match self.values {
            KvValues::Stored => 2,
            KvValues::KeyPrefix(_) => 1,
        }
    }

    /// Numbers in one block, of all layers.
    pub fn block_elements(&self) -> Result<usize, DeviceError> {
        if let KvValues::KeyPrefix(dim) = self.values
            && !(1..=self.head_dim).contains(&dim)
        {
            return Err(too_large());
        }
        product(&[
            self.planes(),
            self.layers,
            self.block_size,
            self.kv_heads,
            self.head_dim,
        ])
    }

    /// Bytes of a block in wire form, which is `[layers][planes][block_size]
    /// [kv_heads][head_dim]` of f32, little endian.
    pub fn block_bytes(&self) -> Result<usize, DeviceError> {
        product(&[self.block_elements()?, size_of::<f32>()])
    }

    /// Numbers in the whole pool.
    pub fn pool_elements(&self) -> Result<usize, DeviceError> {
        product(&[self.block_bytes()?, self.total_blocks]).map(|bytes| bytes / size_of::<f32>())
    }
}

fn product(sizes: &[usize]) -> Result<usize, DeviceError> {
    sizes
        .iter()
        .try_fold(1usize, |product, &size| product.checked_mul(size))
        .filter(|&product| product > 0 && product <= isize::MAX as usize)
        .ok_or_else(too_large)
}

fn too_large() -> DeviceError {
    DeviceError::Size {
        what: "the KV pool",
    }
}
