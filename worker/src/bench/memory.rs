//! This process' memory, as Linux counts it: everything that is resident, mapped
//! files too.

/// The most since the process began or [`forget_peak`] was called, in bytes.
/// `None` where the system does not tell.
pub(super) fn peak() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kilobytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kilobytes * 1024)
}

/// The peak is what there is now.
pub(super) fn forget_peak() {
    // Where this can't be written there is no peak to forget, or it stays.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_peak_is_seen_and_forgotten() {
        forget_peak();
        let before = peak().unwrap();
        let large = vec![1u8; 64 << 20];
        assert_eq!(
            large.iter().map(|&byte| u64::from(byte)).sum::<u64>(),
            64 << 20
        );
        drop(large);
        assert!(peak().unwrap() >= before + (60 << 20));
    }
}
