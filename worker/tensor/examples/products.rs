//! Products of a model of about 0.45 B parameters, each encoding against the
//! limits that are measured in the same round: what share of the memory's
//! speed a single token reaches, and what share of the multipliers' many do.
//!
//! `cargo run --release -p tensor --example products -- [--threads N]
//! [--isa NAME] [--rounds N] [--clock wall|cpu]`
//!
//! `--clock cpu` counts the calling thread's time on a processor: with
//! `--threads 1`, what other processes take doesn't count.

// A benchmark prints its table.
#![allow(clippy::print_stdout)]

use std::error::Error;
use std::time::{Duration, Instant};

use tensor::{
    Activations, Bf16Activations, Compute, CpuOptions, Encoding, Limits, Matrix, StoredMatrix,
};

const HIDDEN: usize = 1024;
const INTERMEDIATE: usize = 4096;
const LAYERS: usize = 24;
const VOCABULARY: usize = 32_000;
/// `[rows, cols]` of a layer's matrices; queries, keys and values are one, and
/// so are gate and up.
const LAYER: [(usize, usize); 4] = [
    (2 * HIDDEN, HIDDEN),
    (HIDDEN, HIDDEN),
    (2 * INTERMEDIATE, HIDDEN),
    (HIDDEN, INTERMEDIATE),
];
const TOKENS: [usize; 4] = [1, 8, 32, 512];

struct Arguments {
    options: CpuOptions,
    rounds: usize,
    clock: Clock,
}

#[derive(Clone, Copy)]
enum Clock {
    Wall(Instant),
    Cpu,
}

impl Clock {
    fn now(self) -> Duration {
        match self {
            Clock::Wall(start) => start.elapsed(),
            Clock::Cpu => cpu_time().unwrap_or_default(),
        }
    }
}

fn cpu_time() -> Option<Duration> {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    let nanoseconds = stat.split(' ').next()?.parse().ok()?;
    Some(Duration::from_nanos(nanoseconds))
}

/// A row of the table.
struct Case {
    name: &'static str,
    encoding: Encoding,
    bf16_activations: Bf16Activations,
    limit: fn(&Limits) -> f64,
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse()?;
    let on = Compute::new(&arguments.options)?;
    println!("{} threads, {}", arguments.options.threads, on.isa());
    println!("tokens/s, and share of the limit: of memory for 1, of multipliers for more");
    for round in 0..arguments.rounds {
        let limits = Limits::measure(&on, &|| arguments.clock.now())?;
        println!(
            "\nround {round}: read {:.1} GB/s; 10^9 multiplications/s: f32 {:.0}, bf16 {:.0}, bytes {:.0}",
            limits.read_bytes / 1e9,
            limits.f32 / 1e9,
            limits.bf16 / 1e9,
            limits.bytes / 1e9
        );
        println!(
            "{:<12}{:>8}{}",
            "",
            "GB",
            TOKENS.map(|t| format!("{t:>18}")).concat()
        );
        for case in cases() {
            run(&case, &arguments, &limits)?;
        }
    }
    Ok(())
}

impl Arguments {
    fn parse() -> Result<Arguments, Box<dyn Error>> {
        let threads = std::thread::available_parallelism()?.get();
        let mut parsed = Arguments {
            options: CpuOptions::new(threads),
            rounds: 3,
            clock: Clock::Wall(Instant::now()),
        };
        let mut arguments = std::env::args().skip(1);
        while let Some(name) = arguments.next() {
            let value = arguments.next().ok_or("each option takes a value")?;
            match name.as_str() {
                "--threads" => parsed.options.threads = value.parse()?,
                "--isa" => parsed.options.isa = Some(value.parse()?),
                "--rounds" => parsed.rounds = value.parse()?,
                "--clock" if value == "cpu" => parsed.clock = Clock::Cpu,
                "--clock" if value == "wall" => {}
                _ => return Err(format!("no option is called {name}").into()),
            }
        }
        Ok(parsed)
    }
}

fn cases() -> Vec<Case> {
    let case = |name, encoding, limit| Case {
        name,
        encoding,
        bf16_activations: Bf16Activations::Exact,
        limit,
    };
    vec![
        case("bf16", Encoding::Bf16, |limits| limits.f32),
        Case {
            bf16_activations: Bf16Activations::Rounded,
            ..case("bf16 rounded", Encoding::Bf16, |limits| limits.bf16)
        },
        case("f8", Encoding::F8, |limits| limits.f32),
        case("q8_0", Encoding::Q8_0, |limits| limits.bytes),
        case("q4_0", Encoding::Q4_0, |limits| limits.bytes),
        case("q4_k", Encoding::Q4K, |limits| limits.bytes),
        case("q6_k", Encoding::Q6K, |limits| limits.bytes),
    ]
}

fn run(case: &Case, arguments: &Arguments, limits: &Limits) -> Result<(), Box<dyn Error>> {
    let options = CpuOptions {
        bf16_activations: case.bf16_activations,
        ..arguments.options.clone()
    };
    let on = Compute::new(&options)?;
    let matrices = model(case.encoding, &on)?;
    let bytes: usize = matrices.iter().map(Matrix::bytes).sum();
    let weights: usize = matrices.iter().map(|m| m.rows() * m.cols()).sum();
    print!("{:<12}{:>8.2}", case.name, bytes as f64 / 1e9);
    for tokens in TOKENS {
        let seconds = forward(&matrices, tokens, (&on, arguments.clock))?;
        let share = match tokens {
            1 => bytes as f64 / seconds / limits.read_bytes,
            _ => (tokens * weights) as f64 / seconds / (case.limit)(limits),
        };
        print!(
            "{:>10.1} ({:>3.0}%)",
            tokens as f64 / seconds,
            share * 100.0
        );
    }
    println!();
    Ok(())
}

/// Distinct weights, so that no cache holds them from one token to the next.
fn model(encoding: Encoding, on: &Compute) -> Result<Vec<Matrix>, Box<dyn Error>> {
    let shapes = (0..LAYERS)
        .flat_map(|_| LAYER)
        .chain([(VOCABULARY, HIDDEN)]);
    shapes
        .map(|(rows, cols)| {
            let bytes = rows * (cols / encoding.block()) * encoding.block_bytes();
            // Any bytes are weights, and small ones are small numbers.
            let data: Vec<u8> = (0..bytes).map(|i| (i * i / 7 % 61) as u8).collect();
            let stored = StoredMatrix::new(encoding, (rows, cols), data.into())?;
            Ok(on.matrix(stored)?)
        })
        .collect()
}

/// The best seconds that all products with so many tokens take.
fn forward(
    matrices: &[Matrix],
    tokens: usize,
    (on, clock): (&Compute, Clock),
) -> Result<f64, Box<dyn Error>> {
    let x: Vec<f32> = (0..tokens * INTERMEDIATE)
        .map(|i| (i % 17) as f32 - 8.0)
        .collect();
    let mut out = vec![0.0; tokens * VOCABULARY];
    let mut best = f64::INFINITY;
    let passes = if tokens > 100 { 2 } else { 5 };
    for _ in 0..passes {
        let start = clock.now();
        for matrix in matrices {
            // As in a model, logits are of the last token only.
            let tokens = if matrix.rows() == VOCABULARY && tokens > 100 {
                1
            } else {
                tokens
            };
            let activations = Activations {
                x: &x,
                tokens,
                bias: None,
            };
            matrix.product(activations, &mut out, on)?;
        }
        best = best.min((clock.now() - start).as_secs_f64());
    }
    Ok(best)
}
