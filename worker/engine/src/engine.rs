//! The engine proper: sequences in, steps, outputs out.

mod admission;

use std::iter;
use std::time::Duration;

use kvcache_index::KvEvent;
use rustc_hash::FxHashMap;

use crate::block_pool::{BlockPool, Content};
use crate::constraint::Violation;
use crate::error::{Rejected, StepError};
use crate::rates::{Rates, StepTime};
use crate::request::{Finish, Output, Purpose, Request, Sampled, SequenceId};
use crate::runner::{RunError, Runner, RunnerShape, StepResult};
use crate::schedule::{EngineConfig, Plan, PlannedChunk, Scheduler};
use crate::sequence::{Sequence, State};

/// Runs sequences on a [`Runner`]. Each sequence ends with
/// [`Output::Finished`], with being lost in a [`StepError`], or with
/// [`Engine::abort`]; its blocks are free from then on.
pub struct Engine {
    pub(crate) scheduler: Scheduler,
    pub(crate) runner: Box<dyn Runner>,
    /// To be told with the next step.
    pending: Vec<Output>,
    /// The last step could do nothing, and nothing has changed since.
    stalled: bool,
}

/// What a step did.
#[derive(Debug, Default)]
pub struct StepReport {
    /// In the order in which things happened.
    pub outputs: Vec<Output>,
    /// How long the step takes on a simulated device.
    pub simulated: Option<Duration>,
    /// Tokens computed of prompts, and again of preempted sequences.
    pub prefill_tokens: usize,
    /// Tokens computed to draw the next one after them.
    pub decode_tokens: usize,
    /// Sequences in the step.
    pub sequences: usize,
    /// Sequences that had to yield their blocks to others.
    pub preempted: usize,
    /// Tokens of sequences let in that were cached.
    pub cached_tokens: usize,
    /// Sequences that were not let in.
    pub left_waiting: usize,
    /// How long the first in the queue has waited.
    pub longest_wait: Duration,
}

/// The engine's load.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EngineStatus {
    pub waiting: usize,
    /// Sequences that take part in steps.
    pub running: usize,
    /// Sequences that wait for imported KV.
    pub receiving: usize,
    /// Sequences that wait for KV from a slower tier.
    pub onboarding: usize,
    /// Handed-over sequences that keep their blocks.
    pub held: usize,
    /// Prompt tokens to compute, and tokens to recompute after preemption, of
    /// waiting and running sequences.
    pub queued_prefill_tokens: usize,
    pub total_blocks: usize,
    /// Blocks no sequence holds, cached ones among them.
    pub free_blocks: usize,
    /// Blocks with cached content, whether a sequence holds them or not.
    pub cached_blocks: usize,
    /// Preemptions since the engine began.
    pub preemptions: u64,
}

impl Engine {
    pub fn new(config: EngineConfig, runner: Box<dyn Runner>) -> Engine {
        let shape = runner.shape();
        let pool = BlockPool::new(shape.total_blocks, shape.block_size);
        Engine {
            scheduler: Scheduler::new(config, pool),
            runner,
            pending: Vec::new(),
            stalled: false,
        }
    }

    pub fn shape(&self) -> &RunnerShape {
        self.runner.shape()
    }

    /// As it is in effect.
    pub fn config(&self) -> &EngineConfig {
        self.scheduler.config()
    }

    /// Most tokens of one sequence, prompt and completion together: what the
    /// model takes and the pool holds.
    pub fn max_model_len(&self) -> usize {
        let pool = &self.scheduler.pool;
        let held = pool.total() * pool.block_size();
        self.shape().max_model_len.min(held)
    }

    /// Queues a request. `now` is measured from an origin of the caller's
    /// choice, the same for all calls.
    pub fn add(&mut self, request: Request, now: Duration) -> Result<(), Rejected> {
        self.check(&request)?;
        let sequence = Sequence::new(request, self.max_model_len(), now);
        match sequence.finish(&self.shape().eos_token_ids) {
            // Another worker drew its last token, but did not live to say so.
            Some(reason) => self.pending.extend([
                Output::Started {
                    id: sequence.id,
                    cached_tokens: 0,
                },
                Output::Finished {
                    id: sequence.id,
                    reason,
                },
            ]),
            None => self.scheduler.add(sequence),
        }
        self.stalled = false;
        Ok(())
    }

    /// Ends a sequence, whatever it is doing, and frees its blocks; releases a
    /// handed-over one. Nothing is told of it after this.
    pub fn abort(&mut self, id: SequenceId) {
        self.pending.retain(|output| output.id() != id);
        self.scheduler.remove(id);
        self.stalled = false;
    }

