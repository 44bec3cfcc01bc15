//! Attention against its definition, in all its variants.

use super::*;

const HEADS: usize = 6;
/// Tokens of a whole sequence: five blocks, the last one cut.
const LEN: usize = 70;

/// A variant of attention.
#[derive(Clone, Debug)]
struct Variant {
    values: KvValues,
    dtype: KvDtype,
    window: Option<usize>,
    soft_cap: Option<f32>,
    sinks: Option<Vec<f32>>,
}

impl Variant {
    const PLAIN: Variant = Variant {
        values: KvValues::Stored,
        dtype: KvDtype::F32,
        window: None,
        soft_cap: None,
        sinks: None,
    };

    fn all() -> Vec<Variant> {
        let window = |window| Variant {
            window: Some(window),
            ..Variant::PLAIN
        };
        vec![
            Variant::PLAIN,
            window(1),
            window(16),
            window(21),
            window(1000),
            Variant {
                soft_cap: Some(0.7),
                ..Variant::PLAIN
            },
            Variant {
                sinks: Some(numbers(7, HEADS)),
                ..window(5)
            },
            Variant {
                values: KvValues::KeyPrefix(13),
                ..Variant::PLAIN
            },
            Variant {
                values: KvValues::KeyPrefix(24),
                soft_cap: Some(0.4),
                sinks: Some(numbers(8, HEADS)),
                window: Some(33),
                ..Variant::PLAIN
            },
        ]
    }

    /// Of pools that keep narrow numbers.
    fn narrow() -> impl Iterator<Item = Variant> {
        let dtypes = [KvDtype::Bf16, KvDtype::Int8];
        dtypes.into_iter().flat_map(|dtype| {
            let latent = KvValues::KeyPrefix(13);
            [KvValues::Stored, latent].map(|values| Variant {
                values,
                dtype,
                ..Variant::PLAIN
            })
        })
    }

    fn shape(&self) -> KvShape {
        KvShape {
            values: self.values,
            dtype: self.dtype,
            ..KV
        }
    }

    fn op(&self) -> ops::Attention<'_, Vec<f32>> {
        ops::Attention {
            heads: HEADS,
            scale: 0.3,
            window: self.window,
            soft_cap: self.soft_cap,
            sinks: self.sinks.as_ref(),
        }
    }
}

/// One sequence's KV in a pool of its own, filled chunk by chunk.
struct Run<'a> {
    device: &'a CpuDevice,
    variant: &'a Variant,
    pool: CpuKvPool,
    inputs: CpuInputs,
    table: Vec<u32>,
}

impl<'a> Run<'a> {
    fn new(device: &'a CpuDevice, variant: &'a Variant, table: &[u32]) -> Run<'a> {
        Run {
            device,
            variant,
            pool: device.kv_pool(&variant.shape()).unwrap(),
            inputs: device.inputs(&variant.shape()),
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
        let (k, v) = (rows_of(2, kv_width), rows_of(3, kv_width));
        let v = (self.variant.values == KvValues::Stored).then_some(&v);
        self.device
            .kv_write(&mut self.pool, 1, &self.inputs, (&k, v))
            .unwrap();
        let width = HEADS * self.variant.shape().value_dim();
        let mut out = vec![0.0; rows * width];
        let (q, kv) = (rows_of(1, HEADS * KV.head_dim), (&self.pool, 1));
        self.device
            .paged_attention(&q, self.variant.op(), kv, &self.inputs, &mut out)
            .unwrap();
        out.split_off(crowd * width)
    }
}

fn sequence_values(seed: u64, width: usize) -> Vec<f32> {
    numbers(seed, LEN * width)
}

