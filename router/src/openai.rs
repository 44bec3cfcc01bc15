//! OpenAI's HTTP API as types: requests, read and checked so that bad input
//! ends here with the API's own error, and the objects that answer them. vLLM's
//! extensions are understood; what no worker can do is refused by name, and
//! fields that change nothing are ignored.

mod body;
mod chat;
mod completion;
mod embedding;
mod field;
mod message;
mod response;
mod structured;
mod tools;
mod urgency;

use serde::{Deserialize, Serialize};

pub use chat::ChatRequest;
pub use completion::CompletionRequest;
pub use embedding::EmbeddingRequest;
pub(crate) use response::{
    CallDelta, ChatChoice, ChatChunkChoice, ChatLogprobs, Delta, EmbeddingList, EmbeddingObject,
    EmbeddingUsage, ErrorBody, ErrorObject, FunctionDelta, ModelList, ModelObject, ResponseMessage,
    TextChoice, TextLogprobs, TokenLogprob, TopLogprob, TopLogprobMap, UsageObject, Vector,
};

/// How large a request may be.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// A token is about 4 bytes of text, and up to 8 as a number.
    pub max_body_bytes: usize,
    /// Prompts times `n`.
    pub max_sequences: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            max_body_bytes: 16 << 20,
            max_sequences: 1024,
        }
    }
}

#[cfg(test)]
mod tests;
