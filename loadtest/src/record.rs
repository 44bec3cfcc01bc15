//! What happened to one request. Every time is measured from the start of the
//! run; latencies count from the scheduled time, so that a generator or server
//! that stalls cannot hide it (coordinated omission, Tene 2013).

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// [`crate::planned::PlannedRequest::number`].
    pub number: u64,
    /// When it was to be sent.
    pub scheduled: Duration,
    /// When its first byte was handed to the kernel.
    pub sent: Duration,
    /// Arrival and tokens of every chunk with output, in order. A server that
    /// sends several tokens in a chunk shows here.
    pub chunks: Vec<Chunk>,
    /// When the answer was complete, or failed.
    pub ended: Duration,
    pub outcome: Outcome,
    /// As the server counts them; `None` if it does not tell.
    pub usage: Option<Usage>,
    /// Output tokens asked for, if an exact number was.
    pub expected_output: Option<u32>,
    /// Within the warm-up: left out of the figures, and said so.
    pub warm_up: bool,
    pub tenant: Option<Arc<str>>,
    pub priority: Option<i32>,
    /// Workers that served it, if the server says which.
    pub prefill_worker: Option<Arc<str>>,
    pub decode_worker: Option<Arc<str>>,
    /// Conversation and turn.
    pub turn: Option<(u64, u32)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chunk {
    pub at: Duration,
    /// 1 unless the server tells otherwise.
    pub tokens: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    pub prompt_tokens: u32,
    pub completion_tokens: u32,
    pub cached_tokens: Option<u32>,
}

/// How a request ended. Nothing is dropped: what is not `Complete` is counted
/// by its kind.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// All of it came, with the number of tokens asked for.
    Complete,
    /// All of it came, with another number of tokens than asked for.
    WrongTokenCount,
    /// It ended in order, but sooner than the length asked for allowed.
    Truncated,
    /// An HTTP status other than 200.
    Status(u16),
    /// The stream carried an error.
    ErrorEvent,
    /// The stream ended without its end mark.
    CutStream,
    /// No connection could be made.
    Connect,
    /// The connection broke before the answer began.
    Disconnected,
    Timeout,
    /// What came is not what the API promises.
    Malformed,
    /// Still running when the run was ended.
    Unfinished,
}
