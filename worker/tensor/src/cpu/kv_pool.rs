//! Paged keys and values in host memory.

#[cfg(test)]
mod tests;

use super::kernels::attend::{Keys, Scales};
use super::math::round;
use super::matrix::activations::round_to_bf16;
use super::pages::{Arena, Pages};
use crate::error::DeviceError;
use crate::kv_shape::{KvDtype, KvShape, KvValues};

/// All layers' blocks: `[layers][planes][blocks][kv_heads]`, of which each is a
/// matrix: values `[block_size][head_dim]`, keys `[head_dim][block_size]`, so
/// that scores of neighbouring positions are neighbouring lanes; but keys that
/// values are part of lie as values do. In bf16 both lie in pairs: keys
/// `[head_dim / 2][block_size][2]`, values `[block_size / 2][head_dim][2]`.
/// Memory is the system's until a block is first written.
pub struct CpuKvPool {
    shape: KvShape,
    /// Little endian.
    numbers: Pages<u8>,
    /// `[layers][keys, values][blocks][kv_heads][block_size]`. Where values are
    /// part of keys, those of keys are of what follows the values in them.
    scales: Pages<f32>,
}

/// Keys or values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Keys = 0,
    Values = 1,
}

/// A layer's keys or values.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plane {
    pub(super) layer: usize,
    pub(super) part: Part,
}

/// Where numbers lie.
#[derive(Clone, Copy)]
struct Place {
    /// Bytes of those that lie together: one number, or a pair.
    size: usize,
    /// In units of that size, the first and how far apart they are.
    start: usize,
    apart: usize,
}

/// One token's key or value of one head.
#[derive(Clone, Copy)]
struct Vector {
    plane: Plane,
    block: usize,
    head: usize,
    /// In the block.
    offset: usize,
}

impl CpuKvPool {
    pub(super) fn new(shape: &KvShape) -> Result<CpuKvPool, DeviceError> {
        let vectors = shape.pool_bytes()? / shape.vector_bytes()?;
        let pages = Arena::new("the KV pool");
        Ok(CpuKvPool {
            numbers: pages.zeroed(vectors * shape.head_dim * shape.dtype.size())?,
            scales: pages.zeroed(vectors * shape.scales())?,
            shape: shape.clone(),
        })
    }

    pub(super) fn shape(&self) -> &KvShape {
        &self.shape
    }

    /// Whether keys and values lie in pairs, as those of bf16 do where they can.
    pub(super) fn in_pairs(&self) -> bool {
        let s = &self.shape;
        s.dtype == KvDtype::Bf16
            && s.values == KvValues::Stored
            && s.head_dim.is_multiple_of(2)
            && s.block_size.is_multiple_of(2)
    }

    /// The first number of a head's keys or values in a block.
    fn head_start(&self, plane: Plane, block: usize, head: usize) -> usize {
        let s = &self.shape;
        let plane = plane.layer * s.planes() + (plane.part as usize).min(s.planes() - 1);
        ((plane * s.total_blocks + block) * s.kv_heads + head) * s.block_size * s.head_dim
    }

    /// A head's keys or values in a block.
    fn head(&self, plane: Plane, block: usize, head: usize) -> &[u8] {
        let start = self.head_start(plane, block, head);
        let size = self.shape.dtype.size();
        let len = self.shape.block_size * self.shape.head_dim;
        &self.numbers[start * size..(start + len) * size]
    }

