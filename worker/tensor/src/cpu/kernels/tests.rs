use proptest::prelude::*;

use super::attend::{Keys, Queries, Query, Scales, Span, Tile};
use super::*;
use crate::cpu::compute::On;
use crate::cpu::testing::numbers;

/// How a tile's keys and values are kept.
#[derive(Clone, Copy, Debug)]
struct Kept {
    dtype: KvDtype,
    lie: Lie,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lie {
    Across,
    Along,
    /// Of bf16 only, and even numbers of positions and of a key's numbers.
    InPairs,
}

/// Queries of `dim` numbers and a span of tiles of so many positions.
struct Case {
    dim: usize,
    value_dim: usize,
    tiles: Vec<usize>,
    kept: Kept,
    queries: Vec<Query>,
    q: Vec<f32>,
    /// `[positions][dim]`, as they are kept and before any scale.
    keys: Vec<f32>,
    values: Vec<f32>,
    /// `[positions]`
    key_scales: Vec<f32>,
    value_scales: Vec<f32>,
    out: Vec<f32>,
}

impl Case {
    fn new(
        (dim, value_dim): (usize, usize),
        tiles: &[usize],
        seen: &[(usize, usize)],
        kept: Kept,
    ) -> Case {
        let positions = tiles.iter().sum::<usize>();
        let queries = seen.iter().enumerate().map(|(index, &(from, len))| Query {
            q: index * dim,
            out: index * value_dim,
            seen: (
                from % positions,
                (from % positions + 1 + len).min(positions),
            ),
            max: 0.3,
            total: 1.5,
        });
        let as_kept = |seed| {
            let numbers = numbers(seed, positions * dim).into_iter();
            let numbers = numbers.map(|x| match kept.dtype {
                KvDtype::F32 => x,
                KvDtype::Bf16 => bf16::from_f32(x).to_f32(),
                KvDtype::Int8 => (x * 100.0).round(),
            });
            numbers.collect::<Vec<_>>()
        };
        let scales = |seed| match kept.dtype {
            KvDtype::F32 | KvDtype::Bf16 => vec![1.0; positions],
            KvDtype::Int8 => numbers(seed, positions).iter().map(|x| x / 90.0).collect(),
        };
        Case {
            dim,
            value_dim,
            tiles: tiles.to_vec(),
            kept,
            queries: queries.collect(),
            q: numbers(1, seen.len() * dim),
            keys: as_kept(2),
            values: as_kept(3),
            key_scales: scales(5),
            value_scales: scales(6),
            out: numbers(4, seen.len() * value_dim),
        }
    }

    /// Numbers as they lie in memory.
    fn bytes(&self, numbers: &[f32]) -> Vec<u8> {
        let bytes = |&x| match self.kept.dtype {
            KvDtype::F32 => f32::to_le_bytes(x).to_vec(),
            KvDtype::Bf16 => bf16::from_f32(x).to_le_bytes().to_vec(),
            KvDtype::Int8 => (x as i8).to_le_bytes().to_vec(),
        };
        numbers.iter().flat_map(bytes).collect()
    }

    /// Keys and values of a tile whose first position is `first`, as they lie
    /// in memory; keys that lie across are `stride` apart.
    fn kept(&self, first: usize, positions: usize, stride: usize) -> [Vec<u8>; 2] {
        let numbers = first * self.dim..(first + positions) * self.dim;
        let (keys, values) = (&self.keys[numbers.clone()], &self.values[numbers]);
        let mut transposed = vec![77.0; self.dim * stride];
        let mut paired = vec![0.0; values.len()];
        for (index, (key, value)) in keys.iter().zip(values).enumerate() {
            let (position, i) = (index / self.dim, index % self.dim);
            match self.kept.lie {
                Lie::Along => {}
                Lie::Across => transposed[i * stride + position] = *key,
                Lie::InPairs => {
                    transposed[i / 2 * stride * 2 + position * 2 + i % 2] = *key;
                    paired[position / 2 * self.dim * 2 + i * 2 + position % 2] = *value;
                }
            }
        }
        match self.kept.lie {
            Lie::Along => [keys, values].map(|it| self.bytes(it)),
            Lie::Across => [&transposed, values].map(|it| self.bytes(it)),
            Lie::InPairs => [transposed, paired].map(|it| self.bytes(&it)),
        }
    }

    /// Results, and the softmax after the span, of some of the queries.
    fn run(&self, kernels: Kernels, which: std::ops::Range<usize>) -> Vec<f32> {
        let firsts = self.tiles.iter().scan(0, |first, &positions| {
            *first += positions;
            Some((*first - positions, positions, positions + 3))
        });
        let firsts: Vec<_> = firsts.collect();
        let kept = firsts
            .iter()
            .map(|&(first, positions, stride)| self.kept(first, positions, stride));
        let kept: Vec<_> = kept.collect();
        let tiles =
            firsts
                .iter()
                .zip(&kept)
                .map(|(&(first, positions, stride), [keys, values])| Tile {
                    first,
                    positions,
                    keys: match self.kept.lie {
                        Lie::Across => Keys::Across { keys, stride },
                        Lie::Along => Keys::Along(keys),
                        Lie::InPairs => Keys::Pairs { keys, stride },
                    },
                    values,
                    scales: (self.kept.dtype == KvDtype::Int8).then_some(Scales {
                        keys: &self.key_scales[first..],
                        values: &self.value_scales[first..],
                    }),
                });
        let tiles: Vec<_> = tiles.collect();
        let mut rounded = vec![[0; 2]; self.q.len()];
        kernels.round(&self.q, &mut rounded);
        let span = Span {
            q: match self.kept.lie {
                Lie::InPairs => Queries::Bf16(&rounded),
                _ => Queries::F32(&self.q),
            },
            dim: self.dim,
            value_dim: self.value_dim,
            dtype: self.kept.dtype,
            scale: 0.4,
            soft_cap: None,
            tiles: &tiles,
            next: &tiles,
        };
        let mut queries = self.queries[which.clone()].to_vec();
        let mut out = self.out.clone();
        kernels.attend(&span, &mut queries, &mut out);
        let mut found = out[which.start * self.value_dim..which.end * self.value_dim].to_vec();
        found.extend(queries.iter().flat_map(|query| [query.max, query.total]));
        found
    }

