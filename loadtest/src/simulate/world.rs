//! The simulated cluster: what happens at each event.

mod admission;
mod answers;
mod faults;
mod outputs;
mod transfer;

use std::sync::Arc;
use std::time::Duration;

use engine::SequenceId;
use kvcache_index::HashScope;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use router::cluster::view::Member;
use router::plan::Ask;
use rustc_hash::{FxHashMap, FxHashSet};

use super::active::Active;
use super::bound::BoundTally;
use super::queue::Queue;
use super::router::{Notice, Router};
use super::source::Source;
use super::worker::{Address, Call, Part, State, Task, Worker};
use super::{Fault, Scenario};
use crate::planned::PlannedRequest;
use crate::record::{Outcome, Record};

/// Shortest time between two reports of a worker's load.
const REPORT_INTERVAL: Duration = Duration::from_millis(10);

pub(super) enum Event {
    Arrival(Box<PlannedRequest>),
    /// A call reaches a start of a worker.
    Call {
        worker: usize,
        epoch: u64,
        call: Call,
    },
    StepEnd {
        worker: usize,
        epoch: u64,
    },
    ReportDue {
        worker: usize,
        epoch: u64,
    },
    Notice {
        router: usize,
        worker: usize,
        notice: Box<Notice>,
    },
    /// A router asks a worker for the events it has missed.
    Subscribe {
        router: usize,
        worker: usize,
    },
    /// A router learns that a worker has its part of a request, as the sequence of
    /// that number there, or does not.
    Accepted(Task, u64),
    Refused {
        task: Task,
        worker: usize,
        epoch: u64,
    },
    /// Somebody may have waited too long.
    Waited {
        router: usize,
    },
    /// The last token of a request came.
    Done(Task),
    Fault(Fault),
}

/// Where records go.
pub(super) trait Sink {
    fn record(&mut self, record: Record);
}

pub(super) struct World<'a> {
    pub(super) now: Duration,
    pub(super) queue: Queue<Event>,
    pub(super) workers: Vec<Worker>,
    pub(super) bound: BoundTally,
    pub(super) counts: Counts,
    scenario: &'a Scenario,
    routers: Vec<Router>,
    pub(super) source: Source,
    active: FxHashMap<u64, Active>,
    scope: HashScope,
    block_size: usize,
    sequences: u64,
    arrivals: u64,
    /// Routers that wait for events of workers.
    repairing: FxHashSet<(usize, usize)>,
    /// Of what planners draw.
    draws: StdRng,
    /// Of what the network loses.
    losses: StdRng,
    sink: &'a mut dyn Sink,
}

/// What happened beside what records show.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) placed: u64,
    pub(super) split: u64,
    /// Placed again after a worker failed.
    pub(super) replaced: u64,
}

