//! What this machine can do at most, measured: to judge products by.

use std::hint::black_box;
use std::time::Duration;

use super::compute::Compute;
use super::kernels::peaks::Numbers;
use super::pages::Arena;
use crate::error::DeviceError;

/// Bytes that no cache holds.
const MEMORY: usize = 512 << 20;
/// How long multiplications are measured.
const MULTIPLYING: Duration = Duration::from_millis(60);
/// Rounds between two looks at the clock.
const ROUNDS: usize = 100_000;

/// Per second, on all threads of a [`Compute`] and with its instruction set.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Bytes read from memory.
    pub read_bytes: f64,
    /// Multiplications, each with an addition, of f32.
    pub f32: f64,
    /// The same of bf16, added in f32.
    pub bf16: f64,
    /// The same of bytes, added in 32 bits.
    pub bytes: f64,
}

impl Limits {
    /// Takes about half a second, and half a GiB of memory, which is the system's
    /// again afterwards. `clock` says the time since any moment.
    pub fn measure(on: &Compute, clock: &dyn Fn() -> Duration) -> Result<Limits, DeviceError> {
        Ok(Limits {
            read_bytes: read(on, clock)?,
            f32: multiplications(on, Numbers::F32, clock),
            bf16: multiplications(on, Numbers::Bf16, clock),
            bytes: multiplications(on, Numbers::Bytes, clock),
        })
    }
}

/// The best of three passes, as anything else on the machine only slows it.
fn read(on: &Compute, clock: &dyn Fn() -> Duration) -> Result<f64, DeviceError> {
    let pages = Arena::new("memory to read");
    let mut memory = pages.zeroed::<f32>(MEMORY / size_of::<f32>())?;
    // Pages that were never written are all the same one.
    memory.fill(1.0);
    let parts = on.pool.threads() * 8;
    let part = memory.len().div_ceil(parts);
    let passes = (0..3).map(|_| {
        let start = clock();
        on.pool.run(parts, &|i| {
            let end = memory.len().min((i + 1) * part);
            black_box(on.kernels.read(&memory[end.min(i * part)..end]));
        });
        MEMORY as f64 / (clock() - start).as_secs_f64()
    });
    Ok(passes.fold(0.0, f64::max))
}

fn multiplications(on: &Compute, numbers: Numbers, clock: &dyn Fn() -> Duration) -> f64 {
    let start = clock();
    let mut done = 0;
    while (clock() - start) < MULTIPLYING {
        let parts = on.pool.threads() * 4;
        on.pool.run(parts, &|_| {
            black_box(on.kernels.multiply(numbers, ROUNDS / 4));
        });
        done += parts * ROUNDS / 4 * on.kernels.a_round(numbers);
    }
    done as f64 / (clock() - start).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::compute::CpuOptions;

    #[test]
    fn every_limit_is_a_rate() {
        let start = std::time::Instant::now();
        let limits = Limits::measure(&Compute::new(&CpuOptions::new(1)).unwrap(), &|| {
            start.elapsed()
        });
        let limits = limits.unwrap();
        for rate in [limits.read_bytes, limits.f32, limits.bf16, limits.bytes] {
            assert!(rate.is_finite() && rate > 1e6, "{limits:?}");
        }
    }
}
