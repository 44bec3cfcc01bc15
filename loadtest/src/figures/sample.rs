//! The latencies of one request.

use std::time::Duration;

use serde::Deserialize;
use serde::de::IntoDeserializer;
use serde::de::value::StrDeserializer;

use crate::record::{Outcome, Record};

/// What one request adds to the figures; `None`: there was nothing to measure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    pub queueing: Option<Duration>,
    pub ttft: Option<Duration>,
    pub tpot: Option<Duration>,
    pub e2e: Option<Duration>,
    /// As the server counts them, but no fewer than came.
    pub output_tokens: u64,
    /// As the chunks tell.
    pub seen_tokens: u64,
}

impl Sample {
    pub fn of(record: &Record) -> Sample {
        let since = |at: Duration| at.saturating_sub(record.scheduled);
        let answered = is_answered(&record.outcome);
        let seen_tokens: u64 = record.chunks.iter().map(|it| u64::from(it.tokens)).sum();
        let told = record.usage.map(|it| u64::from(it.completion_tokens));
        let output_tokens = told.unwrap_or(0).max(seen_tokens);
        Sample {
            queueing: (record.outcome != Outcome::Connect).then(|| since(record.sent)),
            ttft: record.chunks.first().map(|it| since(it.at)),
            tpot: time_per_token(record, output_tokens).filter(|_| answered),
            e2e: answered.then(|| since(record.ended)),
            output_tokens,
            seen_tokens,
        }
    }
}

/// Time from first to last chunk by the tokens that came after the first chunk.
fn time_per_token(record: &Record, output_tokens: u64) -> Option<Duration> {
    let first = record.chunks.first()?;
    let last = record.chunks.last()?;
    let later = output_tokens.checked_sub(u64::from(first.tokens))?;
    if later == 0 || record.chunks.len() < 2 {
        return None;
    }
    Some(last.at.saturating_sub(first.at).div_f64(later as f64))
}

/// Every gap between two chunks: when it ended, its length, and the tokens that
/// ended it (at least 1).
pub fn token_gaps(record: &Record) -> impl Iterator<Item = (Duration, Duration, u32)> + '_ {
    record.chunks.windows(2).map(|pair| {
        let gap = pair[1].at.saturating_sub(pair[0].at);
        (pair[1].at, gap, pair[1].tokens.max(1))
    })
}

/// Whether the answer came to its end in order, be it of the right length or
/// not.
pub fn is_answered(outcome: &Outcome) -> bool {
    matches!(
        outcome,
        Outcome::Complete | Outcome::WrongTokenCount | Outcome::Truncated
    )
}

/// An outcome in one word, such as `complete` or `status_503`.
pub fn kind(outcome: &Outcome) -> String {
    let name = match outcome {
        Outcome::Status(status) => return format!("status_{status}"),
        Outcome::Complete => "complete",
        Outcome::WrongTokenCount => "wrong_token_count",
        Outcome::Truncated => "truncated",
        Outcome::ErrorEvent => "error_event",
        Outcome::CutStream => "cut_stream",
        Outcome::Connect => "connect",
        Outcome::Disconnected => "disconnected",
        Outcome::Timeout => "timeout",
        Outcome::Malformed => "malformed",
        Outcome::Unfinished => "unfinished",
    };
    name.to_owned()
}

/// The outcome that a [`kind`] names.
pub fn outcome_of_kind(kind: &str) -> Option<Outcome> {
    if let Some(status) = kind.strip_prefix("status_") {
        return status.parse().ok().map(Outcome::Status);
    }
    let name: StrDeserializer<'_, serde::de::value::Error> = kind.into_deserializer();
    Outcome::deserialize(name).ok()
}
