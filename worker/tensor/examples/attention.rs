//! Attention of one layer of a model of about 0.45 B parameters, with keys and
//! values in each form: a token of each of eight sequences, and the last rows
//! of a prompt, beside the multiplications that the machine can do.
//!
//! `cargo run --release -p tensor --example attention -- [THREADS] [ROUNDS]`

// A benchmark prints its table.
#![allow(clippy::print_stdout)]

use std::error::Error;
use std::time::Instant;

use tensor::{
    Attention, Batch, BatchSequence, Compute, CpuDevice, CpuOptions, Device, KvDtype, KvShape,
    KvValues, Limits,
};

const HEADS: usize = 16;
const HEAD_DIM: usize = 64;
const BLOCK_SIZE: usize = 16;
/// So that one layer's keys and values are not the last one's in a cache.
const LAYERS: usize = 8;
const CONTEXTS: [usize; 2] = [512, 4096];
const SEQUENCES: usize = 8;
const PROMPT_ROWS: usize = 256;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let mut number = || arguments.next().map(|it| it.parse::<usize>()).transpose();
    let options = CpuOptions::new(number()?.unwrap_or(2));
    let rounds = number()?.unwrap_or(5);
    let start = Instant::now();
    let limits = Limits::measure(&Compute::new(&options)?, &|| start.elapsed())?;
    let device = CpuDevice::new(&options)?;
    println!(
        "{} threads: read {:.1} GB/s; 10^9 multiplications/s: f32 {:.0}, bf16 {:.0}",
        options.threads,
        limits.read_bytes / 1e9,
        limits.f32 / 1e9,
        limits.bf16 / 1e9,
    );
    println!(
        "| keys and values | context | 1 token of {SEQUENCES} sequences, GB/s read | {PROMPT_ROWS} rows, 10^9 multiplications/s |"
    );
    println!("|---|---:|---:|---:|");
    for dtype in KvDtype::ALL {
        for context in CONTEXTS {
            let case = Case { dtype, context };
            let tokens = case.seconds(&device, (SEQUENCES, 1), rounds)?;
            let prompt = case.seconds(&device, (1, PROMPT_ROWS), rounds)?;
            let bytes = SEQUENCES * context * HEADS * HEAD_DIM * 2 * dtype.size();
            let seen = PROMPT_ROWS * context - PROMPT_ROWS * (PROMPT_ROWS - 1) / 2;
            let products = seen * HEADS * HEAD_DIM * 2;
            println!(
                "| {dtype} | {context} | {:.1} | {:.0} |",
                bytes as f64 / tokens / 1e9,
                products as f64 / prompt / 1e9
            );
        }
    }
    Ok(())
}

struct Case {
    dtype: KvDtype,
    context: usize,
}

impl Case {
    /// A layer's, of so many sequences' last rows: the median round.
    fn seconds(
        &self,
        device: &CpuDevice,
        (sequences, rows): (usize, usize),
        rounds: usize,
    ) -> Result<f64, Box<dyn Error>> {
        let blocks_each = self.context.div_ceil(BLOCK_SIZE);
        let kv = KvShape {
            layers: LAYERS,
            kv_heads: HEADS,
            head_dim: HEAD_DIM,
            values: KvValues::Stored,
            dtype: self.dtype,
            block_size: BLOCK_SIZE,
            total_blocks: sequences * blocks_each,
        };
        let mut pool = device.kv_pool(&kv)?;
        let mut inputs = device.inputs(&kv);
        let blocks: Vec<u32> = (0..kv.total_blocks as u32).collect();
        let numbers = |count: usize| -> Vec<f32> {
            let numbers = (0..count).map(|i| ((i * 7919 % 1009) as f32 - 504.0) / 504.0);
            numbers.collect()
        };
        let load = |rows: usize, inputs: &mut _| {
            let of = |index: usize| BatchSequence {
                rows: index * rows..(index + 1) * rows,
                context_len: self.context,
                blocks: index * blocks_each..(index + 1) * blocks_each,
            };
            let batch = Batch {
                tokens: &vec![0; sequences * rows],
                blocks: &blocks,
                sequences: &(0..sequences).map(of).collect::<Vec<_>>(),
                outputs: &[],
            };
            device.load_inputs(&batch, inputs)
        };
        load(self.context, &mut inputs)?;
        let kv_of_all = device.upload(&numbers(sequences * self.context * HEADS * HEAD_DIM))?;
        for layer in 0..LAYERS {
            device.kv_write(&mut pool, layer, &inputs, (&kv_of_all, Some(&kv_of_all)))?;
        }
        load(rows, &mut inputs)?;
        let q = device.upload(&numbers(sequences * rows * HEADS * HEAD_DIM))?;
        let mut out = device.buffer(sequences * rows * HEADS * HEAD_DIM)?;
        let mut seconds = Vec::with_capacity(rounds);
        for _ in 0..rounds {
            let start = Instant::now();
            for layer in 0..LAYERS {
                let op = Attention {
                    heads: HEADS,
                    scale: 0.125,
                    window: None,
                    soft_cap: None,
                    sinks: None,
                };
                device.paged_attention(&q, op, (&pool, layer), &inputs, &mut out)?;
            }
            seconds.push(start.elapsed().as_secs_f64() / LAYERS as f64);
        }
        seconds.sort_by(f64::total_cmp);
        Ok(seconds[rounds / 2])
    }
}
