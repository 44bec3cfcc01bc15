//! What workers answer to calls, and how requests end.

use kvcache_index::WorkerSlot;

use super::{Event, World};
use crate::record::Outcome;
use crate::simulate::router::Notice;
use crate::simulate::worker::{Call, Part, Task};

/// Workers that may fail under one request before it fails.
const MAX_ATTEMPTS: u32 = 8;

impl World<'_> {
    pub(super) fn accepted(&mut self, task: Task, number: u64) {
        let Some(active) = self.current(task) else {
            return;
        };
        let (router, placed) = (active.router, active.placed);
        let Some(placed) = placed else { return };
        let by = match task.part {
            Part::Prefill => placed.prefill.unwrap_or(placed.decode),
            Part::Decode => placed.decode,
        };
        let booking = placed.booking;
        self.routers[router].hear(
            by.0 as usize,
            Notice::Accepted { booking, number },
            self.now,
        );
        if task.part == Part::Prefill {
            self.call(task.request, Part::Decode, placed.decode.0 as usize);
        }
    }

    /// A worker failed under a request: it goes on elsewhere.
    pub(super) fn refused(&mut self, task: Task, (worker, epoch): (usize, u64)) {
        let Some(active) = self.current(task) else {
            return;
        };
        let slot = WorkerSlot(worker as u32);
        active.excluded.push((slot, epoch));
        active.attempt += 1;
        let parts = [active.prefill.take(), active.decode.take()];
        let (router, attempts) = (active.router, active.attempt);
        let placed = active.placed.take();
        for part in parts.into_iter().flatten() {
            self.send(part, Call::Abort(part.id));
        }
        if let Some(placed) = placed {
            self.routers[router].release(placed.booking);
        }
        self.counts.replaced += 1;
        match attempts < MAX_ATTEMPTS {
            true => self.dispatch(task.request),
            false => self.finish(task.request, Outcome::ErrorEvent),
        }
    }

    pub(super) fn done(&mut self, task: Task) {
        let Some(active) = self.current(task) else {
            return;
        };
        let outcome = match active.remaining() {
            0 => Outcome::Complete,
            _ => Outcome::Truncated,
        };
        self.finish(task.request, outcome);
    }

    /// The request ends with `outcome`; what follows from it begins.
    pub(super) fn finish(&mut self, number: u64, outcome: Outcome) {
        let Some(mut active) = self.active.remove(&number) else {
            return;
        };
        let router = active.router;
        if let Some(placed) = active.placed {
            self.routers[router].release(placed.booking);
        }
        if let Some(permit) = active.permit.take() {
            let spent = active.cost();
            let admission = &mut self.routers[router].admission;
            admission.release(permit, spent, self.now);
        }
        let (turn, answer) = match active.turn {
            Some(turn) => {
                // The next turn's prompt goes on from the answer.
                self.bound
                    .answered(active.hash(&self.scope, self.block_size));
                (Some(turn), active.answer())
            }
            None => (None, String::new()),
        };
        let is_answered = matches!(outcome, Outcome::Complete | Outcome::Truncated);
        let warm_up = number < self.scenario.warm_up;
        self.sink.record(active.record(self.now, outcome, warm_up));
        let next = match turn {
            Some(turn) if is_answered => self.source.next_turn(turn, &answer, self.now),
            Some(turn) => {
                self.source.abandon(turn.conversation);
                None
            }
            None => None,
        };
        let next = match next {
            None if self.source.is_closed() => self.source.next(self.now),
            next => next,
        };
        if let Some((at, request)) = next {
            self.queue.plan(at, Event::Arrival(Box::new(request)));
        }
        self.let_in(router);
    }
}
