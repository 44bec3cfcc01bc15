//! Operations against their definitions, and the promise that a row's bits
//! depend on its own sequence only.

mod attention;
mod experts;

use half::bf16;

use super::testing::numbers;
use super::*;
use crate::batch::BatchSequence;
use crate::encoding::Encoding;
use crate::kv_shape::{KvDtype, KvValues};
use crate::ops::RotaryPairs;
use crate::rope::rope_table;

const KV: KvShape = KvShape {
    layers: 2,
    kv_heads: 2,
    head_dim: 24,
    values: KvValues::Stored,
    dtype: KvDtype::F32,
    block_size: 16,
    total_blocks: 40,
};
/// The matrices on a device.
fn upload(device: &CpuDevice, matrices: &[StoredMatrix]) -> Vec<Matrix> {
    let weights = matrices.iter().map(|matrix| device.weight(matrix.clone()));
    weights.collect::<Result<_>>().unwrap()
}

fn devices() -> Vec<CpuDevice> {
    let device = |isa, threads| {
        CpuDevice::new(&CpuOptions {
            isa: Some(isa),
            ..CpuOptions::new(threads)
        })
    };
    Isa::available()
        .flat_map(|isa| [1, 3].map(|threads| device(isa, threads).unwrap()))
        .collect()
}

#[test]
fn linear_bits_do_not_depend_on_company_or_threads() {
    let (rows, k, n) = (37, 130, 300);
    let x = numbers(1, rows * k);
    let data: Vec<u8> = numbers(2, n * k)
        .into_iter()
        .flat_map(|v| bf16::from_f32(v).to_le_bytes())
        .collect();
    let weight = StoredMatrix::new(Encoding::Bf16, (n, k), data.into()).unwrap();
    let bias = numbers(3, n);
    let run = |device: &CpuDevice, x: &[f32]| {
        let rows = x.len() / k;
        let mut out = vec![0.0; rows * n];
        device
            .linear(
                &upload(device, std::slice::from_ref(&weight))[0],
                Some(&bias),
                &x.to_vec(),
                rows,
                &mut out,
            )
            .unwrap();
        out
    };
    let reference = run(&CpuDevice::new(&CpuOptions::new(1)).unwrap(), &x);
    for device in devices() {
        assert!(run(&device, &x) == reference);
        for row in [0, 17, 36] {
            let alone = run(&device, &x[row * k..(row + 1) * k]);
            assert!(alone == reference[row * n..(row + 1) * n]);
        }
    }
}

#[test]
fn rms_norm_and_gates_are_what_their_papers_say() {
    let device = CpuDevice::new(&CpuOptions::new(1)).unwrap();
    let (x, weight) = (numbers(1, 3 * 50), numbers(2, 50));
    let mut out = vec![0.0; 3 * 50];
    let norm = RmsNorm {
        rows: 3,
        cols: 50,
        eps: 1e-5,
    };
    device.rms_norm(&x, &weight, norm, &mut out).unwrap();
    for (x, out) in x.chunks(50).zip(out.chunks(50)) {
        let mean: f64 = x.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / 50.0;
        for i in 0..50 {
            let exact = f64::from(x[i]) / (mean + 1e-5).sqrt() * f64::from(weight[i]);
            assert!((f64::from(out[i]) - exact).abs() < 1e-6);
        }
    }
    let mut in_place = x.clone();
    device
        .rms_norm_in_place(&mut in_place, &weight, norm)
        .unwrap();
    assert_eq!(in_place, out);

    let x: Vec<f32> = x.iter().map(|x| 3.0 * x).collect();
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    let clamped = Activation::ClampedSwiglu {
        alpha: 1.7,
        limit: 1.5,
    };
    for activation in [Activation::Silu, Activation::GeluTanh, clamped] {
        let mut gate = x.clone();
        device.gated(activation, &mut gate, &out, 149).unwrap();
        assert_eq!(gate[149], x[149]);
        for i in 0..149 {
            let (g, u) = (f64::from(x[i]), f64::from(out[i]));
            let exact = match activation {
                Activation::Silu => g * sigmoid(g) * u,
                Activation::GeluTanh => {
                    let inner = (2.0 / std::f64::consts::PI).sqrt() * (g + 0.044715 * g.powi(3));
                    0.5 * g * (1.0 + inner.tanh()) * u
                }
                Activation::ClampedSwiglu { alpha, limit } => {
                    let (alpha, limit) = (f64::from(alpha), f64::from(limit));
                    let g = g.min(limit);
                    g * sigmoid(alpha * g) * (u.clamp(-limit, limit) + 1.0)
                }
            };
            assert!((f64::from(gate[i]) - exact).abs() < 4e-6, "{activation:?}");
        }
    }
}

