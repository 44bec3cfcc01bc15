use proptest::prelude::*;

use super::*;
use crate::cpu::testing::numbers;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn sums_and_dots_give_the_portable_bits(len in 1usize..70, count in 0usize..17) {
        let x = numbers(1, len);
        let rows = numbers(2, len * count);
        let op = WeightedSum { scale: 0.7, weights: &numbers(3, count), rows: &rows };
        let run = |kernels: Kernels| {
            let mut out = x.clone();
            kernels.weighted_sum(&op, &mut out);
            (kernels.dot(&x, &out), out)
        };
        let oracle = run(Kernels(Isa::Portable));
        for (i, found) in oracle.1.iter().enumerate() {
            let weighted: f64 = (0..count)
                .map(|j| f64::from(op.weights[j]) * f64::from(rows[j * len + i]))
                .sum();
            prop_assert!((f64::from(*found) - (f64::from(x[i]) * 0.7 + weighted)).abs() < 1e-5);
        }
        for kernels in Kernels::all() {
            prop_assert_eq!(&run(kernels), &oracle, "{:?}", kernels);
        }
    }
}