    /// Whether [`Engine::step`] has something to do. False also while sequences
    /// wait for blocks that only an import, an abort or a release can free.
    pub fn has_work(&self) -> bool {
        let waits = self.scheduler.count(State::Waiting) > 0 && !self.stalled;
        waits
            || self.scheduler.tiers.is_ready()
            || self.scheduler.count(State::Running) > 0
            || !self.pending.is_empty()
    }

    /// Computes one step.
    pub fn step(&mut self, now: Duration) -> Result<StepReport, StepError> {
        let plan = self.scheduler.schedule(now);
        self.offload_evicted();
        let result = self.run(&plan);
        self.postprocess(plan, result)
    }

    /// How long the step of `report` took: the engine learns its rates from it.
    pub fn record(&mut self, report: &StepReport, time: Duration) -> StepTime {
        let step = StepTime {
            prefill_tokens: report.prefill_tokens,
            decode_tokens: report.decode_tokens,
            cached_tokens: report.cached_tokens,
            left_waiting: report.left_waiting,
            time,
        };
        if report.sequences > 0 {
            self.scheduler.record(step);
        }
        step
    }

    /// How fast it is, as far as [`Engine::record`] was told.
    pub fn rates(&self) -> &Rates {
        self.scheduler.rates()
    }

    /// Takes the changes of cached blocks since the last call, in order.
    pub fn drain_events(&mut self) -> Vec<KvEvent> {
        let mut events = self.scheduler.pool.drain_events();
        events.extend(self.scheduler.tiers.drain_events());
        events
    }

