//! Collects records one by one, so that a run need not keep them all.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::group::Groups;
use super::objectives::{Goodput, Misses, Objectives};
use super::quantiles::Times;
use super::sample::{Sample, is_answered, kind, token_gaps};
use super::series::SeriesTally;
use super::{Cached, Cdfs, Figures, Latency, Rates, Requests, Tokens, Window, rounded, share};
use crate::record::{Outcome, Record};

#[derive(Debug, Default)]
pub struct Tally {
    objectives: Objectives,
    warm_up: u64,
    outcomes: BTreeMap<Outcome, u64>,
    /// First and last scheduled time and last end of counted requests.
    span: Option<Span>,
    times: AllTimes,
    tokens: Tokens,
    cached: Cached,
    good: u64,
    missed: Misses,
    tenants: Groups<Arc<str>>,
    priorities: Groups<i32>,
    prefill_workers: Groups<Arc<str>>,
    decode_workers: Groups<Arc<str>>,
    series: SeriesTally,
}

#[derive(Clone, Copy, Debug)]
struct Span {
    first: Duration,
    last: Duration,
    end: Duration,
}

#[derive(Debug, Default)]
struct AllTimes {
    ttft: Times,
    itl: Times,
    gap: Times,
    tpot: Times,
    e2e: Times,
    queueing: Times,
}

impl Tally {
    pub fn new(objectives: Objectives) -> Tally {
        Tally {
            objectives,
            ..Tally::default()
        }
    }

    pub fn add(&mut self, record: &Record) {
        let sample = Sample::of(record);
        self.series.add(record, &sample);
        if record.warm_up {
            self.warm_up += 1;
            return;
        }
        *self.outcomes.entry(record.outcome.clone()).or_default() += 1;
        self.span = Some(Span::with(self.span, record));
        self.times.add(record, &sample);
        self.add_tokens(record, &sample);
        if self.objectives.judge(record, &sample, &mut self.missed) {
            self.good += 1;
        }
        self.tenants.add(record.tenant.clone(), record, &sample);
        self.priorities.add(record.priority, record, &sample);
        let (prefill, decode) = (record.prefill_worker.clone(), record.decode_worker.clone());
        self.prefill_workers.add(prefill, record, &sample);
        self.decode_workers.add(decode, record, &sample);
    }

    pub fn finish(&self) -> Figures {
        let requests = self.requests();
        let window = self.span.map_or_else(Window::default, |it| it.window());
        let seconds = window.seconds();
        let warm_up_until_s = (self.warm_up > 0 && self.span.is_some()).then_some(window.from_s);
        Figures {
            window,
            latency: self.times.latency(),
            rates: self.rates(&requests, seconds),
            tokens: self.tokens,
            cached: self.cached(),
            goodput: self.goodput(&requests, seconds),
            tenants: self.tenants.finish(seconds),
            priorities: self.priorities.finish(seconds),
            prefill_workers: self.prefill_workers.finish(seconds),
            decode_workers: self.decode_workers.finish(seconds),
            series: self.series.finish(warm_up_until_s),
            cdfs: self.times.cdfs(),
            requests,
        }
    }

    fn add_tokens(&mut self, record: &Record, sample: &Sample) {
        self.tokens.output += sample.output_tokens;
        self.tokens.seen += sample.seen_tokens;
        self.tokens.chunks += record.chunks.len() as u64;
        let Some(usage) = record.usage else {
            return;
        };
        self.tokens.with_usage += 1;
        self.tokens.input += u64::from(usage.prompt_tokens);
        if let Some(cached) = usage.cached_tokens {
            self.cached.requests += 1;
            self.cached.tokens += u64::from(cached);
            self.cached.of += u64::from(usage.prompt_tokens);
        }
    }

    fn requests(&self) -> Requests {
        let answered = |it: &(&Outcome, &u64)| is_answered(it.0);
        let counted = self.outcomes.values().sum();
        let answered = self.outcomes.iter().filter(answered).map(|it| it.1).sum();
        Requests {
            counted,
            warm_up: self.warm_up,
            answered,
            failed: counted - answered,
            outcomes: self.outcomes.iter().map(|(it, n)| (kind(it), *n)).collect(),
        }
    }

    fn rates(&self, requests: &Requests, seconds: f64) -> Rates {
        let between = self
            .span
            .map_or(0.0, |it| (it.last - it.first).as_secs_f64());
        let offered = rounded(requests.counted.saturating_sub(1) as f64 / between);
        Rates {
            offered: (between > 0.0).then_some(offered),
            requests: rate(requests.answered, seconds),
            input_tokens: rate(self.tokens.input, seconds),
            output_tokens: rate(self.tokens.output, seconds),
        }
    }

    fn cached(&self) -> Option<Cached> {
        let share = rounded(share(self.cached.tokens, self.cached.of));
        (self.cached.requests > 0).then_some(Cached {
            share,
            ..self.cached
        })
    }

    fn goodput(&self, requests: &Requests, seconds: f64) -> Option<Goodput> {
        (!self.objectives.is_empty()).then(|| Goodput {
            objectives: self.objectives.to_string(),
            good: self.good,
            of: requests.counted,
            share: (share(self.good, requests.counted) * 1e6).round() / 1e6,
            per_second: rate(self.good, seconds),
            missed: self.missed.clone(),
        })
    }
}

impl Span {
    fn with(span: Option<Span>, record: &Record) -> Span {
        let own = Span {
            first: record.scheduled,
            last: record.scheduled,
            end: record.ended.max(record.scheduled),
        };
        span.map_or(own, |it| Span {
            first: it.first.min(own.first),
            last: it.last.max(own.last),
            end: it.end.max(own.end),
        })
    }

    fn window(&self) -> Window {
        Window {
            from_s: self.first.as_micros() as f64 / 1e6,
            to_s: self.end.as_micros() as f64 / 1e6,
        }
    }
}

impl AllTimes {
    fn add(&mut self, record: &Record, sample: &Sample) {
        let of_request = [
            (&mut self.ttft, sample.ttft),
            (&mut self.tpot, sample.tpot),
            (&mut self.e2e, sample.e2e),
            (&mut self.queueing, sample.queueing),
        ];
        for (times, time) in of_request {
            time.into_iter().for_each(|it| times.record(it));
        }
        for (_, gap, tokens) in token_gaps(record) {
            self.gap.record(gap);
            self.itl.record_n(gap / tokens, tokens);
        }
    }

    fn latency(&self) -> Latency {
        Latency {
            ttft: self.ttft.quantiles(),
            itl: self.itl.quantiles(),
            gap: self.gap.quantiles(),
            tpot: self.tpot.quantiles(),
            e2e: self.e2e.quantiles(),
            queueing: self.queueing.quantiles(),
        }
    }

    fn cdfs(&self) -> Cdfs {
        Cdfs {
            ttft: self.ttft.cdf(),
            itl: self.itl.cdf(),
            tpot: self.tpot.cdf(),
            e2e: self.e2e.cdf(),
        }
    }
}

/// Per second; 0 in no time at all.
pub(super) fn rate(count: u64, seconds: f64) -> f64 {
    if seconds > 0.0 {
        rounded(count as f64 / seconds)
    } else {
        0.0
    }
}
