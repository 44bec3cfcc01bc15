//! The engine on its own thread: apply commands, schedule, run, postprocess,
//! publish.
//!
//! Async code talks to it through an [`EngineHandle`]. The thread never waits
//! for a reader: what it sends goes into channels with room for all of it. It
//! ends when the last handle is dropped. A step that fails fails its sequences;
//! a panic ends the thread and fails all, and the process stays up to say so.

mod handle;
mod live;

mod sequence_stream;
mod stages;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::{Engine, Export, Output, Request, Sampled, SequenceId, StepError, StepReport};
use proto::ErrorCode;
use rustc_hash::FxHashMap;
use tokio::sync::mpsc;

use crate::event_feed::EventFeed;
use crate::failure::Failure;
use crate::kv_tier::Wake;
use crate::metrics::Metrics;
use handle::{Abandoned, Command, ExportCommand};
pub use handle::{EngineHandle, Exported};
use live::Live;

pub use sequence_stream::{Event, SequenceStream};
pub use stages::{Stage, StageTimes};

/// Commands wait here during a step. Callers wait when it is full; the thread
/// takes all of them before each step.
const COMMANDS: usize = 1024;

/// An engine with so many failed steps in a row, and none that worked between
/// them, is not ready. One sequence may break a step, or several.
const FAILED_STEPS: u32 = 3;

/// A simulated device that fell behind by more than this does not catch up.
const MAX_LAG: Duration = Duration::from_millis(5);

/// What the thread publishes to.
#[derive(Clone)]
pub struct Publish {
    pub feed: Arc<EventFeed>,
    pub metrics: Metrics,
}

/// Starts the thread for the engine that `setup` makes, whose tiers call what it
/// is given. `presence` is dropped when the thread ends.
pub fn spawn(
    setup: impl FnOnce(Wake) -> std::io::Result<Engine>,
    publish: Publish,
    presence: impl Send + 'static,
) -> std::io::Result<EngineHandle> {
    let (commands_tx, commands_rx) = mpsc::channel(COMMANDS);
    let engine = setup(wake(&commands_tx))?;
    let abandoned = Arc::new(Abandoned::default());
    let handle = EngineHandle::new(commands_tx, abandoned.clone());
    let feed = publish.feed.clone();
    let mut thread = EngineThread {
        engine,
        commands_rx,
        abandoned,
        live: FxHashMap::default(),
        exports: Vec::new(),
        began: Instant::now(),
        simulated_until: None,
        brought_tokens: 0,
        failed_steps: 0,
        accepted: 0,
        publish,
    };
    thread.publish();
    std::thread::Builder::new()
        .name("engine".to_owned())
        .spawn(move || {
            let _presence = presence;
            let run = AssertUnwindSafe(move || thread.run());
            if std::panic::catch_unwind(run).is_err() {
                tracing::error!("the engine panicked; restart this worker");
                feed.update_status(|status| status.draining = true);
            }
        })?;
    Ok(handle)
}

/// Wakes the thread, if it waits for a command and has handles at all.
fn wake(commands_tx: &mpsc::Sender<Command>) -> Wake {
    let commands_tx = commands_tx.downgrade();
    Arc::new(move || {
        if let Some(commands_tx) = commands_tx.upgrade() {
            // A full channel wakes it just as well.
            let _ = commands_tx.try_send(Command::Wake);
        }
    })
}

struct EngineThread {
    engine: Engine,
    commands_rx: mpsc::Receiver<Command>,
    abandoned: Arc<Abandoned>,
    live: FxHashMap<SequenceId, Live>,
    /// Exports whose blocks are not computed yet.
    exports: Vec<ExportCommand>,
    began: Instant,
    /// When the last simulated step ended on the simulated device.
    simulated_until: Option<Instant>,
    /// Tokens that tiers gave and no sequence has been told of.
    brought_tokens: usize,
    /// In a row.
    failed_steps: u32,
    /// Sequences taken in.
    accepted: u64,
    publish: Publish,
}

