//! Objectives that a request meets or misses, and goodput under them.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use runtime::config::HumanDuration;
use serde::{Deserialize, Serialize};

use super::sample::{Sample, token_gaps};
use crate::record::{Outcome, Record};

/// Limits for the latencies of one request, as in `ttft=500ms,itl=50ms,e2e=10s`.
/// The inter-token latency is the 99th percentile of the request's own, unless
/// another is named: `itl.p50=20ms`, `itl.mean=20ms`, `itl.max=200ms`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Objectives(Vec<Objective>);

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Objective {
    Ttft(Duration),
    Itl(Own, Duration),
    Tpot(Duration),
    E2e(Duration),
}

/// Which of a request's own inter-token latencies.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Own {
    Mean,
    /// 0 to 1.
    Quantile(f64),
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ObjectiveError {
    #[error("{0:?} is no objective; write NAME=DURATION, such as ttft=500ms")]
    NoPair(String),
    #[error("{0:?} cannot have an objective; names are ttft, itl, itl.p90, itl.mean, tpot, e2e")]
    Name(String),
    #[error("{0:?} is no duration; write a number and ms, s or m, such as 500ms")]
    Duration(String),
    #[error("{0:?} is given twice; keep one of them")]
    Twice(String),
}

/// Requests that meet all objectives.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Goodput {
    /// As given.
    pub objectives: String,
    pub good: u64,
    /// Counted requests.
    pub of: u64,
    /// 0 to 1.
    pub share: f64,
    /// Good requests per second.
    pub per_second: f64,
    pub missed: Misses,
}

/// Why requests are not good; one may miss several objectives.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Misses {
    /// No complete answer of the right length, however fast.
    pub incomplete: u64,
    pub ttft: u64,
    pub itl: u64,
    pub tpot: u64,
    pub e2e: u64,
}

impl Objectives {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// To the first token.
    pub fn first_token(&self) -> Option<Duration> {
        self.0.iter().find_map(|objective| match objective {
            Objective::Ttft(limit) => Some(*limit),
            _ => None,
        })
    }

    /// Between two tokens: of the request's own latencies whichever was named.
    pub fn inter_token(&self) -> Option<Duration> {
        self.0.iter().find_map(|objective| match objective {
            Objective::Itl(_, limit) | Objective::Tpot(limit) => Some(*limit),
            _ => None,
        })
    }

    pub fn are_met_by(&self, record: &Record) -> bool {
        self.judge(record, &Sample::of(record), &mut Misses::default())
    }

    /// Whether the request is good; adds what it misses. One that was never
    /// answered is incomplete, and its latencies are not judged.
    pub(super) fn judge(&self, record: &Record, sample: &Sample, missed: &mut Misses) -> bool {
        if record.outcome != Outcome::Complete {
            missed.incomplete += 1;
            return false;
        }
        let mut good = true;
        for objective in &self.0 {
            let (time, limit, misses) = match *objective {
                Objective::Ttft(limit) => (sample.ttft, limit, &mut missed.ttft),
                Objective::Itl(own, limit) => (own.of(record), limit, &mut missed.itl),
                Objective::Tpot(limit) => (sample.tpot, limit, &mut missed.tpot),
                Objective::E2e(limit) => (sample.e2e, limit, &mut missed.e2e),
            };
            if time.is_some_and(|it| it > limit) {
                *misses += 1;
                good = false;
            }
        }
        good
    }
}

impl Goodput {
    /// Whether at least a share of `quantile` of the requests is good. A failed
    /// request is not; of no requests nothing is said.
    pub fn holds(&self, quantile: f64) -> bool {
        // One part in a billion is the rounding of `quantile`, not a request.
        self.of > 0 && self.good as f64 >= quantile * self.of as f64 * (1.0 - 1e-9)
    }
}

impl Own {
    /// `None` of a request with less than two chunks.
    fn of(self, record: &Record) -> Option<Duration> {
        let each = |(_, gap, tokens): (Duration, Duration, u32)| (gap / tokens, tokens);
        let mut times: Vec<(Duration, u32)> = token_gaps(record).map(each).collect();
        let tokens: u64 = times.iter().map(|it| u64::from(it.1)).sum();
        if tokens == 0 {
            return None;
        }
        match self {
            Own::Mean => {
                let total: Duration = token_gaps(record).map(|it| it.1).sum();
                Some(total.div_f64(tokens as f64))
            }
            Own::Quantile(quantile) => {
                times.sort_unstable();
                let wanted = ((tokens as f64 * quantile).ceil() as u64).max(1);
                let mut passed = 0;
                let found = times.iter().find(|it| {
                    passed += u64::from(it.1);
                    passed >= wanted
                });
                found.map(|it| it.0)
            }
        }
    }
}

impl FromStr for Objectives {
    type Err = ObjectiveError;

    fn from_str(text: &str) -> Result<Objectives, ObjectiveError> {
        let mut objectives = Objectives::default();
        for part in text.split(',') {
            let objective: Objective = part.trim().parse()?;
            let same = |it: &Objective| it.name() == objective.name();
            if objectives.0.iter().any(same) {
                return Err(ObjectiveError::Twice(objective.name()));
            }
            objectives.0.push(objective);
        }
        Ok(objectives)
    }
}

impl FromStr for Objective {
    type Err = ObjectiveError;

    fn from_str(text: &str) -> Result<Objective, ObjectiveError> {
        let pair = text.split_once('=');
        let (name, limit) = pair.ok_or_else(|| ObjectiveError::NoPair(text.to_owned()))?;
        let (name, limit) = (name.trim(), limit.trim());
        let HumanDuration(limit) = limit
            .parse()
            .map_err(|_| ObjectiveError::Duration(limit.to_owned()))?;
        match name {
            "ttft" => Ok(Objective::Ttft(limit)),
            "itl" => Ok(Objective::Itl(Own::Quantile(0.99), limit)),
            "tpot" => Ok(Objective::Tpot(limit)),
            "e2e" => Ok(Objective::E2e(limit)),
            _ => {
                let own = name.strip_prefix("itl.").and_then(own);
                let own = own.ok_or_else(|| ObjectiveError::Name(name.to_owned()))?;
                Ok(Objective::Itl(own, limit))
            }
        }
    }
}

impl fmt::Display for Objectives {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, objective) in self.0.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            let limit = HumanDuration(objective.limit());
            write!(f, "{comma}{}={limit}", objective.name())?;
        }
        Ok(())
    }
}

impl Objective {
    pub fn limit(&self) -> Duration {
        match *self {
            Objective::Ttft(it) | Objective::Itl(_, it) | Objective::Tpot(it) => it,
            Objective::E2e(it) => it,
        }
    }

    fn name(&self) -> String {
        match self {
            Objective::Ttft(_) => "ttft".to_owned(),
            Objective::Itl(Own::Mean, _) => "itl.mean".to_owned(),
            Objective::Itl(Own::Quantile(1.0), _) => "itl.max".to_owned(),
            Objective::Itl(Own::Quantile(it), _) => format!("itl.p{}", super::rounded(it * 100.0)),
            Objective::Tpot(_) => "tpot".to_owned(),
            Objective::E2e(_) => "e2e".to_owned(),
        }
    }
}

fn own(text: &str) -> Option<Own> {
    match text {
        "mean" => Some(Own::Mean),
        "max" => Some(Own::Quantile(1.0)),
        _ => {
            let percent: f64 = text.strip_prefix('p')?.parse().ok()?;
            let allowed = percent > 0.0 && percent <= 100.0;
            allowed.then_some(Own::Quantile(percent / 100.0))
        }
    }
}
