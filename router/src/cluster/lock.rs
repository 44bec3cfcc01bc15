//! A lock for what is short.

use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

/// Looks at a lock that is held, and the pauses between two of them: together
/// some tens of microseconds, longer than a plan over a thousand workers takes.
const LOOKS: u32 = 128;
const PAUSES: u32 = 8;

/// The lock, for a moment's work. Whoever finds it held looks again for as long as
/// such work takes: to sleep and be woken takes longer, and who sleeps is passed
/// by all who come meanwhile.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    for _ in 0..LOOKS {
        match mutex.try_lock() {
            Ok(guard) => return guard,
            Err(TryLockError::Poisoned(poisoned)) => return poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => {}
        }
        (0..PAUSES).for_each(|_| std::hint::spin_loop());
    }
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
