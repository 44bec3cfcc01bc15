//! What is to be sent: the vocabulary between workloads and the generator.

use std::sync::Arc;
use std::time::Duration;

/// One request, ready to be sent.
#[derive(Clone, Debug, PartialEq)]
pub struct PlannedRequest {
    /// Counts the requests of a run, from 0.
    pub number: u64,
    /// When it was recorded, from the start of the trace and after time
    /// scaling; `None`: the arrival process says when.
    pub recorded_at: Option<Duration>,
    /// The turn of a conversation it is.
    pub turn: Option<Turn>,
    pub prompt: Prompt,
    /// Tokens of the prompt, if the workload made it of a known number.
    pub prompt_tokens: Option<u32>,
    pub output: Output,
    /// Sent as the API key's owner or a header, and used to break figures down.
    pub tenant: Option<Arc<str>>,
    pub priority: Option<i32>,
}

/// A turn of a conversation whose next turn needs this one's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    pub conversation: u64,
    /// From 0.
    pub number: u32,
    /// Between the answer to the turn before and this request.
    pub think: Duration,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Prompt {
    /// To /v1/chat/completions.
    Chat(Vec<ChatMessage>),
    /// To /v1/completions.
    Text(String),
    /// To /v1/completions.
    Tokens(Vec<u32>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChatMessage {
    pub role: &'static str,
    pub content: String,
}

/// How long the answer is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Output {
    pub max_tokens: u32,
    /// The server is asked for exactly so many (`ignore_eos`, `min_tokens`, as
    /// vLLM and Kvasir know them), and another number is counted as wrong.
    pub exact: bool,
}

/// A source of requests. Deterministic by its seed.
pub trait Workload: Send {
    /// The next request that depends on no answer; `None`: there is no more.
    fn next(&mut self) -> Option<PlannedRequest>;

    /// The next turn of a conversation, once `answer` came to the turn before;
    /// `None`: it is over.
    fn next_turn(&mut self, after: Turn, answer: &str) -> Option<PlannedRequest>;

    /// Requests in all, turns counted, if known.
    fn len_hint(&self) -> Option<u64>;

    /// A turn of this conversation failed, so that the next will not be asked
    /// for.
    fn abandon(&mut self, _conversation: u64) {}

    /// What a report must say of the requests: rows left out, lengths that are
    /// estimates. One sentence each; complete once the last request is made.
    fn caveats(&self) -> Vec<String> {
        Vec::new()
    }
}