#[test]
fn scaling_adding_and_capping_leave_what_is_beyond() {
    let device = CpuDevice::new(&CpuOptions::new(1)).unwrap();
    let mut x = vec![1.0, -2.0, 3.0];
    device.add(&mut x, &vec![10.0; 3], 0.5, 2).unwrap();
    assert_eq!(x, [6.0, 3.0, 3.0]);
    device.scale(&mut x, 2.0, 2).unwrap();
    assert_eq!(x, [12.0, 6.0, 3.0]);
    device.soft_cap(&mut x, 4.0, 2).unwrap();
    let expected = [4.0 * 3f32.tanh(), 4.0 * 1.5f32.tanh(), 3.0];
    for (found, expected) in x.iter().zip(expected) {
        assert!((found - expected).abs() < 1e-6);
    }
}

#[test]
fn columns_are_copied_and_multiplied_head_by_head() {
    let columns = |stride, first, width| Columns {
        stride,
        first,
        width,
    };
    let matrix = |rows, cols, values: &[f32]| {
        let data: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        StoredMatrix::new(Encoding::F32, (rows, cols), data.into()).unwrap()
    };
    for device in devices() {
        // Two rows of two heads of three numbers, of which the last two count.
        let x: Vec<f32> = (0..12).map(|v| v as f32).collect();
        let mut out = vec![-1.0; 12];
        device
            .copy_columns((&x, columns(3, 1, 1)), 4, (&mut out, columns(3, 2, 1)))
            .unwrap();
        let heads = [matrix(1, 2, &[1.0, 1.0]), matrix(1, 2, &[10.0, 0.0])];
        device
            .head_linear(
                &upload(&device, &heads),
                (&x, columns(3, 1, 2)),
                2,
                (&mut out, columns(3, 1, 1)),
            )
            .unwrap();
        let expected = [
            [-1.0, 3.0, 1.0],
            [-1.0, 40.0, 4.0],
            [-1.0, 15.0, 7.0],
            [-1.0, 100.0, 10.0],
        ];
        assert_eq!(out, expected.concat());
        let unlike = [matrix(1, 2, &[1.0, 1.0]), matrix(2, 1, &[1.0, 1.0])];
        let refused = device.head_linear(
            &upload(&device, &unlike),
            (&x, columns(3, 1, 2)),
            2,
            (&mut out, columns(3, 1, 1)),
        );
        assert!(refused.is_err());
        let narrow = (&mut out, columns(3, 2, 2));
        assert!(
            device
                .copy_columns((&x, columns(3, 1, 2)), 4, narrow)
                .is_err()
        );
    }
}

#[test]
fn head_products_have_the_same_bits_in_company_and_on_threads() {
    let (heads, k, n, rows) = (5, 70, 130, 9);
    let x = numbers(1, rows * heads * k);
    let weights: Vec<StoredMatrix> = (0..heads as u64)
        .map(|head| {
            let values = numbers(10 + head, n * k);
            let data: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            StoredMatrix::new(Encoding::F32, (n, k), data.into()).unwrap()
        })
        .collect();
    let run = |device: &CpuDevice, x: &[f32]| {
        let rows = x.len() / (heads * k);
        let mut out = vec![0.0; rows * heads * n];
        let (from, to) = (Columns::whole(k), Columns::whole(n));
        device
            .head_linear(
                &upload(device, &weights),
                (&x.to_vec(), from),
                rows,
                (&mut out, to),
            )
            .unwrap();
        out
    };
    let reference = run(&CpuDevice::new(&CpuOptions::new(1)).unwrap(), &x);
    for device in devices() {
        assert!(run(&device, &x) == reference);
        let alone = run(&device, &x[3 * heads * k..4 * heads * k]);
        assert!(alone == reference[3 * heads * n..4 * heads * n]);
    }
}

