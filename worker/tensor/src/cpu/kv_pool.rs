//! Paged keys and values in host memory.

use crate::error::DeviceError;
use crate::kv_shape::{KvShape, KvValues};

/// All layers' blocks: `[layers][planes][blocks][kv_heads][block_size]
/// [head_dim]`, so that one head's keys in a block are one matrix. Memory is the system's
/// until a block is first written.
pub struct CpuKvPool {
    shape: KvShape,
    data: Box<[f32]>,
}

/// Keys or values.
#[derive(Clone, Copy)]
pub(super) enum Part {
    Keys = 0,
    Values = 1,
}

/// A layer's keys or values.
#[derive(Clone, Copy)]
pub(super) struct Plane {
    pub(super) layer: usize,
    pub(super) part: Part,
}

impl CpuKvPool {
    pub(super) fn new(shape: &KvShape) -> Result<CpuKvPool, DeviceError> {
        let elements = shape.pool_elements()?;
        let data = bytemuck::allocation::try_zeroed_slice_box(elements).map_err(|()| {
            DeviceError::OutOfMemory {
                what: "the KV pool",
                elements,
            }
        })?;
        Ok(CpuKvPool {
            shape: shape.clone(),
            data,
        })
    }

    pub(super) fn shape(&self) -> &KvShape {
        &self.shape
    }

    fn head_start(&self, plane: Plane, block: usize, head: usize) -> usize {
        let s = &self.shape;
        let part = match s.values {
            KvValues::Stored => plane.part as usize,
            KvValues::KeyPrefix(_) => 0,
        };
        let plane = plane.layer * s.planes() + part;
        ((plane * s.total_blocks + block) * s.kv_heads + head) * s.block_size * s.head_dim
    }

    /// A head's keys or values in a block, `[block_size, head_dim]`; where values
    /// are part of keys, they are those keys.
    pub(super) fn head(&self, plane: Plane, block: usize, head: usize) -> &[f32] {
        let start = self.head_start(plane, block, head);
        &self.data[start..start + self.shape.block_size * self.shape.head_dim]
    }

    /// Stores one token's heads, `[kv_heads, head_dim]`.
    pub(super) fn write(&mut self, plane: Plane, block: usize, offset: usize, heads: &[f32]) {
        let dim = self.shape.head_dim;
        for (head, values) in heads.chunks_exact(dim).enumerate() {
            let start = self.head_start(plane, block, head) + offset * dim;
            self.data[start..start + dim].copy_from_slice(values);
        }
    }

    /// Appends a block's wire form.
    pub(super) fn export(&self, block: u32, out: &mut Vec<u8>) -> Result<(), DeviceError> {
        DeviceError::in_range("block", block as usize, self.shape.total_blocks)?;
        out.reserve(self.shape.block_bytes()?);
        for (start, len) in self.wire_order(block as usize) {
            let values = &self.data[start..start + len];
            let end = out.len();
            out.resize(end + len * 4, 0);
            for (bytes, value) in out[end..].chunks_exact_mut(4).zip(values) {
                bytes.copy_from_slice(&value.to_le_bytes());
            }
        }
        Ok(())
    }

    /// Fills a block from its wire form.
    pub(super) fn import(&mut self, block: u32, bytes: &[u8]) -> Result<(), DeviceError> {
        DeviceError::in_range("block", block as usize, self.shape.total_blocks)?;
        let expected = self.shape.block_bytes()?;
        if bytes.len() != expected {
            return Err(DeviceError::Shape {
                what: "a block's wire form, in bytes,",
                found: bytes.len(),
                expected,
            });
        }
        let mut rest = bytes;
        let order = self.wire_order(block as usize);
        for (start, len) in order {
            let (head, tail) = rest.split_at(len * 4);
            rest = tail;
            for (value, b) in self.data[start..start + len]
                .iter_mut()
                .zip(head.chunks_exact(4))
            {
                *value = f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
            }
        }
        Ok(())
    }