impl<'a> World<'a> {
    pub(super) fn new(
        scenario: &'a Scenario,
        source: Source,
        routers: Vec<Router>,
        sink: &'a mut dyn Sink,
    ) -> World<'a> {
        let block_size = scenario.block_size();
        let total = scenario.workers.iter().map(|it| it.profile.kv_blocks);
        World {
            now: Duration::ZERO,
            queue: Queue::new(),
            workers: Vec::new(),
            bound: BoundTally::new(total.sum(), block_size),
            counts: Counts::default(),
            scenario,
            routers,
            source,
            active: FxHashMap::default(),
            scope: HashScope::new("simulated", "", block_size),
            block_size,
            sequences: 0,
            arrivals: 0,
            repairing: FxHashSet::default(),
            draws: StdRng::seed_from_u64(scenario.seed),
            losses: StdRng::seed_from_u64(scenario.seed ^ 0x10_55),
            sink,
        }
    }

    /// Until nothing is left to happen.
    pub(super) fn run(&mut self) {
        for spec in &self.scenario.workers {
            self.join(spec.clone(), Duration::ZERO);
        }
        for fault in &self.scenario.faults {
            self.queue.plan(fault.at(), Event::Fault(fault.clone()));
        }
        for (at, request) in self.source.first() {
            self.queue.plan(at, Event::Arrival(Box::new(request)));
        }
        while let Some((at, event)) = self.queue.next() {
            if self.is_void(&event) {
                continue;
            }
            self.now = at;
            self.happen(event);
        }
        for number in self.unfinished() {
            self.finish(number, Outcome::Unfinished);
        }
    }

    pub(super) fn caveats(&self) -> Vec<String> {
        self.source.caveats()
    }

    /// Sequences that no event will bring on, in order: of a cluster that has
    /// lost all its workers.
    fn unfinished(&self) -> Vec<u64> {
        let mut numbers: Vec<u64> = self.active.keys().copied().collect();
        numbers.sort_unstable();
        numbers
    }

    /// Nobody waits any more whose wait could end.
    fn is_void(&self, event: &Event) -> bool {
        match event {
            Event::Waited { router } => self.routers[*router].admission.waiting() == 0,
            _ => false,
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Arrival(request) => self.arrive(*request),
            Event::Call {
                worker,
                epoch,
                call,
            } => self.receive(worker, epoch, call),
            Event::StepEnd { worker, epoch } if self.workers[worker].epoch == epoch => {
                self.end_step(worker);
            }
            Event::ReportDue { worker, epoch } if self.workers[worker].epoch == epoch => {
                self.workers[worker].report_planned = false;
                // While a step runs nothing is known that was not before it; its
                // end is told.
                if !self.workers[worker].is_busy() {
                    self.publish(worker);
                }
            }
            Event::StepEnd { .. } | Event::ReportDue { .. } => {}
            Event::Notice {
                router,
                worker,
                notice,
            } => self.hear(router, worker, *notice),
            Event::Subscribe { router, worker } => self.resend(router, worker),
            Event::Accepted(task, number) => self.accepted(task, number),
            Event::Refused {
                task,
                worker,
                epoch,
            } => self.refused(task, (worker, epoch)),
            Event::Waited { router } => self.let_in(router),
            Event::Done(task) => self.done(task),
            Event::Fault(fault) => self.fault(fault),
        }
    }

    fn arrive(&mut self, request: PlannedRequest) {
        let router = (self.arrivals % self.routers.len() as u64) as usize;
        self.arrivals += 1;
        let starts = request.turn.is_none_or(|it| it.number == 0);
        let number = request.number;
        let mut active = Active::new(request, self.now, router);
        let tokens = active.prompt_tokens();
        self.bound
            .arrived(tokens, active.hash(&self.scope, self.block_size));
        self.active.insert(number, active);
        self.admit(number);
        if starts
            && !self.source.is_closed()
            && let Some((at, next)) = self.source.next(self.now)
        {
            self.queue.plan(at, Event::Arrival(Box::new(next)));
        }
    }

    /// Chooses workers for a request, and calls the first of them.
    fn dispatch(&mut self, number: u64) {
        let Some(active) = self.active.get_mut(&number) else {
            return;
        };
        active.hash(&self.scope, self.block_size);
        let router = &mut self.routers[active.router];
        let told = self.scenario.told;
        let waited = self.now.saturating_sub(active.scheduled);
        let ask = Ask {
            prompt_tokens: active.tokens(),
            max_tokens: active.remaining(),
            first_token: told.first_token.map(|it| it.saturating_sub(waited)),
            inter_token: told.inter_token,
            block_size: self.block_size,
            may_split: active.remaining() > 1,
            hashes: &active.short_hashes,
            session: active.turn.map(|it| it.conversation),
            now: self.now,
            random: self.draws.random(),
        };
        let placed = router.place(&ask, &active.excluded);
        active.placed = placed;
        let Some(placed) = placed else {
            return self.finish(number, Outcome::Status(503));
        };
        self.counts.placed += 1;
        self.counts.split += u64::from(placed.prefill.is_some());
        match placed.prefill {
            Some(prefill) => self.call(number, Part::Prefill, prefill.0 as usize),
            None => self.call(number, Part::Decode, placed.decode.0 as usize),
        }
    }

    /// Calls `worker` for a part of a request.
    fn call(&mut self, number: u64, part: Part, worker: usize) {
        let Some(active) = self.active.get_mut(&number) else {
            return;
        };
        self.sequences += 1;
        let address = Address {
            worker,
            epoch: self.workers[worker].epoch,
            id: SequenceId(self.sequences),
        };
        match part {
            Part::Prefill => active.prefill = Some(address),
            Part::Decode => active.decode = Some(address),
        }
        let call = Call::Add {
            request: Box::new(active.request(address.id, part, &self.scope)),
            task: active.task(part),
        };
        self.send(address, call);
    }

    fn send(&mut self, to: Address, call: Call) {
        let arrives = self.now + self.scenario.network.delay;
        let (worker, epoch) = (to.worker, to.epoch);
        self.queue.plan(
            arrives,
            Event::Call {
                worker,
                epoch,
                call,
            },
        );
    }

    fn receive(&mut self, at: usize, epoch: u64, call: Call) {
        let worker = &mut self.workers[at];
        if worker.epoch != epoch || worker.state == State::Down {
            if let Call::Add { task, .. } = call {
                self.refuse(task, (at, epoch));
            }
            return;
        }
        worker.post(call);
        if !worker.is_busy() {
            self.take_turn(at);
        }
    }

    fn refuse(&mut self, task: Task, (worker, epoch): (usize, u64)) {
        let heard = self.now + self.scenario.network.delay;
        self.queue.plan(
            heard,
            Event::Refused {
                task,
                worker,
                epoch,
            },
        );
    }

    /// Does what was asked since the last step, and begins the next.
    fn take_turn(&mut self, at: usize) {
        loop {
            for call in self.workers[at].take_inbox() {
                self.apply(at, call);
            }
            match self.workers[at].begin_step(self.now) {
                Some(time) if time > Duration::ZERO => {
                    let epoch = self.workers[at].epoch;
                    let ends = self.now + time;
                    return self.queue.plan(ends, Event::StepEnd { worker: at, epoch });
                }
                Some(_) => self.take_outputs(at),
                None => return self.publish(at),
            }
        }
    }

    fn end_step(&mut self, at: usize) {
        self.take_outputs(at);
        self.send_blocks(at);
        self.publish(at);
        self.take_turn(at);
    }

    /// The request of `task`, unless that belongs to an earlier attempt.
    fn current(&mut self, task: Task) -> Option<&mut Active> {
        let active = self.active.get_mut(&task.request)?;
        (active.attempt == task.attempt).then_some(active)
    }
}

fn member(worker: &Worker) -> Member {
    Member {
        epoch: worker.epoch,
        role: worker.role,
        model: 0,
    }
}

/// What workers are called.
fn worker_id(number: usize) -> Arc<str> {
    format!("worker-{number}").into()
}
