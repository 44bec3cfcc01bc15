//! Why there is no workload: each is one line that says what to do.

use std::io;

#[derive(Debug, thiserror::Error)]
pub enum WorkloadError {
    #[error("{path}: cannot be read: {source}")]
    Read {
        path: String,
        #[source]
        source: io::Error,
    },
    #[error("{path}:{line}: {reason}; expected is {expected}")]
    Line {
        path: String,
        /// From 1.
        line: u64,
        reason: String,
        expected: &'static str,
    },
    #[error("{path}: there is no request in it{hint}")]
    Empty { path: String, hint: &'static str },
    #[error("--tokenizer {path}: {reason}")]
    Tokenizer { path: String, reason: String },
    #[error("{0}")]
    Invalid(String),
}
