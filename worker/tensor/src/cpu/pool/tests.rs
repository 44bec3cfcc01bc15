use std::collections::HashSet;
use std::time::Duration;

use super::*;

fn counts(pool: &Pool, parts: usize) -> Vec<usize> {
    let counts: Vec<_> = (0..parts).map(|_| AtomicUsize::new(0)).collect();
    pool.run(parts, &|part| {
        counts[part].fetch_add(1, Ordering::Relaxed);
    });
    counts.into_iter().map(AtomicUsize::into_inner).collect()
}

#[test]
fn every_part_is_computed_once_in_each_of_many_operations() {
    for threads in [1, 2, 5] {
        let pool = Pool::new(threads).unwrap();
        assert_eq!(pool.threads(), threads);
        for round in 0..3000 {
            let parts = round % 23;
            assert_eq!(counts(&pool, parts), vec![1; parts]);
        }
    }
}

#[test]
fn what_parts_write_is_there_when_the_operation_ends() {
    let pool = Pool::new(3).unwrap();
    let mut values = vec![0.0; 64];
    for round in 0..2000 {
        pool.chunks(&mut values, 3, &|chunk, values| {
            for (i, value) in values.iter_mut().enumerate() {
                *value = (round + 3 * chunk + i) as f32;
            }
        });
        assert!((0..64).all(|i| values[i] == (round + i) as f32));
    }
}

#[test]
fn several_threads_share_the_parts_also_after_sleep() {
    let pool = Pool::new(2).unwrap();
    for _ in 0..2 {
        let seen = Mutex::new(HashSet::new());
        // Each waits for the other: one thread alone would never end.
        let both = std::sync::Barrier::new(2);
        pool.run(2, &|_| {
            both.wait();
            seen.lock().unwrap().insert(thread::current().id());
        });
        assert_eq!(seen.into_inner().unwrap().len(), 2);
        while *lock(&pool.shared.sleepers) == 0 {
            thread::yield_now();
        }
    }
}

#[test]
fn callers_on_several_threads_take_turns() {
    let pool = Pool::new(2).unwrap();
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                for _ in 0..200 {
                    assert_eq!(counts(&pool, 7), [1; 7]);
                }
            });
        }
    });
}

#[test]
fn a_panic_reaches_the_caller_and_the_pool_goes_on() {
    let pool = Pool::new(2).unwrap();
    let computed = AtomicUsize::new(0);
    let caught = panic::catch_unwind(AssertUnwindSafe(|| {
        pool.run(10, &|part| {
            computed.fetch_add(1, Ordering::Relaxed);
            assert!(part != 4, "part four");
        });
    }));
    assert!(caught.is_err());
    assert_eq!(computed.into_inner(), 10);
    assert_eq!(counts(&pool, 9), [1; 9]);
}

#[test]
fn idle_threads_sleep_and_leave_when_the_pool_goes() {
    let pool = Pool::new(4).unwrap();
    let shared = Arc::downgrade(&pool.shared);
    while *lock(&pool.shared.sleepers) < 3 {
        thread::sleep(Duration::from_millis(1));
    }
    drop(pool);
    assert!(shared.upgrade().is_none());
}
