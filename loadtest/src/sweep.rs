//! The highest rate at which objectives hold: a run at rate after rate, doubled
//! until one misses and then bisected.
//!
//! A run that the generator could not keep up with says nothing of the server:
//! it is repeated once, and then bounds the search as the generator's limit. The
//! search promises that the rate it names was measured and held; how runs are
//! made and shown is left to others.

mod continued;
mod search;
#[cfg(test)]
mod tests;

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::figures::{Figures, Objectives};
use crate::generator::{RunError, RunResult};
use crate::planned::Workload;
use crate::report::{SweepPoint, Verdict, decimal, percent};
use continued::Continued;
use search::Search;

/// What is searched for.
#[derive(Clone, Debug)]
pub struct Sweep {
    pub objectives: Objectives,
    /// Share of requests that must meet them, 0 to 1.
    pub quantile: f64,
    pub range: RateRange,
    /// The highest rate that holds and the lowest that does not are as near as
    /// this share of the former.
    pub precision: f64,
    /// Between two runs, for the server to come to rest.
    pub pause: Duration,
    /// Cancelled: the search ends with what it has.
    pub stop: CancellationToken,
}

/// Requests per second, the lower above 0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RateRange {
    pub from: f64,
    pub to: f64,
}

/// A run to be made.
pub struct Attempt {
    pub rate: f64,
    /// Counts the runs of the search, from 0.
    pub number: u64,
    pub workload: Box<dyn Workload>,
}

/// What a search found.
pub struct Swept {
    pub finding: Finding,
    /// By rate, then in the order they were measured.
    pub points: Vec<SweepPoint>,
    /// The run that the finding is of: the highest rate that held, or else the
    /// lowest of all.
    pub run: Option<RunResult>,
    /// Of that run, and its rate.
    pub figures: Figures,
    pub rate: Option<f64>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Finding {
    /// The server's limit is between the two.
    Between { held: f64, missed: f64 },
    /// The limit is higher than was measured; `missed`: but lower than that.
    AtLeast {
        held: f64,
        missed: Option<f64>,
        why: Unknown,
    },
    /// Not even the lowest rate held.
    Below { missed: f64 },
    /// No run that says anything of the server.
    Nothing(Unknown),
}

/// Why the search went no further.
#[derive(Clone, Debug, PartialEq)]
pub enum Unknown {
    /// It was to go no higher.
    Range,
    /// What the generator lacked, and from which rate.
    Generator {
        rate: f64,
        reason: String,
    },
    Stopped,
    /// The workload has no more requests.
    Ended,
    /// Not one request was answered.
    Unanswered,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("allowed is FROM..TO, such as 1..500, with FROM above 0 and not above TO")]
pub struct RateRangeError;

/// A search under way.
struct Course<'a> {
    sweep: &'a Sweep,
    search: Search,
    points: Vec<SweepPoint>,
    best: Option<(f64, RunResult, Figures)>,
    /// Where the generator's limit bounds the search.
    generator: Option<(f64, String)>,
    tried: u64,
}

/// What one run says.
enum Step {
    GoOn,
    End(Unknown),
}

impl Sweep {
    /// Makes runs by `measure`, and tells `seen` of each.
    pub async fn find(
        &self,
        workload: Box<dyn Workload>,
        mut measure: impl AsyncFnMut(Attempt) -> Result<RunResult, RunError>,
        mut seen: impl FnMut(&SweepPoint),
    ) -> Result<Swept, RunError> {
        let workload = Continued::new(workload);
        let mut course = Course {
            sweep: self,
            search: Search::new(self.range, self.precision),
            points: Vec::new(),
            best: None,
            generator: None,
            tried: 0,
        };
        let mut ended = None;
        while let (Some(rate), None) = (course.search.next(), &ended) {
            if course.tried > 0 {
                let pause = tokio::time::sleep(self.pause);
                self.stop.run_until_cancelled(pause).await;
            }
            if self.stop.is_cancelled() {
                ended = Some(Unknown::Stopped);
                break;
            }
            let attempt = Attempt {
                rate,
                number: course.tried,
                workload: workload.part(),
            };
            let run = measure(attempt).await?;
            let step = course.take(rate, run, workload.has_ended());
            course.points.last().into_iter().for_each(&mut seen);
            if let Step::End(why) = step {
                ended = Some(why);
            }
        }
        Ok(course.finish(ended))
    }

    fn judge(&self, run: &RunResult, figures: &Figures) -> Verdict {
        let goodput = figures.goodput.as_ref();
        if run.stopped {
            Verdict::CutShort
        } else if !run.health.is_valid() {
            Verdict::GeneratorLate
        } else if goodput.is_some_and(|it| it.holds(self.quantile)) {
            Verdict::Holds
        } else {
            Verdict::Misses
        }
    }
}