    /// All cached blocks now, in no order: what all events together come to.
    pub fn cached_content(&self) -> impl Iterator<Item = Content> + '_ {
        self.scheduler.pool.content()
    }

    /// Takes time linear in the number of sequences.
    pub fn status(&self) -> EngineStatus {
        let pool = &self.scheduler.pool;
        EngineStatus {
            waiting: self.scheduler.count(State::Waiting),
            running: self.scheduler.count(State::Running),
            receiving: self.scheduler.count(State::Receiving),
            onboarding: self.scheduler.count(State::Onboarding),
            held: self.held(),
            queued_prefill_tokens: self.scheduler.queued_prefill_tokens(),
            total_blocks: pool.total(),
            free_blocks: pool.free(),
            cached_blocks: pool.cached(),
            preemptions: self.scheduler.preemptions(),
        }
    }

    fn run(&mut self, plan: &Plan) -> Result<StepResult, RunError> {
        if plan.chunks.is_empty() {
            return Ok(StepResult::default());
        }
        for copy in &plan.copies {
            self.runner.copy_block(copy.from, copy.to)?;
        }
        let result = self.runner.run(&self.scheduler.chunks(plan))?;
        check_result(plan, &result)?;
        Ok(result)
    }

    fn postprocess(
        &mut self,
        plan: Plan,
        result: Result<StepResult, RunError>,
    ) -> Result<StepReport, StepError> {
        let mut outputs = std::mem::take(&mut self.pending);
        outputs.extend(plan.outputs);
        self.stalled = plan.chunks.is_empty() && plan.preempted == 0 && outputs.is_empty();
        let result = match result {
            Ok(result) => result,
            Err(source) => return Err(self.lose(&plan.chunks, source, outputs)),
        };
        let mut pooled = result.pooled.into_iter().collect::<FxHashMap<_, _>>();
        let mut violations = result.violations.into_iter().collect::<FxHashMap<_, _>>();
        let prompt_logprobs = result.prompt_logprobs.into_iter().map(Some);
        let given = result
            .sampled
            .into_iter()
            .zip(prompt_logprobs.chain(iter::repeat_with(|| None)));
        for (index, (chunk, (sampled, scored))) in plan.chunks.iter().zip(given).enumerate() {
            self.computed(chunk, scored, &mut outputs);
            if let Some(states) = pooled.remove(&index) {
                self.pool(chunk, &states);
            }
            match (sampled, violations.remove(&index)) {
                (_, Some(violation)) => self.fail(chunk.id, violation, &mut outputs),
                (Some(sampled), None) if chunk.sample => {
                    self.advance(chunk.id, sampled, &mut outputs);
                }
                _ => self.finish_scored(chunk, &mut outputs),
            }
        }
        Ok(StepReport {
            outputs,
            simulated: result.simulated,
            prefill_tokens: plan.prefill_tokens,
            decode_tokens: plan.decode_tokens,
            sequences: plan.chunks.len(),
            preempted: plan.preempted,
            cached_tokens: plan.cached_tokens,
            left_waiting: plan.left_waiting,
            longest_wait: plan.longest_wait,
        })
    }

    fn lose(
        &mut self,
        chunks: &[PlannedChunk],
        source: RunError,
        mut outputs: Vec<Output>,
    ) -> StepError {
        let lost: Vec<SequenceId> = chunks.iter().map(|chunk| chunk.id).collect();
        for id in &lost {
            self.scheduler.remove(*id);
        }
        outputs.retain(|output| !lost.contains(&output.id()));
        StepError {
            source,
            lost,
            outputs,
        }
    }

    fn computed(
        &mut self,
        chunk: &PlannedChunk,
        scored: Option<Vec<Sampled>>,
        outputs: &mut Vec<Output>,
    ) {
        let Some((sequence, pool)) = self.scheduler.get_mut(chunk.id) else {
            return;
        };
        sequence.set_computed(chunk.end, pool);
        if chunk.prompt_logprobs
            && let Some(scored) = scored
        {
            let (index, tokens) = sequence.unreported(chunk.start + 1, scored);
            outputs.push(Output::PromptLogprobs {
                id: chunk.id,
                index,
                tokens,
            });
        }
    }

    fn pool(&mut self, chunk: &PlannedChunk, states: &[f32]) {
        if let Some((sequence, _)) = self.scheduler.get_mut(chunk.id) {
            let tokens = sequence.pooled(chunk.start, chunk.end);
            if let Some(pool) = &mut sequence.pool {
                pool.add(tokens, states);
            }
        }
    }

    /// The sequence's next token was drawn, here or where its KV came from.
    pub(crate) fn advance(&mut self, id: SequenceId, sampled: Sampled, outputs: &mut Vec<Output>) {
        let eos = &self.runner.shape().eos_token_ids;
        let Some((sequence, _)) = self.scheduler.get_mut(id) else {
            return;
        };
        let index = sequence.generated();
        sequence.tokens.push(sampled.token);
        let finish = sequence.finish(eos);
        let purpose = sequence.purpose;
        outputs.push(Output::Tokens {
            id,
            index,
            tokens: vec![sampled],
        });
        match (purpose, finish) {
            (Purpose::HandOver, _) => {
                self.scheduler.move_to(id, State::HandedOver);
                outputs.push(Output::HandOver { id });
            }
            (Purpose::Generate | Purpose::Embed(_), Some(reason)) => {
                self.finish(id, reason, outputs)
            }
            (Purpose::Generate | Purpose::Embed(_), None) => {}
        }
    }

    /// Ends a sequence that draws no token once its prompt is computed.
    fn finish_scored(&mut self, chunk: &PlannedChunk, outputs: &mut Vec<Output>) {
        let Some((sequence, _)) = self.scheduler.get_mut(chunk.id) else {
            return;
        };
        if sequence.remaining() == 0 {
            if let Some(pool) = sequence.pool.take() {
                let (id, values) = (chunk.id, pool.finish());
                outputs.push(Output::Embedding { id, values });
            }
            self.finish(chunk.id, Finish::Length, outputs);
        }
    }

    fn finish(&mut self, id: SequenceId, reason: Finish, outputs: &mut Vec<Output>) {
        self.scheduler.remove(id);
        outputs.push(Output::Finished { id, reason });
    }

    fn fail(&mut self, id: SequenceId, violation: Violation, outputs: &mut Vec<Output>) {
        self.scheduler.remove(id);
        outputs.push(Output::Failed { id, violation });
    }

    /// Something changed that may let a waiting sequence in.
    pub(crate) fn wake(&mut self) {
        self.stalled = false;
    }
}

/// A runner that breaks its contract must not pass for one that finished.
fn check_result(plan: &Plan, result: &StepResult) -> Result<(), RunError> {
    let drawn = plan.chunks.iter().zip(&result.sampled).enumerate();
    let violates = |index| result.violations.iter().any(|(at, _)| *at == index);
    let missing_token = result.sampled.len() != plan.chunks.len()
        || drawn
            .into_iter()
            .any(|(index, (chunk, sampled))| chunk.sample && sampled.is_none() && !violates(index));
    if missing_token {
        return Err(RunError("the runner left out a token".to_owned()));
    }
    let wants = |chunk: &PlannedChunk| chunk.prompt_logprobs;
    match plan.chunks.iter().rposition(wants) {
        Some(last) if last >= result.prompt_logprobs.len() => {
            Err(RunError("the runner left out prompt logprobs".to_owned()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
