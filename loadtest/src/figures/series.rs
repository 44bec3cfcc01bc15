//! The run over time, warm-up included, in intervals of one width.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::quantiles::{Quantiles, Times};
use super::sample::{Sample, is_answered, token_gaps};
use crate::record::Record;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Series {
    /// Width of an interval.
    pub interval_s: f64,
    /// When the first counted request was scheduled, if a warm-up came before.
    pub warm_up_until_s: Option<f64>,
    /// Without gaps, from the start of the run.
    pub intervals: Vec<Interval>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// Requests scheduled in it, and such as were answered or failed in it.
    pub scheduled: u64,
    pub answered: u64,
    pub failed: u64,
    /// That came in it.
    pub output_tokens: u64,
    /// Milliseconds; of requests scheduled in it.
    pub ttft: Quantiles,
    /// Of tokens that came in it.
    pub itl: Quantiles,
    /// Of requests scheduled in it.
    pub e2e: Quantiles,
}

/// Doubles its intervals' width as the run grows, so that the length of a run
/// need not be known and memory stays bounded.
#[derive(Debug)]
pub(super) struct SeriesTally {
    width: Duration,
    intervals: Vec<IntervalTally>,
}

#[derive(Debug, Default)]
struct IntervalTally {
    scheduled: u64,
    answered: u64,
    failed: u64,
    /// A fraction where a chunk's tokens are known only on average.
    output_tokens: f64,
    ttft: Times,
    itl: Times,
    e2e: Times,
}

const FIRST_WIDTH: Duration = Duration::from_millis(250);

/// As many points as a plot can show apart.
const MOST_INTERVALS: usize = 128;

impl Default for SeriesTally {
    fn default() -> Self {
        SeriesTally {
            width: FIRST_WIDTH,
            intervals: Vec::new(),
        }
    }
}

impl SeriesTally {
    pub(super) fn add(&mut self, record: &Record, sample: &Sample) {
        let begun = self.at(record.scheduled);
        begun.scheduled += 1;
        sample.ttft.into_iter().for_each(|it| begun.ttft.record(it));
        sample.e2e.into_iter().for_each(|it| begun.e2e.record(it));
        let weight = sample.output_tokens as f64 / sample.seen_tokens.max(1) as f64;
        for chunk in &record.chunks {
            self.at(chunk.at).output_tokens += f64::from(chunk.tokens) * weight;
        }
        for (at, gap, tokens) in token_gaps(record) {
            self.at(at).itl.record_n(gap / tokens, tokens);
        }
        let ended = self.at(record.ended);
        if is_answered(&record.outcome) {
            ended.answered += 1;
        } else {
            ended.failed += 1;
        }
    }

    pub(super) fn finish(&self, warm_up_until_s: Option<f64>) -> Series {
        Series {
            interval_s: self.width.as_secs_f64(),
            warm_up_until_s,
            intervals: self.intervals.iter().map(IntervalTally::finish).collect(),
        }
    }

    fn at(&mut self, time: Duration) -> &mut IntervalTally {
        while self.index(time) >= MOST_INTERVALS {
            self.double();
        }
        let index = self.index(time);
        if index >= self.intervals.len() {
            self.intervals.resize_with(index + 1, Default::default);
        }
        &mut self.intervals[index]
    }

    fn index(&self, time: Duration) -> usize {
        (time.as_nanos() / self.width.as_nanos()) as usize
    }

    fn double(&mut self) {
        self.width *= 2;
        let mut halves = std::mem::take(&mut self.intervals).into_iter();
        while let Some(mut interval) = halves.next() {
            if let Some(second) = halves.next() {
                interval.merge(&second);
            }
            self.intervals.push(interval);
        }
    }
}

impl IntervalTally {
    fn merge(&mut self, other: &IntervalTally) {
        self.scheduled += other.scheduled;
        self.answered += other.answered;
        self.failed += other.failed;
        self.output_tokens += other.output_tokens;
        self.ttft.merge(&other.ttft);
        self.itl.merge(&other.itl);
        self.e2e.merge(&other.e2e);
    }

    fn finish(&self) -> Interval {
        Interval {
            scheduled: self.scheduled,
            answered: self.answered,
            failed: self.failed,
            output_tokens: self.output_tokens.round() as u64,
            ttft: self.ttft.quantiles(),
            itl: self.itl.quantiles(),
            e2e: self.e2e.quantiles(),
        }
    }
}
