//! Paged keys and values in host memory.

use super::kernels::attend::Keys;
use crate::error::DeviceError;
use crate::kv_shape::{KvShape, KvValues};

/// All layers' blocks: `[layers][planes][blocks][kv_heads]`, of which each is a
/// matrix: values `[block_size][head_dim]`, keys `[head_dim][block_size]`, so
/// that scores of neighbouring positions are neighbouring lanes; but keys that
/// values are part of lie as values do. Memory is the system's until a block
/// is first written.
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

    /// A head's keys or values in a block.
    fn head(&self, plane: Plane, block: usize, head: usize) -> &[f32] {
        let start = self.head_start(plane, block, head);
        &self.data[start..start + self.shape.block_size * self.shape.head_dim]
    }

    /// Keys of a block and head from an offset in the block on.
    pub(super) fn keys(
        &self,
        plane: Plane,
        (block, head, offset): (usize, usize, usize),
    ) -> Keys<'_> {
        let keys = self.head(plane, block, head);
        match self.shape.values {
            KvValues::Stored => Keys::Across {
                keys: &keys[offset..],
                stride: self.shape.block_size,
            },
            KvValues::KeyPrefix(_) => Keys::Along(&keys[offset * self.shape.head_dim..]),
        }
    }

    /// Values of a block and head from an offset in the block on, `[positions,
    /// head_dim]`; where values are part of keys, they are those keys.
    pub(super) fn values(
        &self,
        plane: Plane,
        (block, head, offset): (usize, usize, usize),
    ) -> &[f32] {
        &self.head(plane, block, head)[offset * self.shape.head_dim..]
    }

    /// Where a token's numbers start in a head's matrix, and how far apart they
    /// are.
    fn run(&self, plane: Plane, offset: usize) -> (usize, usize) {
        match (self.shape.values, plane.part) {
            (KvValues::Stored, Part::Keys) => (offset, self.shape.block_size),
            _ => (offset * self.shape.head_dim, 1),
        }
    }

    /// Stores one token's heads, `[kv_heads, head_dim]`.
    pub(super) fn write(&mut self, plane: Plane, block: usize, offset: usize, heads: &[f32]) {
        let (first, step) = self.run(plane, offset);
        for (head, values) in heads.chunks_exact(self.shape.head_dim).enumerate() {
            let start = self.head_start(plane, block, head) + first;
            let places = self.data[start..].iter_mut().step_by(step);
            places
                .zip(values)
                .for_each(|(place, value)| *place = *value);
        }
    }

    /// Appends a block's wire form.
    pub(super) fn export(&self, block: u32, out: &mut Vec<u8>) -> Result<(), DeviceError> {
        DeviceError::in_range("block", block as usize, self.shape.total_blocks)?;
        out.reserve(self.shape.block_bytes()?);
        for (start, step) in self.wire_order(block as usize) {
            let end = out.len();
            out.resize(end + self.shape.head_dim * 4, 0);
            let values = self.data[start..].iter().step_by(step);
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
        let dim = self.shape.head_dim;
        for (start, step) in self.wire_order(block as usize) {
            let (head, tail) = rest.split_at(dim * 4);
            rest = tail;
            let values = self.data[start..].iter_mut().step_by(step);
            for (value, b) in values.zip(head.chunks_exact(4)) {
                *value = f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
            }
        }
        Ok(())
    }

    /// Where a block's runs of `head_dim` numbers start, in wire order, and how
    /// far apart their numbers are.
    fn wire_order(&self, block: usize) -> Vec<(usize, usize)> {
        let s = &self.shape;
        let mut runs = Vec::with_capacity(s.layers * s.planes() * s.block_size * s.kv_heads);
        for layer in 0..s.layers {
            for part in [Part::Keys, Part::Values].into_iter().take(s.planes()) {
                let plane = Plane { layer, part };
                for offset in 0..s.block_size {
                    let (first, step) = self.run(plane, offset);
                    let start = |head| self.head_start(plane, block, head) + first;
                    runs.extend((0..s.kv_heads).map(|head| (start(head), step)));
                }
            }
        }
        runs
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
        // Keys of token 2 lie four numbers apart.
        let keys = pool.head(plane, 4, 1);
        assert_eq!([keys[2], keys[6]], [2.0, 3.0]);
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
