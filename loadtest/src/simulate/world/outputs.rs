//! What workers are asked, what their steps give, and what routers hear of it.

use engine::Output;
use rand::RngExt;

use super::{Event, REPORT_INTERVAL, World};
use crate::simulate::router::Notice;
use crate::simulate::worker::{Call, Part, State, Task};

impl World<'_> {
    /// `at` does what it was asked between two steps.
    pub(super) fn apply(&mut self, at: usize, call: Call) {
        match call {
            Call::Add { request, task } => self.add(at, *request, task),
            Call::Abort(id) => {
                let worker = &mut self.workers[at];
                worker.engine.abort(id);
                worker.tasks.remove(&id);
                worker.first_tokens.remove(&id);
                worker.sending.retain(|it| it.from != id);
            }
            Call::Pull { id, from_block, to } => self.pull(at, id, from_block, to),
            Call::Import {
                id,
                first_block,
                blocks,
                done,
            } => self.import(at, id, (first_block, blocks), done),
        }
    }

    fn add(&mut self, at: usize, request: engine::Request, task: Task) {
        let worker = &mut self.workers[at];
        let id = request.id;
        let added = worker.state == State::Up && worker.engine.add(request, self.now).is_ok();
        if !added {
            let epoch = worker.epoch;
            return self.refuse(task, (at, epoch));
        }
        worker.tasks.insert(id, task);
        worker.counts.sequences += 1;
        worker.accepted += 1;
        let number = worker.accepted;
        let heard = self.now + self.scenario.network.delay;
        self.queue.plan(heard, Event::Accepted(task, number));
    }

    pub(super) fn take_outputs(&mut self, at: usize) {
        for output in self.workers[at].end_step() {
            self.take_output(at, output);
        }
    }

    pub(super) fn take_output(&mut self, at: usize, output: Output) {
        let id = output.id();
        let Some(&task) = self.workers[at].tasks.get(&id) else {
            return;
        };
        let heard = self.now + self.scenario.network.delay;
        match output {
            Output::Started { cached_tokens, .. } => {
                if let Some(active) = self.current(task)
                    && (task.part == Part::Prefill || active.prefill.is_none())
                {
                    active.started(cached_tokens);
                }
            }
            Output::Receiving { first_block, .. } => self.ask_for_blocks(task, first_block),
            Output::Tokens { index, tokens, .. } => {
                if task.part == Part::Prefill
                    && let Some(first) = tokens.first()
                {
                    self.workers[at].first_tokens.insert(id, first.clone());
                }
                if index == 0 {
                    self.served(task);
                }
                if let Some(active) = self.current(task) {
                    for (index, token) in (index..).zip(&tokens) {
                        active.token(index, token.token, heard);
                    }
                }
            }
            Output::Finished { .. } | Output::Failed { .. } => {
                self.workers[at].tasks.remove(&id);
                self.queue.plan(heard, Event::Done(task));
            }
            Output::HandOver { .. } | Output::PromptLogprobs { .. } | Output::Embedding { .. } => {}
        }
    }

    /// Remembers who serves the request of `task`, whose first token is there.
    fn served(&mut self, task: Task) {
        let now = self.now;
        let Some(active) = self.current(task) else {
            return;
        };
        let (router, took) = (active.router, now.saturating_sub(active.began));
        let placed = active.placed;
        self.routers[router].lead.learn(took);
        let Some(placed) = placed else {
            return;
        };
        let prefill = placed
            .prefill
            .map(|it| self.workers[it.0 as usize].id.clone());
        let decode = self.workers[placed.decode.0 as usize].id.clone();
        if let Some(active) = self.current(task) {
            active.served_by.get_or_insert((prefill, decode));
        }
    }

    /// Tells routers of new events, and of the load if that is due.
    pub(super) fn publish(&mut self, at: usize) {
        let worker = &mut self.workers[at];
        let (first_seq, events) = worker.events();
        let due = worker.report_due(REPORT_INTERVAL);
        let report = (due <= self.now).then(|| worker.report(self.now));
        let epoch = worker.epoch;
        if report.is_none() && !worker.report_planned {
            worker.report_planned = true;
            self.queue.plan(due, Event::ReportDue { worker: at, epoch });
        }
        if report.is_none() && events.is_empty() {
            return;
        }
        let heard = self.now + self.scenario.network.event_delay;
        for router in 0..self.routers.len() {
            let loss = self.scenario.network.event_loss;
            if loss > 0.0 && self.losses.random::<f64>() < loss {
                continue;
            }
            let notice = Notice::Events {
                epoch,
                first_seq,
                events: events.clone(),
                report,
            };
            self.tell(router, at, heard, notice);
        }
    }

    pub(super) fn tell(
        &mut self,
        router: usize,
        worker: usize,
        at: std::time::Duration,
        notice: Notice,
    ) {
        let notice = Box::new(notice);
        self.queue.plan(
            at,
            Event::Notice {
                router,
                worker,
                notice,
            },
        );
    }

    pub(super) fn hear(&mut self, router: usize, worker: usize, notice: Notice) {
        let repairs = matches!(notice, Notice::Snapshot { .. });
        let whole = self.routers[router].hear(worker, notice, self.now);
        self.measure_room(router);
        if repairs || whole {
            self.repairing.remove(&(router, worker));
        } else if self.repairing.insert((router, worker)) {
            let asked = self.now + self.scenario.network.delay;
            self.queue.plan(asked, Event::Subscribe { router, worker });
        }
    }

    /// Sends what a router has missed.
    pub(super) fn resend(&mut self, router: usize, at: usize) {
        let (epoch, seq) = self.routers[router].position(at);
        let worker = &self.workers[at];
        let missed = match worker.epoch == epoch {
            true => worker.events_after(seq),
            false => None,
        };
        let notice = match missed {
            Some(events) => Notice::Events {
                epoch,
                first_seq: seq + 1,
                events,
                report: None,
            },
            None => {
                let (seq, events) = worker.snapshot();
                Notice::Snapshot {
                    epoch: worker.epoch,
                    seq,
                    events,
                }
            }
        };
        let heard = self.now + self.scenario.network.event_delay;
        self.tell(router, at, heard, notice);
    }
}
