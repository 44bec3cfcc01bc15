//! The engine: schedule, run, postprocess.
//!
//! Continuous batching over paged KV blocks with chunked prefill, prefix
//! caching, preemption, and hand-over of KV between workers. Pure: no thread,
//! no clock, no IO; time is an argument and the device is behind [`Runner`], so
//! that serving, tests and the cluster simulator run this very code.

pub mod block_pool;
pub mod constraint;
mod engine;
pub mod error;
#[cfg(test)]
mod fixtures;
pub mod handover;
mod onboard;
mod pace;
mod pool;
mod rates;
pub mod request;
pub mod runner;
pub mod sampling;
mod schedule;
mod sequence;
pub mod sim;
pub mod tier;
mod tiers;

pub use constraint::{Constraint, TokenMask, Violation};
pub use engine::{Engine, EngineStatus, StepReport};
pub use error::{ImportError, Rejected, StepError};
pub use handover::Export;
pub use onboard::Onboarded;
pub use pace::TargetStep;
pub use rates::{Rates, StepTime};
pub use request::{
    Finish, KvSource, Output, Pooling, Purpose, Request, Sampled, SamplingParams, SequenceId,
    TokenRules, TopLogprob,
};
pub use runner::{BlockId, Chunk, KvShape, RunError, Runner, RunnerShape, Step, StepResult};
pub use sampling::{History, sample, sample_within, score};
pub use schedule::EngineConfig;
pub use sim::{SimConfig, SimRunner};
pub use tier::{Fetch, Fetched, KvTier, TierStatus};