/// Attention by its definition, in f64.
fn exact_attention(variant: &Variant) -> Vec<f64> {
    let (dim, kv_heads, op) = (KV.head_dim, KV.kv_heads, variant.op());
    let q = sequence_values(1, HEADS * dim);
    let k = sequence_values(2, kv_heads * dim);
    let v = match variant.values {
        KvValues::Stored => sequence_values(3, kv_heads * dim),
        KvValues::KeyPrefix(_) => k.clone(),
    };
    let at = |x: &[f32], heads, t: usize, h: usize, d| f64::from(x[(t * heads + h) * dim + d]);
    let mut out = Vec::new();
    for t in 0..LEN {
        let first = (t + 1).saturating_sub(op.window.unwrap_or(LEN));
        for h in 0..HEADS {
            let shared = h / (HEADS / kv_heads);
            let weight = |s| {
                let dots =
                    (0..dim).map(|d| at(&q, HEADS, t, h, d) * at(&k, kv_heads, s, shared, d));
                let score = dots.sum::<f64>() * f64::from(op.scale);
                match op.soft_cap.map(f64::from) {
                    Some(cap) => (cap * (score / cap).tanh()).exp(),
                    None => score.exp(),
                }
            };
            let weights: Vec<f64> = (first..=t).map(weight).collect();
            let sink = op.sinks.map_or(0.0, |sinks| f64::from(sinks[h]).exp());
            let total = weights.iter().sum::<f64>() + sink;
            out.extend((0..variant.shape().value_dim()).map(|d| {
                let values = (first..=t).map(|s| at(&v, kv_heads, s, shared, d));
                values.zip(&weights).map(|(v, w)| v * w).sum::<f64>() / total
            }));
        }
    }
    out
}

#[test]
fn attention_is_what_its_definition_says() {
    let device = CpuDevice::new(&CpuOptions::new(1)).unwrap();
    for variant in Variant::all() {
        let exact = exact_attention(&variant);
        // Results are between -1 and 1.
        for (dtype, most) in [
            (KvDtype::F32, 1e-5),
            (KvDtype::Bf16, 0.005),
            (KvDtype::Int8, 0.01),
        ] {
            let variant = Variant {
                dtype,
                ..variant.clone()
            };
            let found = Run::new(&device, &variant, &[0, 1, 2, 3, 4]).chunk(0, LEN, false);
            assert_eq!(found.len(), exact.len());
            let errors = found.iter().zip(&exact);
            let errors = errors.map(|(found, exact)| (f64::from(*found) - exact).abs());
            let largest = errors.fold(0.0, f64::max);
            assert!(largest < most, "{variant:?}: {largest}");
        }
    }
}

#[test]
fn attention_bits_do_not_depend_on_chunks_blocks_company_or_threads() {
    let reference = CpuDevice::new(&CpuOptions::new(1)).unwrap();
    for variant in Variant::all().into_iter().chain(Variant::narrow()) {
        let whole = Run::new(&reference, &variant, &[0, 1, 2, 3, 4]).chunk(0, LEN, false);
        for device in devices() {
            for cuts in [
                vec![0, LEN],
                vec![0, 16, 64, LEN],
                vec![0, 5, 6, 31, 33, LEN],
            ] {
                let mut run = Run::new(&device, &variant, &[17, 3, 28, 9, 0]);
                let chunks: Vec<f32> = cuts
                    .windows(2)
                    .flat_map(|cut| run.chunk(cut[0], cut[1], cut[0] % 2 == 0))
                    .collect();
                assert!(
                    chunks == whole,
                    "{variant:?} {:?} {cuts:?}",
                    device.compute.isa()
                );
            }
        }
    }
}

#[test]
fn what_a_block_held_before_does_not_spread() {
    for variant in Variant::all().into_iter().chain(Variant::narrow()) {
        for device in devices() {
            // Ends in the middle of a block, of a tile and of a pair.
            let fresh = Run::new(&device, &variant, &[0, 1, 2]).chunk(0, 37, false);
            let mut run = Run::new(&device, &variant, &[0, 1, 2]);
            let not_numbers = vec![0xff; variant.shape().block_bytes().unwrap()];
            for block in 0..3 {
                device
                    .kv_import(&mut run.pool, block, &not_numbers)
                    .unwrap();
            }
            let mut found = run.chunk(0, 5, false);
            found.extend(run.chunk(5, 37, false));
            assert!(found == fresh, "{variant:?} {:?}", device.compute.isa());
        }
    }
}

#[test]
fn refuses_heads_and_sinks_that_do_not_fit() {
    let device = CpuDevice::new(&CpuOptions::new(1)).unwrap();
    let pool = device.kv_pool(&KV).unwrap();
    let inputs = device.inputs(&KV);
    let few = vec![0.0; HEADS - 1];
    let plain = Variant::PLAIN;
    let odd = ops::Attention {
        heads: 5,
        ..plain.op()
    };
    let short = ops::Attention {
        sinks: Some(&few),
        ..plain.op()
    };
    for op in [odd, short] {
        let found = device.paged_attention(&vec![], op, (&pool, 0), &inputs, &mut vec![]);
        assert!(found.is_err());
    }
    let beyond = device.paged_attention(&vec![], plain.op(), (&pool, 2), &inputs, &mut vec![]);
    assert!(beyond.is_err());
}
