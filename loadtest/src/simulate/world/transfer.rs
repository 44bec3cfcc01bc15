//! KV on its way from prefill to decode workers, while the prompt is still
//! computed. A worker's port carries one transfer at a time, each way.

use bytes::Bytes;
use engine::{Sampled, SequenceId};

use super::{Event, World};
use crate::simulate::worker::{Address, Call, Sending, Task};

impl World<'_> {
    /// The decode worker has room from `first_block` on: it asks for the rest.
    pub(super) fn ask_for_blocks(&mut self, task: Task, first_block: usize) {
        let Some(active) = self.current(task) else {
            return;
        };
        if let (Some(prefill), Some(decode)) = (active.prefill, active.decode) {
            let call = Call::Pull {
                id: prefill.id,
                from_block: first_block,
                to: decode,
            };
            self.send(prefill, call);
        }
    }

    pub(super) fn pull(&mut self, at: usize, id: SequenceId, from_block: usize, to: Address) {
        self.workers[at].sending.push(Sending {
            from: id,
            to,
            next_block: from_block,
        });
        self.send_blocks(at);
    }

    /// Sends on what is computed of prompts that others wait for.
    pub(super) fn send_blocks(&mut self, at: usize) {
        let mut sending = std::mem::take(&mut self.workers[at].sending);
        sending.retain_mut(|it| !self.send_next(at, it));
        self.workers[at].sending = sending;
    }

    /// Whether all of it is sent.
    fn send_next(&mut self, at: usize, sending: &mut Sending) -> bool {
        let worker = &self.workers[at];
        let Some((first_block, blocks, done)) = worker.export(sending) else {
            return false;
        };
        let to = sending.to;
        let receiver = &self.workers[to.worker];
        let begins = self
            .now
            .max(worker.sends_until)
            .max(receiver.receives_until);
        let takes = worker
            .profile
            .transfer_time(blocks)
            .max(receiver.profile.transfer_time(blocks));
        let ends = begins + takes;
        self.workers[at].sends_until = ends;
        self.workers[to.worker].receives_until = ends;
        sending.next_block = first_block + blocks;
        let first_token = self.workers[at].first_tokens.get(&sending.from).cloned();
        let arrives = ends + self.scenario.network.delay;
        let import = Event::Call {
            worker: to.worker,
            epoch: to.epoch,
            call: Call::Import {
                id: to.id,
                first_block,
                blocks,
                done: done.then_some(first_token),
            },
        };
        self.queue.plan(arrives, import);
        if done {
            let release = Event::Call {
                worker: at,
                epoch: self.workers[at].epoch,
                call: Call::Abort(sending.from),
            };
            self.queue.plan(arrives, release);
        }
        done
    }

    pub(super) fn import(
        &mut self,
        at: usize,
        id: SequenceId,
        (first_block, blocks): (usize, usize),
        done: Option<Option<Sampled>>,
    ) {
        // A sequence that was aborted meanwhile takes nothing.
        let engine = &mut self.workers[at].engine;
        let images = vec![Bytes::new(); blocks];
        if engine.import(id, first_block, &images).is_err() {
            return;
        }
        let Some(first_token) = done else { return };
        let outputs = engine.import_done(id, first_token).unwrap_or_default();
        for output in outputs {
            self.take_output(at, output);
        }
    }
}