    /// Where a block's runs of `head_dim` numbers start, in wire order.
    fn wire_order(&self, block: usize) -> impl Iterator<Item = (usize, usize)> + use<> {
        let s = self.shape.clone();
        let head_block = s.block_size * s.head_dim;
        (0..s.layers * s.planes()).flat_map(move |plane| {
            let base = (plane * s.total_blocks + block) * s.kv_heads * head_block;
            let (kv_heads, dim) = (s.kv_heads, s.head_dim);
            (0..s.block_size).flat_map(move |offset| {
                (0..kv_heads).map(move |head| (base + head * head_block + offset * dim, dim))
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool() -> CpuKvPool {
        CpuKvPool::new(&KvShape {
            layers: 2,
            kv_heads: 3,
            head_dim: 2,
            values: KvValues::Stored,
            block_size: 4,
            total_blocks: 5,
        })
        .unwrap()
    }

    /// A block of which every number says its place in wire order.
    fn wire() -> Vec<u8> {
        (0..2 * 2 * 4 * 3 * 2)
            .flat_map(|i| (i as f32).to_le_bytes())
            .collect()
    }

    #[test]
    fn a_block_comes_out_as_it_went_in() {
        let mut pool = pool();
        pool.import(3, &wire()).unwrap();
        let mut out = vec![9];
        pool.export(3, &mut out).unwrap();
        assert_eq!(out[0], 9);
        assert_eq!(out[1..], wire());
        out.clear();
        pool.export(2, &mut out).unwrap();
        assert!(out.iter().all(|&byte| byte == 0));
    }

    #[test]
    fn written_tokens_lie_in_wire_order() {
        let mut pool = pool();
        let plane = Plane {
            layer: 1,
            part: Part::Keys,
        };
        pool.write(plane, 4, 2, &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
        let mut out = Vec::new();
        pool.export(4, &mut out).unwrap();
        // Layer 1's keys start after two planes of 4 tokens of 6; token 2.
        let start = (2 * 4 + 2) * 6 * 4;
        let expected: Vec<u8> = (0..6).flat_map(|i| (i as f32).to_le_bytes()).collect();
        assert_eq!(out[start..start + 24], expected);
        assert_eq!(pool.head(plane, 4, 1)[4..6], [2.0, 3.0]);
    }

    #[test]
    fn a_pool_of_keys_only_holds_half_and_gives_keys_for_values() {
        let shape = KvShape {
            values: KvValues::KeyPrefix(1),
            ..pool().shape
        };
        let mut keys = CpuKvPool::new(&shape).unwrap();
        assert_eq!(keys.data.len(), pool().data.len() / 2);
        let wire = &wire()[..shape.block_bytes().unwrap()];
        keys.import(3, wire).unwrap();
        let mut out = Vec::new();
        keys.export(3, &mut out).unwrap();
        assert_eq!(out, wire);
        let plane = |part| Plane { layer: 1, part };
        let (k, v) = (plane(Part::Keys), plane(Part::Values));
        assert_eq!(keys.head(k, 3, 2), keys.head(v, 3, 2));
        for dim in [0, 3] {
            let values = KvValues::KeyPrefix(dim);
            assert!(
                CpuKvPool::new(&KvShape {
                    values,
                    ..pool().shape
                })
                .is_err()
            );
        }
    }

    #[test]
    fn refuses_other_lengths_and_blocks_that_are_not_there() {
        let mut pool = pool();
        assert!(pool.import(0, &wire()[1..]).is_err());
        assert!(pool.import(5, &wire()).is_err());
        assert!(pool.export(5, &mut Vec::new()).is_err());
    }

    #[test]
    fn refuses_sizes_that_overflow_or_do_not_fit() {
        let shape = |layers, total_blocks| KvShape {
            layers,
            kv_heads: 1,
            head_dim: 2,
            values: KvValues::Stored,
            block_size: 16,
            total_blocks,
        };
        for shape in [
            shape(0, 1),
            shape(1, 0),
            shape(usize::MAX, 4),
            shape(1 << 30, 1 << 24),
        ] {
            assert!(CpuKvPool::new(&shape).is_err(), "{shape:?}");
        }
    }
}
