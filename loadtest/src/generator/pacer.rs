//! Wakes event loops at exact times. The event loop's own timers are good to a
//! millisecond only; a thread that sleeps is good to some tens of microseconds.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Instant;

use tokio::sync::oneshot;

/// A handle on the thread; it ends with the last one.
#[derive(Clone, Debug)]
pub(crate) struct Pacer {
    /// Unbounded, as sending must not wait: each waiting task holds one alarm.
    alarms: Sender<Alarm>,
}

#[derive(Debug)]
struct Alarm {
    at: Instant,
    wake: oneshot::Sender<()>,
}

impl Pacer {
    pub(crate) fn start() -> std::io::Result<Pacer> {
        let (alarms, alarms_rx) = channel();
        thread::Builder::new()
            .name("loadtest-pacer".to_owned())
            .spawn(move || ring(&alarms_rx))?;
        Ok(Pacer { alarms })
    }

    /// Resolves at `until`.
    pub(crate) async fn wait(&self, until: Instant) {
        if until <= Instant::now() {
            return;
        }
        let (wake, woken) = oneshot::channel();
        let lost = self.alarms.send(Alarm { at: until, wake }).is_err();
        if lost || woken.await.is_err() {
            // The thread is gone: late by a millisecond is better than never.
            tokio::time::sleep_until(until.into()).await;
        }
    }
}

fn ring(alarms_rx: &Receiver<Alarm>) {
    let mut alarms = BinaryHeap::<Reverse<Alarm>>::new();
    loop {
        let now = Instant::now();
        while alarms.peek().is_some_and(|it| it.0.at <= now) {
            if let Some(Reverse(alarm)) = alarms.pop() {
                // Who no longer waits needs no waking.
                let _ = alarm.wake.send(());
            }
        }
        let next = match alarms.peek() {
            Some(next) => alarms_rx.recv_timeout(next.0.at.saturating_duration_since(now)),
            None => alarms_rx.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        match next {
            Ok(alarm) => alarms.push(Reverse(alarm)),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

impl Ord for Alarm {
    fn cmp(&self, other: &Alarm) -> std::cmp::Ordering {
        self.at.cmp(&other.at)
    }
}

impl PartialOrd for Alarm {
    fn partial_cmp(&self, other: &Alarm) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Alarm {
    fn eq(&self, other: &Alarm) -> bool {
        self.at == other.at
    }
}

impl Eq for Alarm {}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn wakes_in_order_of_time_and_never_early() {
        let pacer = Pacer::start().unwrap();
        let start = Instant::now();
        let wait = async |ms: u64| {
            let until = start + Duration::from_millis(ms);
            pacer.wait(until).await;
            assert!(Instant::now() >= until);
            ms
        };
        let waits = [20, 5, 0, 10].map(wait);
        let mut waits: futures::stream::FuturesUnordered<_> = waits.into_iter().collect();
        let mut order = Vec::new();
        while let Some(ms) = futures::StreamExt::next(&mut waits).await {
            order.push(ms);
        }
        assert_eq!(order, [0, 5, 10, 20]);
    }

    #[tokio::test]
    async fn a_wait_that_was_dropped_delays_no_other() {
        let pacer = Pacer::start().unwrap();
        let start = Instant::now();
        let long = Duration::from_secs(3600);
        let dropped = tokio::time::timeout(Duration::ZERO, pacer.wait(start + long)).await;
        assert!(dropped.is_err());
        pacer.wait(start + Duration::from_millis(2)).await;
        assert!(start.elapsed() < long);
    }
}
