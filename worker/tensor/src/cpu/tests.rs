//! Operations against their definitions, and the promise that a row's bits
//! depend on its own sequence only.

use half::bf16;

use super::testing::numbers;
use super::*;
use crate::batch::BatchSequence;
use crate::host::DType;
use crate::rope::rope_table;

const KV: KvShape = KvShape {
    layers: 2,
    kv_heads: 2,
    head_dim: 24,
    block_size: 16,
    total_blocks: 40,
};
const HEADS: AttentionHeads = AttentionHeads {
    heads: 6,
    head_dim: 24,
};
/// Tokens of a whole sequence: five blocks, the last one cut.
const LEN: usize = 70;

fn devices() -> Vec<CpuDevice> {
    Kernels::all()
        .into_iter()
        .flat_map(|kernels| {
            [1, 3].map(|threads| CpuDevice::with_kernels(kernels, threads).unwrap())
        })
        .collect()
}

/// One sequence's KV in a pool of its own, filled chunk by chunk.
struct Run<'a> {
    device: &'a CpuDevice,
    pool: CpuKvPool,
    inputs: CpuInputs,
    table: Vec<u32>,
}

impl<'a> Run<'a> {
    fn new(device: &'a CpuDevice, table: &[u32]) -> Run<'a> {
        Run {
            device,
            pool: device.kv_pool(&KV).unwrap(),
            inputs: device.inputs(&KV),
            table: table.to_vec(),
        }
    }

    /// Attention output of positions `start..end`, beside another sequence of
    /// three tokens in blocks 30 and up if `crowded`.
    fn chunk(&mut self, start: usize, end: usize, crowded: bool) -> Vec<f32> {
        let crowd = if crowded { 3 } else { 0 };
        let rows = crowd + end - start;
        let mut blocks = vec![30, 31];
        blocks.extend(&self.table);
        let mut sequences = vec![BatchSequence {
            rows: crowd..rows,
            context_len: end,
            blocks: 2..blocks.len(),
        }];
        if crowded {
            sequences.insert(
                0,
                BatchSequence {
                    rows: 0..3,
                    context_len: 20,
                    blocks: 0..2,
                },
            );
        }
        let batch = Batch {
            tokens: &vec![0; rows],
            blocks: &blocks,
            sequences: &sequences,
            outputs: &[],
        };
        self.device.load_inputs(&batch, &mut self.inputs).unwrap();
        let rows_of = |seed, width| {
            let mut values = numbers(9, crowd * width);
            values.extend(&sequence_values(seed, width)[start * width..end * width]);
            values
        };
        let kv_width = KV.kv_heads * KV.head_dim;
        let width = HEADS.heads * HEADS.head_dim;
        let (k, v) = (rows_of(2, kv_width), rows_of(3, kv_width));
        self.device
            .kv_write(&mut self.pool, 1, &self.inputs, (&k, &v))
            .unwrap();
        let mut out = vec![0.0; rows * width];
        let kv = (&self.pool, 1);
        self.device
            .paged_attention(&rows_of(1, width), HEADS, kv, &self.inputs, &mut out)
            .unwrap();
        out.split_off(crowd * width)
    }
}

fn sequence_values(seed: u64, width: usize) -> Vec<f32> {
    numbers(seed, LEN * width)
}

/// Attention by its definition, in f64.
fn exact_attention() -> Vec<f64> {
    let (dim, heads, kv_heads) = (HEADS.head_dim, HEADS.heads, KV.kv_heads);
    let q = sequence_values(1, heads * dim);
    let k = sequence_values(2, kv_heads * dim);
    let v = sequence_values(3, kv_heads * dim);
    let at = |x: &[f32], heads, t: usize, h: usize, d| f64::from(x[(t * heads + h) * dim + d]);
    let mut out = Vec::new();
    for t in 0..LEN {
        for h in 0..heads {
            let shared = h / (heads / kv_heads);
            let weights: Vec<f64> = (0..=t)
                .map(|s| {
                    let dot: f64 = (0..dim)
                        .map(|d| at(&q, heads, t, h, d) * at(&k, kv_heads, s, shared, d))
                        .sum();
                    (dot / (dim as f64).sqrt()).exp()
                })
                .collect();
            let total: f64 = weights.iter().sum();
            out.extend((0..dim).map(|d| {
                let sum: f64 = (0..=t)
                    .map(|s| weights[s] * at(&v, kv_heads, s, shared, d))
                    .sum();
                sum / total
            }));
        }
    }
    out
}

#[test]
fn attention_is_what_its_definition_says() {
    let device = CpuDevice::new(1).unwrap();
    let found = Run::new(&device, &[0, 1, 2, 3, 4]).chunk(0, LEN, false);
    for (found, exact) in found.iter().zip(exact_attention()) {
        assert!((f64::from(*found) - exact).abs() < 1e-5);
    }
}

#[test]
fn attention_bits_do_not_depend_on_chunks_blocks_company_or_threads() {
    let reference = CpuDevice::new(1).unwrap();
    let whole = Run::new(&reference, &[0, 1, 2, 3, 4]).chunk(0, LEN, false);
    for device in devices() {
        for cuts in [
            vec![0, LEN],
            vec![0, 16, 64, LEN],
            vec![0, 5, 6, 31, 33, LEN],
        ] {
            let mut run = Run::new(&device, &[17, 3, 28, 9, 0]);
            let chunks: Vec<f32> = cuts
                .windows(2)
                .flat_map(|cut| run.chunk(cut[0], cut[1], cut[0] % 2 == 0))
                .collect();
            assert!(chunks == whole, "{:?} {cuts:?}", device.kernels);
        }
    }
}

#[test]
fn linear_bits_do_not_depend_on_company_or_threads() {
    let (rows, k, n) = (37, 130, 300);
    let x = numbers(1, rows * k);
    let data: Vec<u8> = numbers(2, n * k)
        .into_iter()
        .flat_map(|v| bf16::from_f32(v).to_le_bytes())
        .collect();
    let weight = HostTensor::new(DType::Bf16, n, k, data.into()).unwrap();
    let bias = numbers(3, n);
    let run = |device: &CpuDevice, x: &[f32]| {
        let rows = x.len() / k;
        let mut out = vec![0.0; rows * n];
        device
            .linear(&weight, Some(&bias), &x.to_vec(), rows, &mut out)
            .unwrap();
        out
    };
    let reference = run(&CpuDevice::new(1).unwrap(), &x);
    for device in devices() {
        assert!(run(&device, &x) == reference);
        for row in [0, 17, 36] {
            let alone = run(&device, &x[row * k..(row + 1) * k]);
            assert!(alone == reference[row * n..(row + 1) * n]);
        }
    }
}

#[test]
fn rms_norm_and_swiglu_are_what_their_papers_say() {
    let device = CpuDevice::new(1).unwrap();
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
    let mut gate = x.clone();
    device.silu_mul(&mut gate, &out, 150).unwrap();
    for i in 0..150 {
        let x = f64::from(x[i]);
        let exact = x / (1.0 + (-x).exp()) * f64::from(out[i]);
        assert!((f64::from(gate[i]) - exact).abs() < 1e-6);
    }
}

#[test]
fn rope_rotates_pairs_of_halves_by_position() {
    let device = CpuDevice::new(1).unwrap();
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
    let heads = AttentionHeads {
        heads: 1,
        head_dim: 4,
    };
    let mut x = vec![1.0, 2.0, 3.0, 4.0];
    let table = rope_table(&[1.0, 0.1], 4);
    device.rope(&table, &inputs, heads, &mut x).unwrap();
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
    let short = rope_table(&[1.0, 0.1], 3);
    assert!(matches!(
        device.rope(&short, &inputs, heads, &mut x),
        Err(DeviceError::OutOfRange {
            what: "position",
            ..
        })
    ));
}

#[test]
fn embeds_and_gathers_rows_and_refuses_unknown_tokens() {
    let device = CpuDevice::new(1).unwrap();
    let data: Vec<u8> = (0..6).flat_map(|v| (v as f32).to_le_bytes()).collect();
    let table = HostTensor::new(DType::F32, 3, 2, data.into()).unwrap();
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
        device.embed(&table, &inputs, &mut out)?;
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
    let device = CpuDevice::new(1).unwrap();
    let mut short = vec![0.0; 3];
    assert!(device.add(&mut short, &vec![0.0; 4], 4).is_err());
    assert!(device.silu_mul(&mut short, &vec![0.0; 4], 4).is_err());
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
            .kv_write(&mut other, 0, &inputs, (&rows, &rows))
            .is_err()
    );
}
