//! Requests wait in their router until they may run.

use std::time::Duration;

use router::admission::queue::{Arrival, Ask, Shed, Turn};

use super::{Event, World};
use crate::record::Outcome;

/// A capacity holds until the next report, or as long.
const LEASE: Duration = Duration::from_secs(1);

impl World<'_> {
    /// Lets a request in, keeps it, or turns it away.
    pub(super) fn admit(&mut self, number: u64) {
        let Some(active) = self.active.get(&number) else {
            return;
        };
        let router = active.router;
        let ask = Ask {
            tenant: active.tenant.clone().unwrap_or_default(),
            priority: active.priority.unwrap_or_default(),
            tokens: active.cost(),
            deadline: None,
            start_by: self.start_by(router),
        };
        match self.routers[router].admission.arrive(ask, number, self.now) {
            Arrival::Admitted { turn, .. } => {
                self.let_run(number, turn);
            }
            Arrival::Queued { until, .. } => self.queue.plan(until, Event::Waited { router }),
            Arrival::Shed { shed, .. } => self.turn_away(number, shed),
        }
        self.let_in(router);
    }

    /// Those whose turn has come, and those whose time is over.
    pub(super) fn let_in(&mut self, router: usize) {
        let now = self.now;
        for (number, shed) in self.routers[router].admission.expire(now) {
            self.turn_away(number, shed);
        }
        while let Some((number, turn)) = self.routers[router].admission.next(now) {
            self.let_run(number, turn);
        }
    }

    /// The router has heard of its workers: how many may run now.
    pub(super) fn measure_room(&mut self, router: usize) {
        let now = self.now;
        let planner = &mut self.routers[router];
        if !planner.holds {
            return;
        }
        let Some(room) = planner.room() else {
            return;
        };
        let capacity = planner.admission.running().saturating_add(room).max(1);
        planner.admission.set_capacity(capacity, now + LEASE, now);
        if planner.admission.waiting() > 0 {
            self.let_in(router);
        }
    }

    /// When a request that comes now must run, to have its first token in time.
    fn start_by(&self, router: usize) -> Option<Duration> {
        let within = self.scenario.told.first_token?;
        let lead = self.routers[router].lead.expected();
        Some((self.now + within).saturating_sub(lead))
    }

    fn let_run(&mut self, number: u64, turn: Turn) {
        if let Some(active) = self.active.get_mut(&number) {
            active.permit = Some(turn);
            active.began = self.now;
        }
        self.dispatch(number);
    }

    fn turn_away(&mut self, number: u64, shed: Shed) {
        let status = match shed.no_capacity {
            true => 503,
            false => 429,
        };
        self.finish(number, Outcome::Status(status));
    }
}
