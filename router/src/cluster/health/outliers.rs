//! Ejects workers that do much worse than the others.
//!
//! After Envoy's outlier detection: at each interval, among workers with enough
//! sequences, those whose rate of success lies more than 1.9 standard
//! deviations below the mean, or below an absolute floor, are ejected. Time
//! between tokens is compared with the median, which an outlier among few does
//! not move, and by a factor, since workers may differ by design. A share of
//! all workers bounds how many are out at a time; ejection times grow with each
//! ejection and shrink with each good interval.

use std::time::{Duration, Instant};

use kvcache_index::WorkerSlot;

use super::Config;

/// Envoy's `success_rate_stdev_factor`.
const DEVIATIONS: f64 = 1.9;
/// Worse than this is out, whatever the others do: among few workers no
/// deviation is large.
const LEAST_SUCCESS: f64 = 0.5;
/// Better than this is none, however good the others are.
const GOOD_SUCCESS: f64 = 0.95;
/// Fewer workers say nothing of each other.
const MIN_WORKERS: usize = 3;
const MAX_GROWTH: u32 = 10;

/// What a served sequence tells.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sample {
    /// Mean time from one token to the next; `None`: there were too few.
    pub token_gap: Option<Duration>,
}

/// Why a worker is out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    Failures,
    Slowness,
}

/// One worker's sequences since the last sweep, and its ejection.
#[derive(Debug, Default)]
pub struct Record {
    served: u32,
    failed: u32,
    gaps: u32,
    /// Sum, in seconds.
    gap: f64,
    ejected_until: Option<Instant>,
    /// In a row, with less than as many good intervals between them.
    ejections: u32,
}

/// When workers were last compared.
#[derive(Debug, Default)]
pub struct Outliers {
    next: Option<Instant>,
}

impl Record {
    pub fn served(&mut self, sample: Sample) {
        self.served += 1;
        if let Some(gap) = sample.token_gap {
            self.gaps += 1;
            self.gap += gap.as_secs_f64();
        }
    }

    pub fn failed(&mut self) {
        self.failed += 1;
    }

    pub fn is_ejected(&self, now: Instant) -> bool {
        self.ejected_until.is_some_and(|until| now < until)
    }

    fn success_rate(&self, config: &Config) -> Option<f64> {
        let all = self.served + self.failed;
        let enough = all >= config.outlier_min_sequences && all > 0;
        enough.then(|| f64::from(self.served) / f64::from(all))
    }

    fn token_gap(&self, config: &Config) -> Option<f64> {
        let enough = self.gaps >= config.outlier_min_sequences && self.gaps > 0;
        enough.then(|| self.gap / f64::from(self.gaps))
    }

    fn begin_interval(&mut self) {
        self.served = 0;
        self.failed = 0;
        self.gaps = 0;
        self.gap = 0.0;
    }

    fn eject(&mut self, now: Instant, config: &Config) {
        self.ejections = (self.ejections + 1).min(MAX_GROWTH);
        self.ejected_until = Some(now + config.outlier_ejection.0 * self.ejections);
    }
}

impl Outliers {
    /// Whether it is time to compare; the first call starts the clock.
    pub fn is_due(&mut self, now: Instant, config: &Config) -> bool {
        now >= *self.next.get_or_insert(now + config.outlier_interval.0)
    }

    /// Compares all workers and begins the next interval. Returns who is newly
    /// out.
    pub fn sweep(
        &mut self,
        mut records: Vec<(WorkerSlot, &mut Record)>,
        now: Instant,
        config: &Config,
    ) -> Vec<(WorkerSlot, Reason)> {
        self.next = Some(now + config.outlier_interval.0);
        // The worst first, so that the share goes to them; then by slot, so
        // that the order of a hash map shows nowhere.
        let mut outliers = worst_first(&records, config);
        let out = records.iter().filter(|(_, record)| record.is_ejected(now));
        let allowed = (records.len() as f64 * config.outlier_max_share) as usize;
        outliers.retain(|(at, _)| !records[*at].1.is_ejected(now));
        outliers.truncate(allowed.saturating_sub(out.count()));
        let mut ejected = Vec::new();
        for (at, (slot, record)) in records.iter_mut().enumerate() {
            match outliers.iter().find(|(outlier, _)| *outlier == at) {
                Some((_, reason)) => {
                    record.eject(now, config);
                    ejected.push((*slot, *reason));
                }
                // Without work nothing was shown.
                None if record.served > 0 && !record.is_ejected(now) => {
                    record.ejections = record.ejections.saturating_sub(1);
                }
                None => {}
            }
            record.begin_interval();
        }
        ejected
    }
}

fn worst_first(records: &[(WorkerSlot, &mut Record)], config: &Config) -> Vec<(usize, Reason)> {
    let rates = samples(records, |record| record.success_rate(config));
    let gaps = samples(records, |record| record.token_gap(config));
    let mut failing = Vec::new();
    if let Some(spread) = Spread::of(&rates) {
        let least =
            (spread.mean - DEVIATIONS * spread.deviation).clamp(LEAST_SUCCESS, GOOD_SUCCESS);
        failing = rates
            .into_iter()
            .filter(|(_, rate)| *rate < least)
            .collect();
        failing.sort_by(|a, b| a.1.total_cmp(&b.1).then(slot(records, a, b)));
    }
    let mut slow = Vec::new();
    if let Some(spread) = Spread::of(&gaps) {
        let most = spread.median * config.outlier_slowness;
        slow = gaps.into_iter().filter(|(_, gap)| *gap > most).collect();
        slow.sort_by(|a, b| b.1.total_cmp(&a.1).then(slot(records, a, b)));
    }
    slow.retain(|(at, _)| failing.iter().all(|(failing, _)| failing != at));
    let failing = failing.iter().map(|(at, _)| (*at, Reason::Failures));
    let slow = slow.iter().map(|(at, _)| (*at, Reason::Slowness));
    failing.chain(slow).collect()
}

fn slot(
    records: &[(WorkerSlot, &mut Record)],
    a: &(usize, f64),
    b: &(usize, f64),
) -> std::cmp::Ordering {
    records[a.0].0.cmp(&records[b.0].0)
}

fn samples(
    records: &[(WorkerSlot, &mut Record)],
    sample: impl Fn(&Record) -> Option<f64>,
) -> Vec<(usize, f64)> {
    let samples = records.iter().enumerate();
    samples
        .filter_map(|(at, (_, record))| Some((at, sample(record)?)))
        .collect()
}

struct Spread {
    mean: f64,
    deviation: f64,
    median: f64,
}

impl Spread {
    /// `None`: too few to compare.
    fn of(samples: &[(usize, f64)]) -> Option<Spread> {
        if samples.len() < MIN_WORKERS {
            return None;
        }
        let count = samples.len() as f64;
        let mean = samples.iter().map(|(_, it)| it).sum::<f64>() / count;
        let squares = samples.iter().map(|(_, it)| (it - mean).powi(2));
        let mut sorted: Vec<f64> = samples.iter().map(|(_, it)| *it).collect();
        sorted.sort_by(f64::total_cmp);
        Some(Spread {
            mean,
            deviation: (squares.sum::<f64>() / count).sqrt(),
            median: sorted[(sorted.len() - 1) / 2],
        })
    }
}
