use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::*;
use crate::cpu::CpuOptions;
use crate::encoding::Encoding;

/// Every look at the clock takes a second.
fn timed() -> Timed {
    let seconds = AtomicU64::new(0);
    let clock = move || Duration::from_secs(seconds.fetch_add(1, Ordering::Relaxed));
    Timed::new(
        CpuDevice::new(&CpuOptions::new(1)).unwrap(),
        Box::new(clock),
    )
}

#[test]
fn products_are_counted_by_what_they_are_for_and_read() {
    let device = timed();
    let data = vec![0; 8 * 34];
    let stored = StoredMatrix::new(Encoding::Q8_0, (4, 64), data.into()).unwrap();
    let weight = device.weight(stored).unwrap();
    let (x, mut out) = (vec![1.0; 3 * 64], vec![0.0; 3 * 4]);
    device.part(Part::Down);
    device.linear(&weight, None, &x, 3, &mut out).unwrap();
    device.part(Part::Head);
    device.linear(&weight, None, &x, 1, &mut out).unwrap();
    device.linear(&weight, None, &x, 1, &mut out).unwrap();
    device.scale(&mut out, 2.0, 12).unwrap();
    let usage = device.meter().take();
    let times: Vec<_> = usage.times.into_iter().collect();
    let seconds = Duration::from_secs;
    let expected = [
        (Operation::Product(Part::Down), seconds(1)),
        (Operation::Product(Part::Head), seconds(2)),
        (Operation::Residual, seconds(1)),
    ];
    assert_eq!(times, expected);
    assert_eq!(usage.ended, seconds(7));
    assert_eq!(usage.weight_bytes, 3 * weight.bytes() as u64);
    assert_eq!((usage.f32, usage.bf16), (0, 0));
    assert_eq!(usage.bytes, 5 * 4 * 64);
    assert!(device.meter().take().times.is_empty());
}

#[test]
fn floats_are_counted_as_what_they_are_multiplied_as() {
    let device = timed();
    for (encoding, size) in [(Encoding::Bf16, 2), (Encoding::F16, 2), (Encoding::F32, 4)] {
        let stored = StoredMatrix::new(encoding, (2, 8), vec![0; 16 * size].into()).unwrap();
        let weight = device.weight(stored).unwrap();
        let (x, mut out) = (vec![1.0; 8], vec![0.0; 2]);
        device.linear(&weight, None, &x, 1, &mut out).unwrap();
    }
    let usage = device.meter().take();
    // Activations that meet bf16 are exact unless asked for otherwise.
    assert_eq!((usage.f32, usage.bf16, usage.bytes), (48, 0, 0));
}
