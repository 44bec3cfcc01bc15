//! A row for each request, all times in milliseconds.

use std::io::{self, Write};
use std::time::Duration;

use crate::figures::{Sample, kind, token_gaps};
use crate::record::Record;

/// A column's name and a request's text in it.
type Column = (&'static str, fn(&Record, &Sample) -> String);

/// RFC 4180; an empty field is an unknown. Warm-up is in it, and marked.
pub fn csv(records: &[Record], to: &mut dyn Write) -> io::Result<()> {
    let names = COLUMNS.map(|it| it.0);
    writeln!(to, "{}", names.join(","))?;
    for record in records {
        let sample = Sample::of(record);
        let cells = COLUMNS.map(|(_, text)| quoted(text(record, &sample)));
        writeln!(to, "{}", cells.join(","))?;
    }
    Ok(())
}

const COLUMNS: [Column; 24] = [
    ("number", |it, _| it.number.to_string()),
    ("warm_up", |it, _| it.warm_up.to_string()),
    ("outcome", |it, _| kind(&it.outcome)),
    ("tenant", |it, _| shown(&it.tenant)),
    ("priority", |it, _| shown(&it.priority)),
    ("conversation", |it, _| shown(&it.turn.map(|turn| turn.0))),
    ("turn", |it, _| shown(&it.turn.map(|turn| turn.1))),
    ("prefill_worker", |it, _| shown(&it.prefill_worker)),
    ("decode_worker", |it, _| shown(&it.decode_worker)),
    ("scheduled_ms", |it, _| ms(it.scheduled)),
    ("sent_ms", |it, _| ms(it.sent)),
    ("ended_ms", |it, _| ms(it.ended)),
    ("queueing_ms", |_, sample| maybe_ms(sample.queueing)),
    ("ttft_ms", |_, sample| maybe_ms(sample.ttft)),
    ("tpot_ms", |_, sample| maybe_ms(sample.tpot)),
    ("gap_max_ms", |it, _| maybe_ms(longest_gap(it))),
    ("e2e_ms", |_, sample| maybe_ms(sample.e2e)),
    ("chunks", |it, _| it.chunks.len().to_string()),
    ("output_tokens", |_, it| it.output_tokens.to_string()),
    ("expected_output", |it, _| shown(&it.expected_output)),
    ("prompt_tokens", |it, _| {
        shown(&it.usage.map(|usage| usage.prompt_tokens))
    }),
    ("completion_tokens", |it, _| {
        shown(&it.usage.map(|usage| usage.completion_tokens))
    }),
    ("cached_tokens", |it, _| {
        shown(&it.usage.and_then(|usage| usage.cached_tokens))
    }),
    ("chunk_times_ms", |it, _| chunk_times(it)),
];

fn shown<T: ToString>(value: &Option<T>) -> String {
    value.as_ref().map(T::to_string).unwrap_or_default()
}

fn ms(time: Duration) -> String {
    let us = time.as_micros();
    format!("{}.{:03}", us / 1000, us % 1000)
}

fn maybe_ms(time: Option<Duration>) -> String {
    time.map(ms).unwrap_or_default()
}

fn longest_gap(record: &Record) -> Option<Duration> {
    token_gaps(record).map(|it| it.1).max()
}

/// From the start of the run, separated by spaces.
fn chunk_times(record: &Record) -> String {
    let times: Vec<_> = record.chunks.iter().map(|it| ms(it.at)).collect();
    times.join(" ")
}

fn quoted(text: String) -> String {
    if text.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text
    }
}
