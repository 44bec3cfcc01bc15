//! Tiles in software against the other kernels: the same bits.

use proptest::prelude::*;

use super::layout::{Q4, Q4K, Q8};
use super::lines::PortableLines;
use super::*;
use crate::cpu::compute::{Compute, CpuOptions};
use crate::cpu::kernels::amx::Software;
use crate::cpu::matrix::Packed;
use crate::cpu::testing::numbers;
use crate::encoding::{Encoding, StoredMatrix};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn tiles_give_the_bits_of_all_others(
        encoding in prop::sample::select(vec![Encoding::Q8_0, Encoding::Q4_0, Encoding::Q4K]),
        rows in 1usize..40,
        tokens in 12usize..40,
        blocks in 1usize..3,
        seed in 0u64..100,
    ) {
        let cols = blocks * encoding.block();
        let on = Compute::new(&CpuOptions { isa: Some(Isa::Portable), ..CpuOptions::new(1) }).unwrap();
        let bytes = rows * blocks * encoding.block_bytes();
        // Small exponents, so that scales are ordinary numbers.
        let data: Vec<u8> = numbers(seed, bytes).iter().map(|x| (x * 500.0) as i32 as u8 & 0x3b).collect();
        let stored = StoredMatrix::new(encoding, (rows, cols), data.into()).unwrap();
        let packed = Packed::new(&stored, &on).unwrap().unwrap();
        let x = numbers(seed + 1, tokens * cols);
        let bias = numbers(seed + 2, rows);
        let op = packed.rows_from(0, Some(&bias));

        let mut expected = vec![f32::NAN; tokens * rows];
        let quantized = Quantized::new(&x, cols, form(Isa::Portable, op.layout, tokens), on.all());
        product(Isa::Portable, &op, &quantized, &mut ColumnsMut::whole(&mut expected, rows));

        let mut found = vec![f32::NAN; tokens * rows];
        let quantized = Quantized::new(&x, cols, form(Isa::Amx, op.layout, tokens), on.all());
        prop_assert!(quantized.form().rows);
        let mut out = ColumnsMut::whole(&mut found, rows);
        unsafe {
            match op.layout {
                BlockLayout::Q8 => tiled::groups::<Software, PortableLines, Q8>(&op, &quantized, &mut out),
                BlockLayout::Q4 => tiled::groups::<Software, PortableLines, Q4>(&op, &quantized, &mut out),
                _ => tiled::groups::<Software, PortableLines, Q4K>(&op, &quantized, &mut out),
            }
        }
        prop_assert!(expected.iter().all(|x| x.is_finite()));
        prop_assert_eq!(found, expected);
    }
}
