//! What a KV pool holds.

use std::fmt;
use std::str::FromStr;

use crate::error::DeviceError;

/// The shape of a KV pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KvShape {
    pub layers: usize,
    pub kv_heads: usize,
    /// Numbers of a key.
    pub head_dim: usize,
    pub values: KvValues,
    pub dtype: KvDtype,
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

/// How a pool keeps its numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KvDtype {
    #[default]
    F32,
    Bf16,
    /// From -127 to 127 times a scale in f32, the largest magnitude over 127.
    /// A key and a value have a scale each; of a key that holds a value, the
    /// value has one and what follows it.
    Int8,
}

impl KvDtype {
    pub const ALL: [KvDtype; 3] = [KvDtype::F32, KvDtype::Bf16, KvDtype::Int8];

    pub fn name(self) -> &'static str {
        match self {
            KvDtype::F32 => "f32",
            KvDtype::Bf16 => "bf16",
            KvDtype::Int8 => "int8",
        }
    }

    /// Bytes of a number.
    pub fn size(self) -> usize {
        match self {
            KvDtype::F32 => 4,
            KvDtype::Bf16 => 2,
            KvDtype::Int8 => 1,
        }
    }
}

impl fmt::Display for KvDtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for KvDtype {
    type Err = String;

    fn from_str(text: &str) -> Result<KvDtype, String> {
        let named = KvDtype::ALL.into_iter().find(|it| it.name() == text);
        named.ok_or_else(|| "use f32, bf16 or int8".to_owned())
    }
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

    /// Scales that a key or value is kept with.
    pub fn scales(&self) -> usize {
        match (self.dtype, self.values) {
            (KvDtype::F32 | KvDtype::Bf16, _) => 0,
            (KvDtype::Int8, KvValues::Stored) => 1,
            (KvDtype::Int8, KvValues::KeyPrefix(_)) => 2,
        }
    }

    /// Bytes of a key or value: its numbers, then its scales.
    pub fn vector_bytes(&self) -> Result<usize, DeviceError> {
        let numbers = product(&[self.head_dim, self.dtype.size()])?;
        let all = numbers.checked_add(self.scales() * size_of::<f32>());
        all.ok_or_else(too_large)
    }

    /// Keys and values in a block, of all layers and heads.
    pub fn block_vectors(&self) -> Result<usize, DeviceError> {
        if let KvValues::KeyPrefix(dim) = self.values
            && !(1..=self.head_dim).contains(&dim)
        {
            return Err(too_large());
        }
        product(&[self.planes(), self.layers, self.block_size, self.kv_heads])
    }

    /// Bytes of a block in wire form, which is `[layers][planes][block_size]
    /// [kv_heads]` of keys or values, little endian. In a pool it takes as many.
    pub fn block_bytes(&self) -> Result<usize, DeviceError> {
        product(&[self.block_vectors()?, self.vector_bytes()?])
    }

    /// Bytes of the whole pool.
    pub fn pool_bytes(&self) -> Result<usize, DeviceError> {
        product(&[self.block_bytes()?, self.total_blocks])
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_takes_what_its_numbers_and_scales_take() {
        let bytes = |dtype, values| {
            let shape = KvShape {
                layers: 3,
                kv_heads: 2,
                head_dim: 64,
                values,
                dtype,
                block_size: 16,
                total_blocks: 5,
            };
            assert_eq!(shape.pool_bytes(), shape.block_bytes().map(|it| it * 5));
            shape.block_bytes().unwrap() / (3 * 2 * 16)
        };
        let latent = KvValues::KeyPrefix(48);
        assert_eq!(bytes(KvDtype::F32, KvValues::Stored), 512);
        assert_eq!(bytes(KvDtype::Bf16, KvValues::Stored), 256);
        assert_eq!(bytes(KvDtype::Int8, KvValues::Stored), 136);
        assert_eq!(bytes(KvDtype::F32, latent), 256);
        assert_eq!(bytes(KvDtype::Bf16, latent), 128);
        assert_eq!(bytes(KvDtype::Int8, latent), 72);
    }

    #[test]
    fn names_are_read_as_written() {
        for dtype in KvDtype::ALL {
            assert_eq!(dtype.to_string().parse(), Ok(dtype));
        }
        let unknown = "fp8".parse::<KvDtype>().unwrap_err();
        assert!(unknown.contains("bf16"), "{unknown}");
    }
}
