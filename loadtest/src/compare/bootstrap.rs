//! Percentile bootstrap of ratios of two runs.
//!
//! How often a request is drawn is Poisson distributed with mean 1 (Chamandy et
//! al. 2012), so that the number of requests varies too: it is chance in a run,
//! and rates depend on it. Instead of sorting the drawn values, each resample
//! walks those of the run once, sorted before.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;
use rand_distr::{Distribution, Poisson};

use super::quantity::{Quantity, Rate};
use crate::figures::{Metric, Objectives, Sample, Statistic, is_answered, token_gaps};
use crate::record::Record;
use crate::report::{Document, decimal};

/// 95% of resamples are in it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interval {
    pub from: f64,
    pub to: f64,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Bootstrap {
    pub resamples: u32,
    pub seed: u64,
}

/// A run, ready to be drawn from.
struct Run {
    requests: usize,
    latencies: Vec<(Metric, Vec<Value>)>,
    sums: Vec<Sum>,
}

/// A quantity that is a sum over requests by something.
struct Sum {
    quantity: Quantity,
    per: Per,
    of_requests: Vec<f64>,
}

#[derive(Clone, Copy)]
enum Per {
    Seconds(f64),
    Request,
}

/// A latency, the request it is of, and how often that has it.
#[derive(Clone, Copy)]
struct Value {
    us: u32,
    request: u32,
    times: u32,
}

/// So many steps take some seconds: with more values there are fewer resamples.
const MOST_STEPS: u64 = 1_000_000_000;
const FEWEST_RESAMPLES: u32 = 200;

/// In ascending order.
const QUANTILES: [Statistic; 3] = [Statistic::P50, Statistic::P90, Statistic::P99];

impl Bootstrap {
    /// Of what both runs measured. Quantities whose ratio is not finite in all
    /// resamples are left out.
    pub(super) fn ratios(self, a: &Document, b: &Document) -> BTreeMap<Quantity, Interval> {
        let (a, b) = (Run::of(a), Run::of(b));
        if a.requests == 0 || b.requests == 0 {
            return BTreeMap::new();
        }
        let mut random = StdRng::seed_from_u64(self.seed);
        let mut ratios: BTreeMap<Quantity, Vec<f64>> = BTreeMap::new();
        let resamples = self.affordable(a.values() + b.values());
        for _ in 0..resamples {
            let (a, b) = (a.resample(&mut random), b.resample(&mut random));
            for (quantity, of_b) in b {
                if let Some(of_a) = a.get(&quantity) {
                    ratios.entry(quantity).or_default().push(of_b / of_a);
                }
            }
        }
        let whole = |it: &Vec<f64>| {
            it.len() == resamples as usize && it.iter().all(|ratio| ratio.is_finite())
        };
        let kept = ratios.into_iter().filter(|it| whole(&it.1));
        kept.map(|(quantity, it)| (quantity, Interval::of(it)))
            .collect()
    }

    fn affordable(self, values: u64) -> u32 {
        let most = u32::try_from(MOST_STEPS / values.max(1)).unwrap_or(u32::MAX);
        self.resamples.min(most.max(FEWEST_RESAMPLES))
    }
}

impl Interval {
    pub fn has(&self, value: f64) -> bool {
        self.from <= value && value <= self.to
    }

    /// `values`: at least one.
    fn of(mut values: Vec<f64>) -> Interval {
        values.sort_by(f64::total_cmp);
        let last = values.len() - 1;
        let at = |share: f64| values[(last as f64 * share).round() as usize];
        Interval {
            from: at(0.025),
            to: at(0.975),
        }
    }
}

impl fmt::Display for Interval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}", decimal(self.from, 3), decimal(self.to, 3))
    }
}

impl Run {
    fn of(run: &Document) -> Run {
        let records = run.records.iter().flatten();
        let counted: Vec<_> = records.filter(|it| !it.warm_up).collect();
        let samples: Vec<_> = counted.iter().map(|it| Sample::of(it)).collect();
        let of_requests = |of: fn(&Sample) -> Option<Duration>| {
            let numbered = samples.iter().enumerate();
            let values = numbered.filter_map(|(i, it)| of(it).map(|it| Value::new(it, i, 1)));
            sorted(values.collect())
        };
        Run {
            requests: counted.len(),
            latencies: vec![
                (Metric::Ttft, of_requests(|it| it.ttft)),
                (Metric::Itl, token_latencies(&counted)),
                (Metric::Tpot, of_requests(|it| it.tpot)),
                (Metric::E2e, of_requests(|it| it.e2e)),
            ],
            sums: sums(run, &counted),
        }
    }

