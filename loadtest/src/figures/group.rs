//! Figures of the requests that share a tenant, a priority or a worker.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::quantiles::{Quantiles, Times};
use super::sample::{Sample, is_answered};
use super::{rounded, share};
use crate::record::Record;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Group {
    pub name: String,
    pub requests: u64,
    pub failed: u64,
    pub input_tokens: u64,
    pub output_tokens: u64,
    pub input_tokens_per_second: f64,
    pub output_tokens_per_second: f64,
    /// Share of prompt tokens that were cached; `None`: the server does not tell.
    pub cached_share: Option<f64>,
    /// Milliseconds.
    pub ttft: Quantiles,
    pub tpot: Quantiles,
    pub e2e: Quantiles,
}

/// Groups by what orders them. Only values of whole requests are kept: a
/// thousand workers with a histogram of every token would not fit.
#[derive(Debug, Default)]
pub(super) struct Groups<K>(BTreeMap<K, Sums>);

#[derive(Debug, Default)]
struct Sums {
    requests: u64,
    failed: u64,
    input_tokens: u64,
    output_tokens: u64,
    cached: u64,
    cached_of: u64,
    tells_cached: bool,
    ttft: Times,
    tpot: Times,
    e2e: Times,
}

impl<K: Ord + ToString> Groups<K> {
    pub(super) fn add(&mut self, key: Option<K>, record: &Record, sample: &Sample) {
        if let Some(key) = key {
            self.0.entry(key).or_default().add(record, sample);
        }
    }

    pub(super) fn finish(&self, seconds: f64) -> Vec<Group> {
        let group = |(key, sums): (&K, &Sums)| sums.finish(key.to_string(), seconds);
        self.0.iter().map(group).collect()
    }
}

impl Sums {
    fn add(&mut self, record: &Record, sample: &Sample) {
        self.requests += 1;
        self.failed += u64::from(!is_answered(&record.outcome));
        self.output_tokens += sample.output_tokens;
        if let Some(usage) = record.usage {
            self.input_tokens += u64::from(usage.prompt_tokens);
            if let Some(cached) = usage.cached_tokens {
                self.tells_cached = true;
                self.cached += u64::from(cached);
                self.cached_of += u64::from(usage.prompt_tokens);
            }
        }
        let times = [
            (&mut self.ttft, sample.ttft),
            (&mut self.tpot, sample.tpot),
            (&mut self.e2e, sample.e2e),
        ];
        for (times, time) in times {
            time.into_iter().for_each(|it| times.record(it));
        }
    }

    fn finish(&self, name: String, seconds: f64) -> Group {
        let per_second = |count: u64| super::tally::rate(count, seconds);
        Group {
            name,
            requests: self.requests,
            failed: self.failed,
            input_tokens: self.input_tokens,
            output_tokens: self.output_tokens,
            input_tokens_per_second: per_second(self.input_tokens),
            output_tokens_per_second: per_second(self.output_tokens),
            cached_share: self
                .tells_cached
                .then(|| rounded(share(self.cached, self.cached_of))),
            ttft: self.ttft.quantiles(),
            tpot: self.tpot.quantiles(),
            e2e: self.e2e.quantiles(),
        }
    }
}
