//! Compute threads for operations that take microseconds.
//!
//! An operation is cut into numbered parts, which threads claim one by one. A
//! thread that has nothing to do spins, as the next operation of a forward
//! pass is likely near, then yields, then sleeps. The caller computes too, so
//! that an operation ends even while no other thread wakes.

#![allow(unsafe_code)]

#[cfg(test)]
mod tests;

use std::any::Any;
use std::cell::UnsafeCell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use crate::error::DeviceError;

/// Looks at the counter between two operations before a thread yields: tens of
/// microseconds, longer than the serial parts of a forward pass take.
const SPINS: u32 = 4_000;
/// Yields before a thread sleeps.
const YIELDS: u32 = 50;
/// Parts of one operation; the counter keeps them in half a word.
const MOST_PARTS: usize = u32::MAX as usize;

/// A number of threads, the caller's among them.
pub(crate) struct Pool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    /// Held during an operation: there is one at a time.
    running: Mutex<()>,
}

struct Shared {
    /// The operation's number in the high half, parts that nobody has claimed
    /// in the low half.
    state: AtomicU64,
    /// Parts that are not done.
    pending: AtomicUsize,
    job: UnsafeCell<Job>,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    closing: AtomicBool,
    sleepers: Mutex<usize>,
    wake: Condvar,
}

/// An operation, its caller's lifetime forgotten.
#[derive(Clone, Copy)]
struct Job {
    compute: *const (dyn Fn(usize) + Sync),
    parts: usize,
}

// SAFETY: `job` is written while no part can be claimed, and read only between
// the claim of a part and its end, for which the writer waits.
unsafe impl Sync for Shared {}
// SAFETY: as for Sync; the pointer is to what may be shared.
unsafe impl Send for Shared {}

impl Pool {
    /// Starts all but one of `threads` threads, which are at least one.
    pub(crate) fn new(threads: usize) -> Result<Pool, DeviceError> {
        let shared = Arc::new(Shared {
            state: AtomicU64::new(0),
            pending: AtomicUsize::new(0),
            job: UnsafeCell::new(Job {
                compute: &|_| {},
                parts: 0,
            }),
            panic: Mutex::new(None),
            closing: AtomicBool::new(false),
            sleepers: Mutex::new(0),
            wake: Condvar::new(),
        });
        let mut pool = Pool {
            shared,
            threads: Vec::new(),
            running: Mutex::new(()),
        };
        for index in 1..threads {
            let shared = pool.shared.clone();
            let thread = thread::Builder::new()
                .name(format!("compute-{index}"))
                .spawn(move || shared.work())
                .map_err(|error| DeviceError::Threads {
                    threads,
                    reason: error.to_string(),
                })?;
            pool.threads.push(thread);
        }
        Ok(pool)
    }

    /// Threads, the caller's among them.
    pub(crate) fn threads(&self) -> usize {
        self.threads.len() + 1
    }