impl Course<'_> {
    fn take(&mut self, rate: f64, run: RunResult, has_ended: bool) -> Step {
        self.tried += 1;
        let figures = Figures::of(&run.records, &self.sweep.objectives);
        let verdict = match self.sweep.judge(&run, &figures) {
            // Its requests came to an end before its time did.
            _ if has_ended => Verdict::CutShort,
            verdict => verdict,
        };
        self.points.push(SweepPoint {
            rate,
            verdict,
            figures: figures.clone(),
        });
        let answered = figures.requests.answered;
        let reason = run.health.faults.join("; ");
        self.keep(rate, verdict, run, figures);
        match verdict {
            Verdict::CutShort if has_ended => return Step::End(Unknown::Ended),
            Verdict::CutShort => return Step::End(Unknown::Stopped),
            Verdict::Holds => self.search.judge(rate, true),
            Verdict::Misses if answered == 0 && self.search.held().is_none() => {
                return Step::End(Unknown::Unanswered);
            }
            Verdict::Misses => self.miss(rate, None),
            Verdict::GeneratorLate if self.is_first_at(rate) => {}
            Verdict::GeneratorLate => self.miss(rate, Some(reason)),
        }
        Step::GoOn
    }

    /// One that holds is better than any that does not; of the former the
    /// highest rate, of the latter the lowest, and the latest of both.
    fn keep(&mut self, rate: f64, verdict: Verdict, run: RunResult, figures: Figures) {
        let holds = verdict == Verdict::Holds;
        let is_better = match (&self.best, self.search.held()) {
            (None, _) => true,
            (Some(best), None) => holds || rate <= best.0,
            (Some(best), Some(_)) => holds && rate >= best.0,
        };
        if is_better {
            self.best = Some((rate, run, figures));
        }
    }

    fn miss(&mut self, rate: f64, generator: Option<String>) {
        self.generator = generator.map(|reason| (rate, reason));
        self.search.judge(rate, false);
    }

    fn is_first_at(&self, rate: f64) -> bool {
        self.points.iter().filter(|it| it.rate == rate).count() == 1
    }

    fn finish(self, ended: Option<Unknown>) -> Swept {
        let generator = self
            .generator
            .map(|(rate, reason)| Unknown::Generator { rate, reason });
        let why = ended.or(generator);
        let misses = self
            .points
            .iter()
            .filter(|it| it.verdict == Verdict::Misses);
        let missed = misses.map(|it| it.rate).min_by(f64::total_cmp);
        let finding = match (self.search.held(), self.search.missed(), why) {
            (Some(held), _, Some(why)) => Finding::AtLeast { held, missed, why },
            (Some(held), Some(missed), None) => Finding::Between { held, missed },
            (Some(held), None, None) => Finding::AtLeast {
                held,
                missed,
                why: Unknown::Range,
            },
            (None, Some(missed), None) => Finding::Below { missed },
            (None, _, why) => Finding::Nothing(why.unwrap_or(Unknown::Range)),
        };
        let mut points = self.points;
        points.sort_by(|a, b| a.rate.total_cmp(&b.rate));
        let rate = self.best.as_ref().map(|it| it.0);
        let (run, figures) = self.best.map(|it| (it.1, it.2)).unzip();
        Swept {
            finding,
            points,
            run,
            figures: figures.unwrap_or_default(),
            rate,
        }
    }
}

impl Swept {
    /// The finding in a sentence.
    pub fn sentence(&self, sweep: &Sweep) -> String {
        let shown = |rate: f64| format!("{} requests/s", decimal(rate, 2));
        let share = percent(sweep.quantile);
        let asked = format!("{share} of requests meet {}", sweep.objectives);
        match &self.finding {
            Finding::Between { held, missed } => {
                format!(
                    "{asked} up to {}, and no more at {}",
                    shown(*held),
                    shown(*missed)
                )
            }
            Finding::AtLeast { held, missed, why } => {
                let below = missed.map(|it| format!(", and no more at {}", shown(it)));
                let below = below.unwrap_or_default();
                let held = shown(*held);
                format!("{asked} at {held}{below}; the limit itself is not known: {why}")
            }
            Finding::Below { missed } => {
                format!("not even at {} do {asked}; lower --rates", shown(*missed))
            }
            Finding::Nothing(why) => format!("nothing was found: {why}"),
        }
    }
}

impl Finding {
    /// The limit is known, or as far as it was asked for.
    pub fn is_complete(&self) -> bool {
        match self {
            Finding::Between { .. } => true,
            Finding::AtLeast { why, .. } => *why == Unknown::Range,
            Finding::Below { .. } | Finding::Nothing(_) => false,
        }
    }
}

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unknown::Range => f.write_str("--rates goes no higher"),
            Unknown::Generator { rate, reason } => {
                let rate = decimal(*rate, 2);
                write!(
                    f,
                    "at {rate} requests/s the generator itself is the limit: {reason}"
                )
            }
            Unknown::Stopped => f.write_str("the search was stopped"),
            Unknown::Ended => f.write_str(
                "the workload has no more requests; give a longer trace or --repeat-prompts",
            ),
            Unknown::Unanswered => f.write_str(
                "not one request was answered; see how they ended, and try `kvasir loadtest run`",
            ),
        }
    }
}

impl FromStr for RateRange {
    type Err = RateRangeError;

    fn from_str(text: &str) -> Result<RateRange, RateRangeError> {
        let (from, to) = text.split_once("..").ok_or(RateRangeError)?;
        let read = |text: &str| text.trim().parse::<f64>().map_err(|_| RateRangeError);
        let (from, to) = (read(from)?, read(to)?);
        let allowed = from.is_finite() && to.is_finite() && from > 0.0 && from <= to;
        allowed
            .then_some(RateRange { from, to })
            .ok_or(RateRangeError)
    }
}
