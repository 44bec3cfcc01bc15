//! Latencies in an HDR histogram: microseconds, three significant digits.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::rounded;

/// A latency's distribution, in milliseconds. All zero if `count` is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Quantiles {
    pub count: u64,
    pub mean: f64,
    pub p50: f64,
    pub p90: f64,
    pub p95: f64,
    pub p99: f64,
    #[serde(rename = "p99.9")]
    pub p999: f64,
    /// Exact.
    pub max: f64,
}

/// One number of a distribution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Statistic {
    Mean,
    P50,
    P90,
    P95,
    P99,
    P999,
    Max,
}

/// Collects latencies.
#[derive(Clone, Debug)]
pub struct Times {
    /// A bucket counts to four billion, more than a run's tokens that fit in
    /// memory.
    histogram: Histogram<u32>,
    count: u64,
    sum_us: u128,
    max_us: u64,
}

/// Where [`super::Cdfs`] have their points.
pub const CDF_PERCENTS: [f64; 104] = cdf_percents();

impl Quantiles {
    pub fn get(&self, statistic: Statistic) -> f64 {
        match statistic {
            Statistic::Mean => self.mean,
            Statistic::P50 => self.p50,
            Statistic::P90 => self.p90,
            Statistic::P95 => self.p95,
            Statistic::P99 => self.p99,
            Statistic::P999 => self.p999,
            Statistic::Max => self.max,
        }
    }
}

impl Statistic {
    pub const ALL: [Statistic; 7] = [
        Statistic::Mean,
        Statistic::P50,
        Statistic::P90,
        Statistic::P95,
        Statistic::P99,
        Statistic::P999,
        Statistic::Max,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Statistic::Mean => "mean",
            Statistic::P50 => "p50",
            Statistic::P90 => "p90",
            Statistic::P95 => "p95",
            Statistic::P99 => "p99",
            Statistic::P999 => "p99.9",
            Statistic::Max => "max",
        }
    }

    /// 0 to 1; the mean is no quantile.
    pub fn quantile(self) -> Option<f64> {
        match self {
            Statistic::Mean => None,
            Statistic::P50 => Some(0.5),
            Statistic::P90 => Some(0.9),
            Statistic::P95 => Some(0.95),
            Statistic::P99 => Some(0.99),
            Statistic::P999 => Some(0.999),
            Statistic::Max => Some(1.0),
        }
    }
}

impl Default for Times {
    fn default() -> Self {
        Times {
            histogram: Histogram::new(3).expect("three digits are allowed"),
            count: 0,
            sum_us: 0,
            max_us: 0,
        }
    }
}

impl Times {
    pub fn record(&mut self, time: Duration) {
        self.record_n(time, 1);
    }

    pub fn record_n(&mut self, time: Duration, times: u32) {
        let us = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.histogram
            .record_n(us, times)
            .expect("the histogram grows to any 64-bit value");
        self.count += u64::from(times);
        self.sum_us += u128::from(us) * u128::from(times);
        self.max_us = self.max_us.max(us);
    }

    pub fn merge(&mut self, other: &Times) {
        self.histogram
            .add(&other.histogram)
            .expect("the histogram grows to any 64-bit value");
        self.count += other.count;
        self.sum_us += other.sum_us;
        self.max_us = self.max_us.max(other.max_us);
    }

    pub fn count(&self) -> u64 {
        self.count
    }

    /// The smallest value that a share of at least `quantile` does not exceed,
    /// in milliseconds. Within a bucket its middle, which errs to neither side,
    /// or the maximum if that is in it.
    pub fn at(&self, quantile: f64) -> f64 {
        let bucket = self.histogram.value_at_quantile(quantile);
        if quantile >= 1.0 || self.histogram.equivalent(bucket, self.max_us) {
            return ms(self.max_us);
        }
        ms(self.histogram.median_equivalent(bucket))
    }

    pub fn quantiles(&self) -> Quantiles {
        if self.count == 0 {
            return Quantiles::default();
        }
        Quantiles {
            count: self.count,
            mean: rounded(self.sum_us as f64 / self.count as f64 / 1000.0),
            p50: self.at(0.5),
            p90: self.at(0.9),
            p95: self.at(0.95),
            p99: self.at(0.99),
            p999: self.at(0.999),
            max: ms(self.max_us),
        }
    }

    /// Milliseconds at each of [`CDF_PERCENTS`].
    pub fn cdf(&self) -> Vec<f64> {
        if self.count == 0 {
            return Vec::new();
        }
        CDF_PERCENTS.iter().map(|it| self.at(it / 100.0)).collect()
    }
}

fn ms(us: u64) -> f64 {
    us as f64 / 1000.0
}

const fn cdf_percents() -> [f64; 104] {
    let mut percents = [0.0; 104];
    let mut i = 0;
    while i < 100 {
        percents[i] = i as f64;
        i += 1;
    }
    percents[100] = 99.5;
    percents[101] = 99.9;
    percents[102] = 99.99;
    percents[103] = 100.0;
    percents
}