    /// Calls `compute` once with each number below `parts`, on any threads, and
    /// returns when all have returned. What one of them panics with, this
    /// panics with, after the others. Must not be called from a part.
    pub(crate) fn run(&self, parts: usize, compute: &(dyn Fn(usize) + Sync)) {
        if parts <= 1 || self.threads.is_empty() {
            return (0..parts).for_each(compute);
        }
        assert!(parts <= MOST_PARTS, "operations have at most 2^32 parts");
        let _running = lock(&self.running);
        let shared = &*self.shared;
        // SAFETY: forgets a lifetime; every call ends before this function does.
        let compute = unsafe {
            std::mem::transmute::<
                *const (dyn Fn(usize) + Sync + '_),
                *const (dyn Fn(usize) + Sync + 'static),
            >(compute)
        };
        // SAFETY: the operation before has no parts left, so nobody reads it.
        unsafe { *shared.job.get() = Job { compute, parts } };
        shared.pending.store(parts, Ordering::Relaxed);
        let number = (shared.state.load(Ordering::Relaxed) >> 32).wrapping_add(1);
        shared
            .state
            .store(number << 32 | parts as u64, Ordering::Release);
        // A thread looks for parts once more with this lock held before it
        // sleeps: either it sees them, or is seen here.
        if *lock(&shared.sleepers) > 0 {
            shared.wake.notify_all();
        }
        while shared.claim() {}
        let mut waited = 0;
        while shared.pending.load(Ordering::Acquire) > 0 {
            pause(&mut waited);
        }
        if let Some(payload) = lock(&shared.panic).take() {
            panic::resume_unwind(payload);
        }
    }
}

impl Pool {
    /// Calls `compute` once with each chunk of `width` numbers, the last perhaps
    /// shorter, and its number, as [`Pool::run`] does.
    pub(crate) fn chunks(
        &self,
        out: &mut [f32],
        width: usize,
        compute: &(dyn Fn(usize, &mut [f32]) + Sync),
    ) {
        struct Base(*mut f32);
        // SAFETY: from a shared reference only chunks are made, each once.
        unsafe impl Sync for Base {}
        impl Base {
            fn at(&self, number: usize) -> *mut f32 {
                self.0.wrapping_add(number)
            }
        }
        let (base, len) = (Base(out.as_mut_ptr()), out.len());
        self.run(len.div_ceil(width), &|chunk| {
            let first = chunk * width;
            let count = width.min(len - first);
            // SAFETY: inside `out`, and computed once each.
            let chunk_of = unsafe { std::slice::from_raw_parts_mut(base.at(first), count) };
            compute(chunk, chunk_of);
        });
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        {
            let _sleepers = lock(&self.shared.sleepers);
            self.shared.closing.store(true, Ordering::Relaxed);
            self.shared.wake.notify_all();
        }
        for thread in self.threads.drain(..) {
            // Parts' panics are caught, so a thread ends well.
            let _ = thread.join();
        }
    }
}

impl Shared {
    /// Claims a part and computes it; false if there is none.
    fn claim(&self) -> bool {
        let claim = |state: u64| (state as u32 > 0).then(|| state - 1);
        let Ok(state) = self
            .state
            .fetch_update(Ordering::Acquire, Ordering::Acquire, claim)
        else {
            return false;
        };
        // SAFETY: a part of this operation is claimed and not done, so neither
        // the job nor what it points to changes until `pending` falls below.
        let job = unsafe { *self.job.get() };
        let part = job.parts - state as u32 as usize;
        // SAFETY: as above.
        let compute = unsafe { &*job.compute };
        if let Err(payload) = panic::catch_unwind(AssertUnwindSafe(|| compute(part))) {
            *lock(&self.panic) = Some(payload);
        }
        self.pending.fetch_sub(1, Ordering::Release);
        true
    }

    fn work(&self) {
        let mut waited = 0;
        while !self.closing.load(Ordering::Relaxed) {
            if self.claim() {
                waited = 0;
            } else if waited < SPINS + YIELDS {
                pause(&mut waited);
            } else {
                self.sleep();
                waited = 0;
            }
        }
    }

    /// Sleeps until there are parts, or the pool closes.
    fn sleep(&self) {
        let mut sleepers = lock(&self.sleepers);
        *sleepers += 1;
        while self.state.load(Ordering::Relaxed) as u32 == 0
            && !self.closing.load(Ordering::Relaxed)
        {
            sleepers = self
                .wake
                .wait(sleepers)
                .unwrap_or_else(PoisonError::into_inner);
        }
        *sleepers -= 1;
    }
}

/// Waits a moment, the longer the more often it has.
fn pause(waited: &mut u32) {
    if *waited < SPINS {
        std::hint::spin_loop();
    } else {
        thread::yield_now();
    }
    *waited = waited.saturating_add(1);
}

/// Nobody panics with a lock held; if somebody does, its value is still whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