#[test]
fn rope_rotates_pairs_of_halves_by_position() {
    let device = CpuDevice::new(&CpuOptions::new(1)).unwrap();
    let kv = KvShape { head_dim: 4, ..KV };
    let mut inputs = device.inputs(&kv);
    let batch = Batch {
        tokens: &[0],
        blocks: &[0],
        sequences: &[BatchSequence {
            rows: 0..1,
            context_len: 4,
            blocks: 0..1,
        }],
        outputs: &[],
    };
    device.load_inputs(&batch, &mut inputs).unwrap();
    let rotation = |columns, pairs| Rotation {
        heads: 1,
        columns,
        pairs,
    };
    let halves = rotation(Columns::whole(4), RotaryPairs::Halves);
    let mut x = vec![1.0, 2.0, 3.0, 4.0];
    let table = rope_table(&[1.0, 0.1], 1.0, 4);
    device.rope(&table, &inputs, halves, &mut x).unwrap();
    let (a, b) = (3f32, 0.3f32);
    let expected = [
        a.cos() - 3.0 * a.sin(),
        2.0 * b.cos() - 4.0 * b.sin(),
        3.0 * a.cos() + a.sin(),
        4.0 * b.cos() + 2.0 * b.sin(),
    ];
    for (found, expected) in x.iter().zip(expected) {
        assert!((found - expected).abs() < 1e-6);
    }
    // Neighbours are pairs, and only the columns' numbers move.
    let end = Columns {
        stride: 5,
        first: 1,
        width: 4,
    };
    let mut neighbours = vec![9.0, 1.0, 3.0, 2.0, 4.0];
    let adjacent = rotation(end, RotaryPairs::Adjacent);
    device
        .rope(&table, &inputs, adjacent, &mut neighbours)
        .unwrap();
    assert_eq!(neighbours, [9.0, x[0], x[2], x[1], x[3]]);
    let short = rope_table(&[1.0, 0.1], 1.0, 3);
    assert!(matches!(
        device.rope(&short, &inputs, halves, &mut x),
        Err(DeviceError::OutOfRange {
            what: "position",
            ..
        })
    ));
}

#[test]
fn embeds_and_gathers_rows_and_refuses_unknown_tokens() {
    let device = CpuDevice::new(&CpuOptions::new(1)).unwrap();
    let data: Vec<u8> = (0..6).flat_map(|v| (v as f32).to_le_bytes()).collect();
    let table = StoredMatrix::new(Encoding::F32, (3, 2), data.into()).unwrap();
    let mut inputs = device.inputs(&KV);
    let mut load = |tokens: [u32; 3]| {
        let batch = Batch {
            tokens: &tokens,
            blocks: &[0],
            sequences: &[BatchSequence {
                rows: 0..3,
                context_len: 3,
                blocks: 0..1,
            }],
            outputs: &[2, 0],
        };
        device.load_inputs(&batch, &mut inputs).unwrap();
        let mut out = vec![0.0; 6];
        device.embed(
            &upload(&device, std::slice::from_ref(&table))[0],
            &inputs,
            &mut out,
        )?;
        let mut gathered = vec![0.0; 4];
        device.gather(&out, 2, &inputs, &mut gathered)?;
        Ok((out, gathered))
    };
    let (rows, gathered) = load([2, 0, 1]).unwrap();
    assert_eq!(rows, [4.0, 5.0, 0.0, 1.0, 2.0, 3.0]);
    assert_eq!(gathered, [2.0, 3.0, 4.0, 5.0]);
    let error: DeviceError = load([0, 3, 0]).unwrap_err();
    assert_eq!(error.to_string(), "token 3 is out of range, there are 3");
}

#[test]
fn refuses_buffers_that_are_too_short_and_pools_of_another_shape() {
    let device = CpuDevice::new(&CpuOptions::new(1)).unwrap();
    let mut short = vec![0.0; 3];
    assert!(device.add(&mut short, &vec![0.0; 4], 1.0, 4).is_err());
    assert!(device.scale(&mut short, 2.0, 4).is_err());
    assert!(device.soft_cap(&mut short, 2.0, 4).is_err());
    let gated = device.gated(Activation::Silu, &mut short, &vec![0.0; 4], 4);
    assert!(gated.is_err());
    assert!(device.read(&short, 4, &mut Vec::new()).is_err());
    let inputs = device.inputs(&KV);
    let mut other = device
        .kv_pool(&KvShape {
            total_blocks: 41,
            ..KV
        })
        .unwrap();
    let rows = vec![0.0; 48];
    assert!(
        device
            .kv_write(&mut other, 0, &inputs, (&rows, Some(&rows)))
            .is_err()
    );
    let mut pool = device.kv_pool(&KV).unwrap();
    assert!(
        device
            .kv_write(&mut pool, 0, &inputs, (&rows, None))
            .is_err()
    );
}
