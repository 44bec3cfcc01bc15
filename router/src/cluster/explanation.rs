//! Why workers were chosen, for the people who ask.

use serde::Serialize;

use super::state::State;
use crate::plan::cost::{self, PlanOption};
use crate::plan::{Ask, Choice};

/// Why workers were chosen, as `/explain` and, cut, the header
/// `x-kvasir-explain` show it.
#[derive(Clone, Debug, Serialize)]
pub struct Explanation {
    pub decode: String,
    pub prefill: Option<String>,
    pub reason: String,
    pub prompt_tokens: usize,
    /// The workers that could take the sequence.
    pub considered: Vec<ExplainedWorker>,
    /// Ways to place it, cheapest first; milliseconds.
    pub options: Vec<ExplainedOption>,
}

#[derive(Clone, Debug, Serialize)]
pub struct ExplainedWorker {
    pub worker: String,
    pub role: &'static str,
    pub cached_tokens: usize,
    pub queued_tokens: u32,
    pub sequences: u32,
    pub free_blocks: u32,
}

#[derive(Clone, Debug, Serialize)]
pub struct ExplainedOption {
    pub decode: String,
    pub prefill: Option<String>,
    pub cost_ms: f64,
    pub queue_ms: f64,
    pub prefill_ms: f64,
    pub transfer_ms: f64,
    pub decode_ms: f64,
    pub stream_ms: f64,
    pub role_ms: f64,
    pub objectives_ms: f64,
    pub others_ms: f64,
    pub memory_ms: f64,
}

/// Most workers and options in a response header.
const EXPLAINED: usize = 12;

impl Explanation {
    /// Of `choice` among the candidates that `state` last weighed.
    pub(super) fn new(ask: &Ask<'_>, choice: Choice, state: &State) -> Explanation {
        let candidates = state.weighed();
        let name = |at: usize| state.name_of(candidates[at].worker).to_owned();
        let options = cost::options(ask, candidates, choice);
        Explanation {
            decode: name(choice.decode),
            prefill: choice.prefill.map(name),
            reason: format!(
                "chosen by policy {} of {} options over {} workers: {} of {} prompt tokens are \
                 cached",
                state.policy(),
                options.len(),
                candidates.len(),
                options[0].cached_tokens,
                ask.prompt_tokens,
            ),
            prompt_tokens: ask.prompt_tokens,
            considered: candidates
                .iter()
                .map(|candidate| ExplainedWorker {
                    worker: state.name_of(candidate.worker).to_owned(),
                    role: candidate.role.as_str(),
                    cached_tokens: candidate.cached_tokens,
                    queued_tokens: candidate.load.queued_tokens,
                    sequences: candidate.load.sequences,
                    free_blocks: candidate.load.free_blocks,
                })
                .collect(),
            options: options
                .iter()
                .map(|option| ExplainedOption::new(option, name))
                .collect(),
        }
    }

    /// The first workers and options.
    pub(super) fn cut_for_header(mut self) -> Explanation {
        self.considered.truncate(EXPLAINED);
        self.options.truncate(EXPLAINED);
        self
    }
}

impl ExplainedOption {
    fn new(option: &PlanOption, name: impl Fn(usize) -> String) -> ExplainedOption {
        let rounded = |ms: f64| (ms * 1000.0).round() / 1000.0;
        ExplainedOption {
            decode: name(option.choice.decode),
            prefill: option.choice.prefill.map(&name),
            cost_ms: rounded(option.cost.total()),
            queue_ms: rounded(option.cost.queue),
            prefill_ms: rounded(option.cost.prefill),
            transfer_ms: rounded(option.cost.transfer),
            decode_ms: rounded(option.cost.decode),
            stream_ms: rounded(option.cost.stream),
            role_ms: rounded(option.cost.role),
            objectives_ms: rounded(option.cost.objectives),
            others_ms: rounded(option.cost.others),
            memory_ms: rounded(option.cost.memory),
        }
    }
}