impl EngineThread {
    fn run(&mut self) {
        while self.take_commands() {
            self.publish.feed.pulse().begin_step();
            self.abort_abandoned();
            self.onboard();
            let outputs = self.step();
            self.answer_exports();
            // First: who is told of a token finds blocks and load up to date.
            self.publish();
            self.deliver(outputs);
            self.publish
                .feed
                .pulse()
                .end_step(self.engine.rates().longest_step());
        }
        self.abort_abandoned();
        self.publish();
    }

    /// Applies all commands that are there; waits for one if nothing else is to
    /// do. False if there is nobody left to send one.
    fn take_commands(&mut self) -> bool {
        if !self.engine.has_work() && self.abandoned.is_empty() {
            self.simulated_until = None;
            match self.commands_rx.blocking_recv() {
                Some(command) => self.apply(command),
                None => return false,
            }
        }
        loop {
            match self.commands_rx.try_recv() {
                Ok(command) => self.apply(command),
                Err(mpsc::error::TryRecvError::Empty) => return true,
                Err(mpsc::error::TryRecvError::Disconnected) => return false,
            }
        }
    }

    fn apply(&mut self, command: Command) {
        // A caller that has gone away needs no answer.
        match command {
            Command::Wake => {}
            Command::Add {
                request,
                events_tx,
                done,
            } => {
                let id = request.id;
                if done.send(self.add(*request, events_tx)).is_err() {
                    self.abort(id);
                }
            }
            Command::Export(export) => self.exports.push(export),
            Command::Import {
                id,
                first_block,
                blocks,
                done,
            } => {
                let imported = self.engine.import(id, first_block, &blocks);
                let _ = done.send(imported.map_err(handle::import_failure));
            }
            Command::ImportDone {
                id,
                first_token,
                done,
            } => {
                let _ = done.send(self.import_done(id, first_token));
            }
            Command::ImportFailed { id } => self.import_failed(id),
        }
    }

    fn add(
        &mut self,
        request: Request,
        events_tx: mpsc::Sender<Result<Event, Failure>>,
    ) -> Result<u64, Failure> {
        let now = self.began.elapsed();
        let id = request.id;
        let live = Live::new(events_tx, request.tokens.len(), now);
        self.engine
            .add(request, now)
            .map_err(handle::rejection_failure)?;
        self.live.insert(id, live);
        self.accepted += 1;
        Ok(self.accepted)
    }

    fn import_done(&mut self, id: SequenceId, first_token: Option<Sampled>) -> Result<(), Failure> {
        let outputs = self
            .engine
            .import_done(id, first_token)
            .map_err(handle::import_failure)?;
        self.deliver(outputs);
        Ok(())
    }

    fn import_failed(&mut self, id: SequenceId) {
        let now = self.began.elapsed();
        self.engine.import_failed(id);
        if let Some(live) = self.live.get_mut(&id) {
            live.compute(now);
        }
    }

    fn abort_abandoned(&mut self) {
        for id in self.abandoned.take() {
            self.abort(id);
        }
    }

    fn abort(&mut self, id: SequenceId) {
        self.engine.abort(id);
        self.remove(id);
    }

    fn remove(&mut self, id: SequenceId) -> Option<Live> {
        let live = self.live.remove(&id)?;
        let times = live.times(self.began.elapsed());
        self.publish.metrics.record_times(&times);
        Some(live)
    }

    /// Brings in blocks that tiers have given.
    fn onboard(&mut self) {
        let begun = Instant::now();
        let onboarded = self.engine.onboard();
        self.engine.record_onboard(onboarded, begun.elapsed());
        self.brought_tokens += onboarded.blocks * self.engine.shape().block_size;
    }

    /// Runs one step, if there is anything to do.
    fn step(&mut self) -> Vec<Output> {
        if !self.engine.has_work() {
            return Vec::new();
        }
        let begun = Instant::now();
        match self.engine.step(begun - self.began) {
            Ok(report) => self.finish_step(begun, report),
            Err(error) => self.fail_step(error),
        }
    }

