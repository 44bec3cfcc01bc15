use super::*;
use crate::cpu::testing::numbers;

const SHAPE: KvShape = KvShape {
    layers: 2,
    kv_heads: 3,
    head_dim: 2,
    values: KvValues::Stored,
    dtype: KvDtype::F32,
    block_size: 4,
    total_blocks: 5,
};

fn pool() -> CpuKvPool {
    CpuKvPool::new(&SHAPE).unwrap()
}

/// A block of f32 of which every number says its place in wire order.
fn wire() -> Vec<u8> {
    (0..2 * 2 * 4 * 3 * 2)
        .flat_map(|i| (i as f32).to_le_bytes())
        .collect()
}

/// Pools of all dtypes, with values and without.
fn shapes() -> impl Iterator<Item = KvShape> {
    KvDtype::ALL.into_iter().flat_map(|dtype| {
        [
            KvValues::Stored,
            KvValues::KeyPrefix(4),
            KvValues::KeyPrefix(6),
        ]
        .map(|values| KvShape {
            head_dim: 6,
            values,
            dtype,
            ..SHAPE
        })
    })
}

#[test]
fn a_block_comes_out_as_it_went_in() {
    for shape in shapes() {
        let mut pool = CpuKvPool::new(&shape).unwrap();
        let len = shape.block_bytes().unwrap();
        let wire: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
        pool.import(3, &wire).unwrap();
        let mut out = vec![9];
        pool.export(3, &mut out).unwrap();
        assert_eq!(out[0], 9);
        assert_eq!(out[1..], wire, "{shape:?}");
        pool.copy(3, 1).unwrap();
        out.clear();
        pool.export(1, &mut out).unwrap();
        assert_eq!(out, wire, "{shape:?}");
        out.clear();
        pool.export(2, &mut out).unwrap();
        assert!(out.iter().all(|&byte| byte == 0));
    }
}

/// A vector of a wire form, in f32.
fn decode(shape: &KvShape, wire: &[u8]) -> Vec<f32> {
    let (numbers, scales) = wire.split_at(shape.head_dim * shape.dtype.size());
    let scales = scales
        .as_chunks()
        .0
        .iter()
        .map(|it| f32::from_le_bytes(*it));
    let scales: Vec<_> = scales.collect();
    let number = |i: usize| {
        let bytes = &numbers[i * shape.dtype.size()..];
        match shape.dtype {
            KvDtype::F32 => f32::from_le_bytes(*bytes.first_chunk().unwrap()),
            KvDtype::Bf16 => half::bf16::from_le_bytes(*bytes.first_chunk().unwrap()).to_f32(),
            KvDtype::Int8 => {
                f32::from(bytes[0] as i8) * scales[usize::from(i >= shape.value_dim())]
            }
        }
    };
    (0..shape.head_dim).map(number).collect()
}

#[test]
fn what_is_written_is_kept_as_precisely_as_its_dtype_says() {
    for shape in shapes() {
        let mut pool = CpuKvPool::new(&shape).unwrap();
        let mut written = numbers(3, 3 * 6);
        // What follows a value is much larger than the value.
        written
            .chunks_mut(6)
            .for_each(|head| head[4..].iter_mut().for_each(|x| *x *= 50.0));
        let plane = Plane {
            layer: 1,
            part: Part::Keys,
        };
        pool.write(plane, 4, 2, &written);
        let mut wire = Vec::new();
        pool.export(4, &mut wire).unwrap();
        let bytes = shape.vector_bytes().unwrap();
        let first = (shape.planes() * 4 + 2) * 3;
        for (head, written) in written.chunks(6).enumerate() {
            let wire = &wire[(first + head) * bytes..][..bytes];
            let read = decode(&shape, wire);
            for (part, written) in [(0..shape.value_dim()), (shape.value_dim()..6)]
                .map(|part| (part.clone(), &written[part]))
            {
                let largest = written
                    .iter()
                    .fold(0.0f32, |largest, x| largest.max(x.abs()));
                for (read, written) in read[part].iter().zip(written) {
                    let most = match shape.dtype {
                        KvDtype::F32 => 0.0,
                        KvDtype::Bf16 => written.abs() / 256.0,
                        KvDtype::Int8 => largest * 0.5001 / 127.0,
                    };
                    assert!((read - written).abs() <= most, "{shape:?} {read} {written}");
                }
            }
        }
    }
}

#[test]
fn zeros_infinities_and_nan_stay_with_their_vector() {
    let shape = KvShape {
        dtype: KvDtype::Int8,
        ..SHAPE
    };
    let kept = |values: [f32; 2]| {
        let mut wire = Vec::new();
        encode(&shape, &values, &mut wire);
        decode(&shape, &wire)
    };
    assert_eq!(kept([0.0, -0.0]), [0.0, 0.0]);
    assert_eq!(kept([f32::NAN, 1.0]), [0.0, 1.0]);
    assert!(kept([f32::INFINITY, 1.0])[0].is_nan());
    assert!(kept([1e-42, -1e-42]).iter().all(|x| x.abs() < 2e-42));
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
    let keys = pool.head(plane, 4, 1).as_chunks().0;
    let key = [keys[2], keys[6]].map(f32::from_le_bytes);
    assert_eq!(key, [2.0, 3.0]);
}

#[test]
fn a_pool_of_keys_only_holds_half_and_gives_keys_for_values() {
    let shape = KvShape {
        values: KvValues::KeyPrefix(1),
        ..SHAPE
    };
    let mut keys = CpuKvPool::new(&shape).unwrap();
    assert_eq!(keys.numbers.len(), pool().numbers.len() / 2);
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
        assert!(CpuKvPool::new(&KvShape { values, ..SHAPE }).is_err());
    }
}

#[test]
fn refuses_other_lengths_and_blocks_that_are_not_there() {
    let mut pool = pool();
    assert!(pool.import(0, &wire()[1..]).is_err());
    assert!(pool.import(5, &wire()).is_err());
    assert!(pool.export(5, &mut Vec::new()).is_err());
    assert!(pool.copy(0, 5).is_err() && pool.copy(5, 0).is_err());
}

#[test]
fn refuses_sizes_that_overflow_or_do_not_fit() {
    let shape = |layers, total_blocks| KvShape {
        layers,
        kv_heads: 1,
        block_size: 16,
        total_blocks,
        ..SHAPE
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
