//! What happens next: events by time, those of one time in the order in which
//! they were planned.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::time::Duration;

#[derive(Debug)]
pub(super) struct Queue<E> {
    heap: BinaryHeap<Entry<E>>,
    planned: u64,
}

#[derive(Debug)]
struct Entry<E> {
    at: Duration,
    order: u64,
    event: E,
}

impl<E> Queue<E> {
    pub(super) fn new() -> Queue<E> {
        Queue {
            heap: BinaryHeap::new(),
            planned: 0,
        }
    }

    pub(super) fn plan(&mut self, at: Duration, event: E) {
        self.heap.push(Entry {
            at,
            order: self.planned,
            event,
        });
        self.planned += 1;
    }

    pub(super) fn next(&mut self) -> Option<(Duration, E)> {
        self.heap.pop().map(|it| (it.at, it.event))
    }

    /// Events planned so far.
    pub(super) fn planned(&self) -> u64 {
        self.planned
    }
}

impl<E> Ord for Entry<E> {
    /// The heap gives the greatest first: the earliest.
    fn cmp(&self, other: &Entry<E>) -> Ordering {
        (other.at, other.order).cmp(&(self.at, self.order))
    }
}

impl<E> PartialOrd for Entry<E> {
    fn partial_cmp(&self, other: &Entry<E>) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> PartialEq for Entry<E> {
    fn eq(&self, other: &Entry<E>) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<E> Eq for Entry<E> {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_by_time_then_in_the_order_of_planning() {
        let mut queue = Queue::new();
        for (at, event) in [(3, 'd'), (1, 'a'), (1, 'b'), (2, 'c')] {
            queue.plan(Duration::from_secs(at), event);
        }
        let order: String = std::iter::from_fn(|| queue.next()).map(|it| it.1).collect();
        assert_eq!(order, "abcd");
        assert_eq!(queue.planned(), 4);
    }
}
