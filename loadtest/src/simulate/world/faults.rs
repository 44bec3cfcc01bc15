//! Workers that come, go and fail.

use std::time::Duration;

use super::{Event, World, member, worker_id};
use crate::simulate::router::Notice;
use crate::simulate::worker::{Call, State, Worker};
use crate::simulate::{Fault, WorkerSpec};

impl World<'_> {
    /// A new worker, of which routers hear after `delay`.
    pub(super) fn join(&mut self, spec: WorkerSpec, delay: Duration) {
        let id = worker_id(self.workers.len());
        let keeps_log = self.scenario.network.event_loss > 0.0;
        self.workers
            .push(Worker::new(id, spec.profile, spec.role, keeps_log));
        self.announce(self.workers.len() - 1, delay);
    }

    pub(super) fn fault(&mut self, fault: Fault) {
        match fault {
            Fault::Fail { worker, back, .. } => self.fail(worker, back),
            Fault::Return { worker, .. } => {
                self.workers[worker].state = State::Up;
                self.announce(worker, self.scenario.network.event_delay);
            }
            Fault::Leave { worker, .. } => {
                if self.workers[worker].state == State::Up {
                    self.workers[worker].state = State::Draining;
                    self.tell_all(worker, self.scenario.network.event_delay, || {
                        Notice::Leaving
                    });
                }
            }
            Fault::Join { spec, .. } => self.join(spec, self.scenario.network.event_delay),
        }
    }

    fn fail(&mut self, at: usize, back: Option<Duration>) {
        let worker = &mut self.workers[at];
        if worker.state == State::Down {
            return;
        }
        let epoch = worker.epoch;
        let mut tasks: Vec<_> = worker.tasks.iter().map(|(id, task)| (*id, *task)).collect();
        tasks.sort_unstable_by_key(|(id, _)| *id);
        let unread = worker
            .take_inbox()
            .into_iter()
            .filter_map(|call| match call {
                Call::Add { task, .. } => Some(task),
                _ => None,
            });
        let tasks: Vec<_> = tasks.into_iter().map(|it| it.1).chain(unread).collect();
        worker.fail();
        for task in tasks {
            self.refuse(task, (at, epoch));
        }
        self.tell_all(at, self.scenario.network.delay, || Notice::Down);
        if let Some(back) = back {
            let at_time = self.now + back;
            let fault = Fault::Return {
                at: at_time,
                worker: at,
            };
            self.queue.plan(at_time, Event::Fault(fault));
        }
    }

    fn announce(&mut self, at: usize, delay: Duration) {
        let member = member(&self.workers[at]);
        self.tell_all(at, delay, || Notice::Up(member));
        self.publish(at);
    }

    fn tell_all(&mut self, worker: usize, delay: Duration, notice: impl Fn() -> Notice) {
        let heard = self.now + delay;
        for router in 0..self.routers.len() {
            self.tell(router, worker, heard, notice());
        }
    }
}