    fn key(&self, position: usize, i: usize) -> f64 {
        let scales = match self.kept.lie != Lie::Along || i >= self.value_dim {
            true => &self.key_scales,
            false => &self.value_scales,
        };
        f64::from(self.keys[position * self.dim + i]) * f64::from(scales[position])
    }

    fn value(&self, position: usize, i: usize) -> f64 {
        let value = f64::from(self.values[position * self.dim + i]);
        value * f64::from(self.value_scales[position])
    }

    /// What a query's number or a weight is when it meets keys or values.
    fn as_multiplied(&self, number: f32) -> f64 {
        match self.kept.lie {
            Lie::InPairs => bf16::from_f32(number).into(),
            _ => number.into(),
        }
    }

    fn exact(&self) -> Vec<f64> {
        let mut found = Vec::new();
        let mut softmax = Vec::new();
        for (query, out) in self.queries.iter().zip(self.out.chunks(self.value_dim)) {
            let q = &self.q[query.q..query.q + self.dim];
            let score = |position: usize| {
                let terms = q.iter().enumerate();
                let terms = terms.map(|(i, q)| self.as_multiplied(*q) * self.key(position, i));
                0.4 * terms.sum::<f64>()
            };
            let scores: Vec<f64> = (query.seen.0..query.seen.1).map(score).collect();
            let max = scores.iter().copied().fold(f64::from(query.max), f64::max);
            let decay = (f64::from(query.max) - max).exp();
            let weights: Vec<f64> = scores.iter().map(|score| (score - max).exp()).collect();
            found.extend(out.iter().enumerate().map(|(i, out)| {
                let terms = weights.iter().zip(query.seen.0..);
                let weighted = |(weight, at): (&f64, usize)| {
                    self.as_multiplied(*weight as f32) * self.value(at, i)
                };
                f64::from(*out) * decay + terms.map(weighted).sum::<f64>()
            }));
            softmax.extend([
                max,
                f64::from(query.total) * decay + weights.iter().sum::<f64>(),
            ]);
        }
        found.extend(softmax);
        found
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn attention_of_a_span_is_exact_and_alike_in_any_company_and_instruction_set(
        dim in 1usize..90,
        shorter in 0usize..20,
        tiles in prop::collection::vec(prop_oneof![1usize..17, Just(16)], 1..5),
        seen in prop::collection::vec((0usize..64, 0usize..90), 1..40),
        lie in prop::sample::select(&[Lie::Across, Lie::Along, Lie::InPairs]),
        dtype in prop::sample::select(&KvDtype::ALL),
    ) {
        let (dtype, unit) = match lie {
            Lie::InPairs => (KvDtype::Bf16, 2),
            _ => (dtype, 1),
        };
        let dim = dim.next_multiple_of(unit);
        let sizes = (dim, dim.saturating_sub(shorter).max(1));
        let tiles: Vec<usize> = tiles.iter().map(|it| it.next_multiple_of(unit)).collect();
        let case = Case::new(sizes, &tiles, &seen, Kept { dtype, lie });
        let all = 0..seen.len();
        let oracle = case.run(Kernels(Isa::Portable), all.clone());
        for (found, exact) in oracle.iter().zip(case.exact()) {
            // A weight may be rounded to either side.
            let most = if lie == Lie::InPairs { 0.02 } else { 1e-4 };
            prop_assert!((f64::from(*found) - exact).abs() < most, "{found} {exact}");
        }
        for kernels in Kernels::all() {
            prop_assert_eq!(&case.run(kernels, all.clone()), &oracle, "{:?}", kernels);
            let last = case.run(kernels, seen.len() - 1..seen.len());
            let from = (seen.len() - 1) * case.value_dim;
            prop_assert_eq!(&last[..case.value_dim], &oracle[from..from + case.value_dim]);
        }
    }

    #[test]
    fn dots_give_the_portable_bits(len in 1usize..70) {
        let (x, y) = (numbers(1, len), numbers(2, len));
        let oracle = Kernels(Isa::Portable).dot(&x, &y);
        for kernels in Kernels::all() {
            prop_assert_eq!(kernels.dot(&x, &y), oracle, "{:?}", kernels);
        }
    }
}

#[test]
fn blocks_are_quantised_alike_whatever_they_hold() {
    let mut block: [f32; 32] = numbers(9, 32).try_into().unwrap();
    let quantise = |kernels: Kernels, block: &[f32; 32]| {
        let on = On {
            kernels,
            pool: None,
        };
        let form = blocks::form(Isa::Avx512, blocks::BlockLayout::Q4, 1);
        let quantized = Quantized::new(block, 32, form, on);
        let group = quantized.groups().next().unwrap();
        (group.quants.to_vec(), group.scales[0].to_bits())
    };
    // A tie, what rounds down and up, and what is no number.
    for odd in [
        0.5,
        0.499,
        1.5,
        -2.5,
        f32::NAN,
        f32::INFINITY,
        -f32::INFINITY,
    ] {
        block[3] = odd;
        block[20] = -127.0;
        let expected = quantise(Kernels(Isa::Portable), &block);
        for kernels in Kernels::all() {
            assert_eq!(quantise(kernels, &block), expected, "{odd} by {kernels:?}");
        }
    }
}