    /// Entries that a resample walks.
    fn values(&self) -> u64 {
        self.latencies.iter().map(|it| it.1.len() as u64).sum()
    }

    /// What is measured of the requests drawn.
    fn resample(&self, random: &mut StdRng) -> BTreeMap<Quantity, f64> {
        let poisson = Poisson::new(1.0).expect("1 is a mean");
        let times = poisson.sample_iter(random).map(|it: f64| it as u32);
        let drawn: Vec<u32> = times.take(self.requests).collect();
        let requests: f64 = drawn.iter().map(|it| f64::from(*it)).sum();
        let mut quantities = BTreeMap::new();
        for (metric, values) in &self.latencies {
            for (statistic, us) in statistics(values, &drawn) {
                quantities.insert(Quantity::Latency(*metric, statistic), us);
            }
        }
        for sum in &self.sums {
            let drawn = drawn.iter().zip(&sum.of_requests);
            let total: f64 = drawn.map(|(times, it)| f64::from(*times) * it).sum();
            let value = match sum.per {
                Per::Seconds(seconds) => total / seconds,
                Per::Request => total / requests,
            };
            quantities.insert(sum.quantity, value);
        }
        quantities
    }
}

impl Value {
    fn new(time: Duration, request: usize, times: u32) -> Value {
        Value {
            us: u32::try_from(time.as_micros()).unwrap_or(u32::MAX),
            request: request as u32,
            times,
        }
    }
}

fn sorted(mut values: Vec<Value>) -> Vec<Value> {
    values.sort_unstable_by_key(|it| it.us);
    values
}

fn token_latencies(records: &[&Record]) -> Vec<Value> {
    let mut values = Vec::new();
    for (i, record) in records.iter().enumerate() {
        let gaps = token_gaps(record);
        values.extend(gaps.map(|(_, gap, tokens)| Value::new(gap / tokens, i, tokens)));
    }
    sorted(values)
}

fn sums(run: &Document, records: &[&Record]) -> Vec<Sum> {
    let seconds = Per::Seconds(run.figures.window.seconds());
    let sum = |quantity, per, of: &dyn Fn(&Record) -> u64| Sum {
        quantity,
        per,
        of_requests: records.iter().map(|it| of(it) as f64).collect(),
    };
    let prompt = |it: &Record| it.usage.map_or(0, |it| u64::from(it.prompt_tokens));
    let output = |it: &Record| Sample::of(it).output_tokens;
    let answered = |it: &Record| u64::from(is_answered(&it.outcome));
    let mut sums = vec![
        sum(Quantity::Rate(Rate::Requests), seconds, &answered),
        sum(Quantity::Rate(Rate::InputTokens), seconds, &prompt),
        sum(Quantity::Rate(Rate::OutputTokens), seconds, &output),
        sum(Quantity::Errors, Per::Request, &|it| 1 - answered(it)),
    ];
    let goodput = run.figures.goodput.as_ref();
    let objectives = goodput.and_then(|it| it.objectives.parse::<Objectives>().ok());
    if let Some(objectives) = objectives {
        let good = |it: &Record| u64::from(objectives.are_met_by(it));
        sums.push(sum(Quantity::Rate(Rate::Goodput), seconds, &good));
    }
    sums
}

/// Of values in ascending order, each as often as its request was drawn.
fn statistics(values: &[Value], drawn: &[u32]) -> Vec<(Statistic, f64)> {
    let times = |it: &Value| u64::from(drawn[it.request as usize]) * u64::from(it.times);
    let (mut total, mut sum) = (0, 0.0);
    for value in values {
        total += times(value);
        sum += times(value) as f64 * f64::from(value.us);
    }
    if total == 0 {
        return Vec::new();
    }
    let mut found = vec![(Statistic::Mean, sum / total as f64)];
    let mut walked = values.iter();
    let (mut passed, mut us) = (0, 0);
    for statistic in QUANTILES {
        let quantile = statistic.quantile().unwrap_or(1.0);
        let wanted = ((total as f64 * quantile).ceil() as u64).max(1);
        while passed < wanted {
            let Some(value) = walked.next() else { break };
            passed += times(value);
            us = value.us;
        }
        found.push((statistic, f64::from(us)));
    }
    found
}
