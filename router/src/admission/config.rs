//! How much is let in, and in whose favour.

use std::str::FromStr;
use std::sync::Arc;

use runtime::config::{Check, HumanDuration};

use super::queue::Limits;

#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
pub struct Config {
    /// Requests served at once; more than the workers' --max-sequences
    /// together only moves the queue from here to them
    #[arg(long, default_value_t = 1024, value_name = "N")]
    pub max_concurrent_requests: usize,
    /// Requests that may wait for their turn; more are answered 429 at once,
    /// unless they are more urgent, or their tenant has fewer waiting than
    /// another, whose last one then goes
    #[arg(long, default_value_t = 1024, value_name = "N")]
    pub max_queued_requests: usize,
    /// Tokens that may wait, of prompts and of the completions expected for
    /// them, which count double; what the workers can do in --max-queue-wait is
    /// a good size
    #[arg(long, default_value_t = 16_000_000, value_name = "N")]
    pub max_queued_tokens: u64,
    /// Longest wait for a turn; then 429
    #[arg(long, default_value = "30s", value_name = "DURATION")]
    pub max_queue_wait: HumanDuration,
    /// Share of a tenant while several wait, relative to the others' 1, as in
    /// `team-a=2`; once for each
    #[arg(long, value_name = "TENANT=WEIGHT")]
    pub tenant_weight: Vec<TenantWeight>,
}

/// `TENANT=WEIGHT`
#[derive(Clone, Debug, PartialEq)]
pub struct TenantWeight {
    pub tenant: Arc<str>,
    /// From 0.01 to 100.
    pub weight: f64,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("allowed is a tenant, =, and a weight from 0.01 to 100, such as team-a=2")]
pub struct TenantWeightError;

impl FromStr for TenantWeight {
    type Err = TenantWeightError;

    fn from_str(text: &str) -> Result<TenantWeight, TenantWeightError> {
        let (tenant, weight) = text.rsplit_once('=').ok_or(TenantWeightError)?;
        let weight: f64 = weight.parse().map_err(|_| TenantWeightError)?;
        if tenant.is_empty() || !(0.01..=100.0).contains(&weight) {
            return Err(TenantWeightError);
        }
        Ok(TenantWeight {
            tenant: Arc::from(tenant),
            weight,
        })
    }
}

impl Config {
    /// As the queue takes them.
    pub fn limits(&self) -> Limits {
        let weights = self.tenant_weight.iter();
        Limits {
            max_running: self.max_concurrent_requests,
            max_waiting: self.max_queued_requests,
            max_waiting_tokens: self.max_queued_tokens,
            max_wait: self.max_queue_wait.0,
            weights: weights.map(|it| (it.tenant.clone(), it.weight)).collect(),
        }
    }
}

impl Check for Config {
    fn check(&self, mistakes: &mut Vec<String>) {
        if self.max_concurrent_requests == 0 {
            mistakes.push("--max-concurrent-requests must be at least 1".to_owned());
        }
        for (index, it) in self.tenant_weight.iter().enumerate() {
            let before = &self.tenant_weight[..index];
            if before.iter().any(|other| other.tenant == it.tenant) {
                let tenant = &it.tenant;
                mistakes.push(format!("--tenant-weight names `{tenant}` twice"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_read_and_nonsense_refused() {
        let read = |text: &str| text.parse::<TenantWeight>().map(|it| it.weight);
        assert_eq!(read("a=2"), Ok(2.0));
        assert_eq!(read("key:a=b=0.5"), Ok(0.5));
        for wrong in ["a", "=1", "a=", "a=0", "a=-1", "a=NaN", "a=1000"] {
            assert_eq!(read(wrong), Err(TenantWeightError), "{wrong}");
        }
    }
}
