use proptest::prelude::*;

use super::attend::{Keys, Query, Tile};
use super::*;
use crate::cpu::testing::numbers;

/// Queries of `dim` numbers and a tile of so many positions.
struct Case {
    dim: usize,
    value_dim: usize,
    positions: usize,
    queries: Vec<Query>,
    q: Vec<f32>,
    /// `[positions][dim]`
    keys: Vec<f32>,
    values: Vec<f32>,
    out: Vec<f32>,
}

impl Case {
    fn new(dim: usize, value_dim: usize, positions: usize, seen: &[(usize, usize)]) -> Case {
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
        Case {
            dim,
            value_dim,
            positions,
            queries: queries.collect(),
            q: numbers(1, seen.len() * dim),
            keys: numbers(2, positions * dim),
            values: numbers(3, positions * dim),
            out: numbers(4, seen.len() * value_dim),
        }
    }

    /// Results, and the softmax after the tile, of some of the queries.
    fn run(&self, kernels: Kernels, across: bool, which: std::ops::Range<usize>) -> Vec<f32> {
        let stride = self.positions + 3;
        let mut transposed = vec![f32::NAN; self.dim * stride];
        for (index, key) in self.keys.iter().enumerate() {
            transposed[index % self.dim * stride + index / self.dim] = *key;
        }
        let keys = match across {
            true => Keys::Across {
                keys: &transposed,
                stride,
            },
            false => Keys::Along(&self.keys),
        };
        let tile = Tile {
            q: &self.q,
            dim: self.dim,
            value_dim: self.value_dim,
            positions: self.positions,
            keys,
            values: &self.values,
            scale: 0.4,
            soft_cap: None,
        };
        let mut queries = self.queries[which.clone()].to_vec();
        let mut out = self.out.clone();
        kernels.attend(&tile, &mut queries, &mut out);
        let mut found = out[which.start * self.value_dim..which.end * self.value_dim].to_vec();
        found.extend(queries.iter().flat_map(|query| [query.max, query.total]));
        found
    }

    fn exact(&self) -> Vec<f64> {
        let mut found = Vec::new();
        let mut softmax = Vec::new();
        for (query, out) in self.queries.iter().zip(self.out.chunks(self.value_dim)) {
            let q = &self.q[query.q..query.q + self.dim];
            let score = |position: usize| {
                let keys = &self.keys[position * self.dim..(position + 1) * self.dim];
                let terms = q
                    .iter()
                    .zip(keys)
                    .map(|(q, k)| f64::from(*q) * f64::from(*k));
                0.4 * terms.sum::<f64>()
            };
            let scores: Vec<f64> = (query.seen.0..query.seen.1).map(score).collect();
            let max = scores.iter().copied().fold(f64::from(query.max), f64::max);
            let decay = (f64::from(query.max) - max).exp();
            let weights: Vec<f64> = scores.iter().map(|score| (score - max).exp()).collect();
            found.extend(out.iter().enumerate().map(|(i, out)| {
                let terms = weights.iter().zip(query.seen.0..);
                let value = |position: usize| f64::from(self.values[position * self.dim + i]);
                let sum: f64 = terms.map(|(weight, at)| weight * value(at)).sum();
                f64::from(*out) * decay + sum
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
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn attention_of_a_tile_is_exact_and_alike_in_any_company_and_instruction_set(
        dim in 1usize..90,
        shorter in 0usize..20,
        positions in 1usize..17,
        seen in prop::collection::vec((0usize..16, 0usize..30), 1..40),
        across: bool,
    ) {
        let case = Case::new(dim, dim.saturating_sub(shorter).max(1), positions, &seen);
        let all = 0..seen.len();
        let oracle = case.run(Kernels(Isa::Portable), across, all.clone());
        for (found, exact) in oracle.iter().zip(case.exact()) {
            prop_assert!((f64::from(*found) - exact).abs() < 1e-4, "{found} {exact}");
        }
        for kernels in Kernels::all() {
            prop_assert_eq!(&case.run(kernels, across, all.clone()), &oracle, "{:?}", kernels);
            let last = case.run(kernels, across, seen.len() - 1..seen.len());
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