    /// Keys of a block and head from an offset in the block on.
    pub(super) fn keys(
        &self,
        layer: usize,
        (block, head, offset): (usize, usize, usize),
    ) -> Keys<'_> {
        let part = Part::Keys;
        let keys = self.head(Plane { layer, part }, block, head);
        let from = offset * self.shape.dtype.size();
        match self.shape.values {
            KvValues::Stored if self.in_pairs() => Keys::Pairs {
                keys: &keys[2 * from..],
                stride: self.shape.block_size,
            },
            KvValues::Stored => Keys::Across {
                keys: &keys[from..],
                stride: self.shape.block_size,
            },
            KvValues::KeyPrefix(_) => Keys::Along(&keys[from * self.shape.head_dim..]),
        }
    }

    /// Values of a block and head from an offset in the block on, `[positions,
    /// head_dim]`, or in pairs from an even offset on; where values are part of
    /// keys, they are those keys.
    pub(super) fn values(
        &self,
        layer: usize,
        (block, head, offset): (usize, usize, usize),
    ) -> &[u8] {
        let part = Part::Values;
        let values = self.head(Plane { layer, part }, block, head);
        &values[offset * self.shape.head_dim * self.shape.dtype.size()..]
    }

    /// What those keys and values are to be multiplied with.
    pub(super) fn scales(
        &self,
        layer: usize,
        (block, head, offset): (usize, usize, usize),
    ) -> Option<Scales<'_>> {
        let of = |part| {
            let first = self.scale_place(Vector {
                plane: Plane { layer, part },
                block,
                head,
                offset,
            });
            &self.scales[first..first + self.shape.block_size - offset]
        };
        (self.shape.scales() > 0).then(|| Scales {
            keys: of(Part::Keys),
            values: of(Part::Values),
        })
    }

    /// Where a vector's numbers lie.
    fn place(&self, vector: Vector) -> Place {
        let s = &self.shape;
        let Plane { part, .. } = vector.plane;
        let start = self.head_start(vector.plane, vector.block, vector.head);
        let offset = vector.offset;
        let (together, start, apart) = match (s.values, part) {
            (KvValues::Stored, Part::Keys) if self.in_pairs() => {
                (2, start / 2 + offset, s.block_size)
            }
            (KvValues::Stored, Part::Values) if self.in_pairs() => {
                (1, start + offset / 2 * 2 * s.head_dim + offset % 2, 2)
            }
            (KvValues::Stored, Part::Keys) => (1, start + offset, s.block_size),
            (KvValues::Stored, Part::Values) | (KvValues::KeyPrefix(_), _) => {
                (1, start + offset * s.head_dim, 1)
            }
        };
        Place {
            size: together * s.dtype.size(),
            start,
            apart,
        }
    }

    /// Where the scale of a vector lies.
    fn scale_place(&self, vector: Vector) -> usize {
        let s = &self.shape;
        let plane = vector.plane.layer * 2 + vector.plane.part as usize;
        let head = (plane * s.total_blocks + vector.block) * s.kv_heads + vector.head;
        head * s.block_size + vector.offset
    }

    /// Which scales a vector has, in the order of its numbers.
    fn scaled(&self, part: Part) -> &'static [Part] {
        match (self.shape.dtype, self.shape.values, part) {
            (KvDtype::F32 | KvDtype::Bf16, _, _) => &[],
            (KvDtype::Int8, KvValues::Stored, Part::Keys) => &[Part::Keys],
            (KvDtype::Int8, KvValues::Stored, Part::Values) => &[Part::Values],
            (KvDtype::Int8, KvValues::KeyPrefix(_), _) => &[Part::Values, Part::Keys],
        }
    }

    /// Stores one token's heads, `[kv_heads, head_dim]`.
    pub(super) fn write(&mut self, plane: Plane, block: usize, offset: usize, heads: &[f32]) {
        let mut wire = Vec::new();
        for (head, values) in heads.chunks_exact(self.shape.head_dim).enumerate() {
            let vector = Vector {
                plane,
                block,
                head,
                offset,
            };
            let place = self.place(vector);
            match self.shape.dtype {
                KvDtype::F32 => {
                    let numbers = values.iter().map(|x| x.to_le_bytes());
                    scatter(numbers, &mut self.numbers, place);
                }
                KvDtype::Bf16 if place.size == 4 => {
                    let pairs = values.as_chunks::<2>().0.iter();
                    let pairs = pairs.map(|pair| pair.map(|x| round_to_bf16(x).to_le_bytes()));
                    let pairs = pairs.map(|[[a, b], [c, d]]| [a, b, c, d]);
                    scatter(pairs, &mut self.numbers, place);
                }
                KvDtype::Bf16 => {
                    let numbers = values.iter().map(|&x| round_to_bf16(x).to_le_bytes());
                    scatter(numbers, &mut self.numbers, place);
                }
                KvDtype::Int8 => {
                    wire.clear();
                    encode(&self.shape, values, &mut wire);
                    self.put(vector, &wire);
                }
            }
        }
    }

    /// Fills a vector from its wire form.
    fn put(&mut self, vector: Vector, wire: &[u8]) {
        let size = self.shape.dtype.size();
        let (numbers, scales) = wire.split_at(self.shape.head_dim * size);
        let place = self.place(vector);
        match place.size {
            1 => scatter(chunks::<1>(numbers), &mut self.numbers, place),
            2 => scatter(chunks::<2>(numbers), &mut self.numbers, place),
            _ => scatter(chunks::<4>(numbers), &mut self.numbers, place),
        }
        let parts = self.scaled(vector.plane.part).iter();
        for (&part, scale) in parts.zip(scales.as_chunks().0) {
            let place = self.scale_place(vector.of(part));
            self.scales[place] = f32::from_le_bytes(*scale);
        }
    }

    /// Appends a vector's wire form.
    fn get(&self, vector: Vector, out: &mut Vec<u8>) {
        let place = self.place(vector);
        let bytes = self.shape.head_dim * self.shape.dtype.size();
        match place.size {
            1 => gather::<1>(&self.numbers, place, bytes, out),
            2 => gather::<2>(&self.numbers, place, bytes / 2, out),
            _ => gather::<4>(&self.numbers, place, bytes / 4, out),
        }
        for &part in self.scaled(vector.plane.part) {
            let scale = self.scales[self.scale_place(vector.of(part))];
            out.extend(scale.to_le_bytes());
        }
    }

    /// Makes block `to` what block `from` is.
    pub(super) fn copy(&mut self, from: u32, to: u32) -> Result<(), DeviceError> {
        let s = &self.shape;
        for block in [from, to] {
            DeviceError::in_range("block", block as usize, s.total_blocks)?;
        }
        let vectors = s.kv_heads * s.block_size;
        let numbers = vectors * s.head_dim * s.dtype.size();
        for plane in 0..s.layers * s.planes() {
            let block = |block: u32| (plane * s.total_blocks + block as usize) * numbers;
            let from = block(from);
            self.numbers.copy_within(from..from + numbers, block(to));
        }
        let scales = self.scales.len() / (s.total_blocks * vectors);
        for plane in 0..scales {
            let block = |block: u32| (plane * s.total_blocks + block as usize) * vectors;
            let from = block(from);
            self.scales.copy_within(from..from + vectors, block(to));
        }
        Ok(())
    }

    /// Appends a block's wire form.
    pub(super) fn export(&self, block: u32, out: &mut Vec<u8>) -> Result<(), DeviceError> {
        DeviceError::in_range("block", block as usize, self.shape.total_blocks)?;
        out.reserve(self.shape.block_bytes()?);
        for vector in self.wire_order(block as usize) {
            self.get(vector, out);
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
        let vectors = bytes.chunks_exact(self.shape.vector_bytes()?);
        for (vector, wire) in self.wire_order(block as usize).zip(vectors) {
            self.put(vector, wire);
        }
        Ok(())
    }

    /// A block's vectors in wire order.
    fn wire_order(&self, block: usize) -> impl Iterator<Item = Vector> + use<> {
        let (planes, kv_heads) = (self.shape.planes(), self.shape.kv_heads);
        let (layers, tokens) = (self.shape.layers, self.shape.block_size);
        (0..layers * planes * tokens * kv_heads).map(move |index| {
            let plane = index / (tokens * kv_heads);
            let part = match plane % planes {
                0 => Part::Keys,
                _ => Part::Values,
            };
            let layer = plane / planes;
            Vector {
                plane: Plane { layer, part },
                block,
                head: index % kv_heads,
                offset: index / kv_heads % tokens,
            }
        })
    }
}