    fn finish_step(&mut self, begun: Instant, report: StepReport) -> Vec<Output> {
        let time = self.wait_out(begun, report.simulated);
        let step = self.engine.record(&report, time);
        if report.sequences > 0 {
            self.publish.metrics.count_step(step);
            if std::mem::take(&mut self.failed_steps) >= FAILED_STEPS {
                self.set_not_ready(false);
            }
        }
        let given = self.brought_tokens.min(report.cached_tokens);
        self.brought_tokens -= given;
        let metrics = &self.publish.metrics;
        metrics.count_device_hits(report.cached_tokens - given);
        metrics.count_preemptions(report.preempted);
        report.outputs
    }

    fn fail_step(&mut self, error: StepError) -> Vec<Output> {
        tracing::error!(%error, "engine step failed");
        self.failed_steps = self.failed_steps.saturating_add(1);
        if self.failed_steps >= FAILED_STEPS {
            self.set_not_ready(true);
        }
        for id in error.lost {
            if let Some(live) = self.remove(id) {
                live.fail(format!("the engine failed: {}", error.source));
            }
        }
        error.outputs
    }

    fn set_not_ready(&self, not_ready: bool) {
        let feed = &self.publish.feed;
        feed.update_status(|status| status.not_ready = not_ready);
    }

    /// How long the step took, after sleeping through what was only simulated.
    fn wait_out(&mut self, begun: Instant, simulated: Option<Duration>) -> Duration {
        let Some(simulated) = simulated else {
            return begun.elapsed();
        };
        // A late wake-up shortens the next sleep: the device keeps its pace.
        let from = match self.simulated_until {
            Some(until) if begun.saturating_duration_since(until) <= MAX_LAG => until,
            _ => begun,
        };
        let until = from + simulated;
        self.simulated_until = Some(until);
        std::thread::sleep(until.saturating_duration_since(Instant::now()));
        simulated
    }

    fn deliver(&mut self, outputs: Vec<Output>) {
        let now = self.began.elapsed();
        let is_new = |id| self.live.get(&id).is_some_and(Live::awaits_first_token);
        for output in live::first_tokens_first(outputs, is_new) {
            let id = output.id();
            // An aborted sequence may still be told of by the step it was in.
            let Some(live) = self.live.get_mut(&id) else {
                continue;
            };
            let ended = matches!(output, Output::Finished { .. } | Output::Failed { .. });
            let heard = live.tell(output, now, &self.publish.metrics);
            if ended {
                self.live.remove(&id);
            } else if !heard {
                self.abandoned.add(id);
            }
        }
    }

    fn answer_exports(&mut self) {
        for export in std::mem::take(&mut self.exports) {
            if export.done.is_closed() {
                continue;
            }
            let exported = match self
                .engine
                .export(export.id, export.from_block, export.max_bytes)
            {
                Export::NotYet => {
                    self.exports.push(export);
                    continue;
                }
                Export::Blocks { blocks, done, .. } => Ok(Some(Exported { blocks, done })),
                Export::Gone => Ok(None),
                Export::Failed(error) => {
                    Err(Failure::new(ErrorCode::EngineFailed, error.to_string()))
                }
            };
            let _ = export.done.send(exported);
        }
    }

    fn publish(&mut self) {
        self.publish.feed.publish(self.engine.drain_events());
        let (engine, rates) = (self.engine.status(), self.engine.rates());
        self.publish.feed.update_status(|status| {
            status.accepted_sequences = self.accepted;
            status.waiting_sequences = engine.waiting;
            status.running_sequences = engine.running + engine.receiving + engine.onboarding;
            status.queued_prefill_tokens = engine.queued_prefill_tokens;
            status.total_blocks = engine.total_blocks;
            status.free_blocks = engine.free_blocks;
            status.cached_blocks = engine.cached_blocks;
            status.prefill_tokens_per_second = rates.prefill_tokens_per_second();
            status.drain_tokens_per_second = rates.drain_tokens_per_second();
            status.decode_step_ms = rates.decode_step_ms();
            status.inter_token_ms = rates.inter_token_ms();
        });
        let metrics = &self.publish.metrics;
        metrics.set_load(&self.publish.feed.status());
        for (_, status) in self.engine.tiers() {
            if let Some(host) = metrics.host_tier() {
                host.set_blocks(status);
            }
        }
    }
}
