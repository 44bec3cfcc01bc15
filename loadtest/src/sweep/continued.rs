//! One workload for run after run, each going on where the one before ended, so
//! that no run finds in the server's cache what another has sent.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::planned::{PlannedRequest, Turn, Workload};

#[derive(Clone)]
pub(super) struct Continued(Arc<Mutex<State>>);

struct State {
    workload: Box<dyn Workload>,
    /// Requests made so far.
    made: u64,
    ended: bool,
}

/// The part of one run: its requests are counted from 0.
struct Part {
    whole: Continued,
    first: u64,
}

impl Continued {
    pub(super) fn new(workload: Box<dyn Workload>) -> Continued {
        Continued(Arc::new(Mutex::new(State {
            workload,
            made: 0,
            ended: false,
        })))
    }

    pub(super) fn part(&self) -> Box<dyn Workload> {
        Box::new(Part {
            first: self.state().made,
            whole: self.clone(),
        })
    }

    /// It has no more requests.
    pub(super) fn has_ended(&self) -> bool {
        self.state().ended
    }

    /// A workload that panicked shows by itself.
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn count(&mut self, request: PlannedRequest, first: u64) -> PlannedRequest {
        self.made = self.made.max(request.number + 1);
        PlannedRequest {
            number: request.number - first,
            ..request
        }
    }
}

impl Workload for Part {
    fn next(&mut self) -> Option<PlannedRequest> {
        let mut state = self.whole.state();
        let next = state.workload.next();
        state.ended |= next.is_none();
        next.map(|it| state.count(it, self.first))
    }

    fn next_turn(&mut self, after: Turn, answer: &str) -> Option<PlannedRequest> {
        let mut state = self.whole.state();
        let next = state.workload.next_turn(after, answer)?;
        Some(state.count(next, self.first))
    }

    fn len_hint(&self) -> Option<u64> {
        None
    }

    fn abandon(&mut self, conversation: u64) {
        self.whole.state().workload.abandon(conversation);
    }

    fn caveats(&self) -> Vec<String> {
        self.whole.state().workload.caveats()
    }
}