impl Vector {
    /// The other part's.
    fn of(self, part: Part) -> Vector {
        let layer = self.plane.layer;
        Vector {
            plane: Plane { layer, part },
            ..self
        }
    }
}

/// Numbers, or pairs of them, as they come.
fn scatter<const SIZE: usize>(
    numbers: impl Iterator<Item = [u8; SIZE]>,
    pool: &mut [u8],
    place: Place,
) {
    let places = pool.as_chunks_mut::<SIZE>().0[place.start..].iter_mut();
    let put = |(place, number): (&mut [u8; SIZE], [u8; SIZE])| *place = number;
    match place.apart {
        // Said apart, as neighbours are stored in vectors.
        1 => places.zip(numbers).for_each(put),
        apart => places.step_by(apart).zip(numbers).for_each(put),
    }
}

/// Numbers one after the other.
fn chunks<const SIZE: usize>(bytes: &[u8]) -> impl Iterator<Item = [u8; SIZE]> {
    bytes.as_chunks().0.iter().copied()
}

/// Appends `count` numbers, or pairs of them.
fn gather<const SIZE: usize>(pool: &[u8], place: Place, count: usize, out: &mut Vec<u8>) {
    let numbers = pool.as_chunks::<SIZE>().0[place.start..].iter();
    out.extend(numbers.step_by(place.apart).take(count).flatten());
}

/// Appends the wire form of a vector.
fn encode(shape: &KvShape, values: &[f32], out: &mut Vec<u8>) {
    match shape.dtype {
        KvDtype::F32 => out.extend(values.iter().flat_map(|x| x.to_le_bytes())),
        KvDtype::Bf16 => out.extend(values.iter().flat_map(|&x| round_to_bf16(x).to_le_bytes())),
        KvDtype::Int8 => {
            let (value, rest) = values.split_at(shape.value_dim());
            let scales = [quantize(value, out), quantize(rest, out)];
            let scales = &scales[..shape.scales()];
            out.extend(scales.iter().flat_map(|scale| scale.to_le_bytes()));
        }
    }
}

/// Appends numbers as bytes; returns what these are to be multiplied with.
fn quantize(values: &[f32], out: &mut Vec<u8>) -> f32 {
    let largest = values
        .iter()
        .fold(0.0f32, |largest, x| largest.max(x.abs()));
    let scale = largest / 127.0;
    let inverse = if scale > 0.0 { scale.recip() } else { 0.0 };
    out.extend(values.iter().map(|x| round(x * inverse) as u8));
    scale
}
