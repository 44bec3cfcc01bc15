//! Records as a file keeps them: microseconds, each time from the one before,
//! and nothing that goes without saying.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::figures::{kind, outcome_of_kind};
use crate::record::{Chunk, Outcome, Record, Usage};

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Row {
    number: u64,
    /// From the start of the run; the other times count from here.
    scheduled_us: u64,
    sent_us: u64,
    ended_us: u64,
    /// The first from the scheduled time, each other from the chunk before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    chunks_us: Vec<u64>,
    /// Left out if every chunk carries one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    chunk_tokens: Vec<u32>,
    outcome: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    usage: Option<Usage>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expected_output: Option<u32>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    warm_up: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tenant: Option<Arc<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    priority: Option<i32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    prefill_worker: Option<Arc<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    decode_worker: Option<Arc<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    turn: Option<(u64, u32)>,
}

impl From<&Record> for Row {
    fn from(record: &Record) -> Row {
        let scheduled_us = us(record.scheduled);
        let since = |at: Duration| us(at).saturating_sub(scheduled_us);
        let mut before = scheduled_us;
        let mut gap = |chunk: &Chunk| {
            let at = us(chunk.at).max(before);
            at - std::mem::replace(&mut before, at)
        };
        let tokens = record.chunks.iter().map(|it| it.tokens);
        let single = tokens.clone().all(|it| it == 1);
        Row {
            number: record.number,
            scheduled_us,
            sent_us: since(record.sent),
            ended_us: since(record.ended),
            chunks_us: record.chunks.iter().map(&mut gap).collect(),
            chunk_tokens: tokens.filter(|_| !single).collect(),
            outcome: kind(&record.outcome),
            usage: record.usage,
            expected_output: record.expected_output,
            warm_up: record.warm_up,
            tenant: record.tenant.clone(),
            priority: record.priority,
            prefill_worker: record.prefill_worker.clone(),
            decode_worker: record.decode_worker.clone(),
            turn: record.turn,
        }
    }
}

impl Row {
    /// What is wrong with the row, if it is no record.
    pub(super) fn record(self) -> Result<Record, String> {
        let outcome = self.outcome()?;
        let chunks = self.chunks()?;
        let at = |us: u64| Duration::from_micros(self.scheduled_us.saturating_add(us));
        Ok(Record {
            number: self.number,
            scheduled: at(0),
            sent: at(self.sent_us),
            chunks,
            ended: at(self.ended_us),
            outcome,
            usage: self.usage,
            expected_output: self.expected_output,
            warm_up: self.warm_up,
            tenant: self.tenant,
            priority: self.priority,
            prefill_worker: self.prefill_worker,
            decode_worker: self.decode_worker,
            turn: self.turn,
        })
    }

    fn outcome(&self) -> Result<Outcome, String> {
        outcome_of_kind(&self.outcome).ok_or_else(|| format!("no outcome {:?}", self.outcome))
    }

    fn chunks(&self) -> Result<Vec<Chunk>, String> {
        let (gaps, tokens) = (self.chunks_us.len(), self.chunk_tokens.len());
        if tokens != 0 && tokens != gaps {
            return Err(format!("{gaps} chunks_us, but {tokens} chunk_tokens"));
        }
        let tokens = self.chunk_tokens.iter().copied();
        let tokens = tokens.chain(std::iter::repeat(1));
        let mut at = self.scheduled_us;
        let chunk = |(gap, tokens): (&u64, u32)| {
            at = at.saturating_add(*gap);
            Chunk {
                at: Duration::from_micros(at),
                tokens,
            }
        };
        Ok(self.chunks_us.iter().zip(tokens).map(chunk).collect())
    }
}

fn us(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
