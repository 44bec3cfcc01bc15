//! Two runs side by side: ratios of B to A, how sure they are, and conditions
//! that B must not fulfil.
//!
//! Intervals are percentile bootstraps over requests (Efron 1979), which need
//! the files to hold records; a request is drawn with all its tokens. Requests
//! of one run influence each other, so that an interval is a lower bound of
//! what repeating the runs would show. A handful of requests, or of failures, is
//! too few for one.

mod bootstrap;
mod expression;
mod quantity;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use crate::report::{Document, DocumentError, Grid, decimal, printable, utc};

use bootstrap::Bootstrap;
pub use bootstrap::Interval;
pub use expression::{Expression, ExpressionError};
pub use quantity::{Quantity, Rate};

/// Flags of `kvasir loadtest compare`.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
pub struct Config {
    /// What the other run is measured against: a file written by --json
    #[arg(value_name = "A.json")]
    pub a: PathBuf,
    /// The run to be judged
    #[arg(value_name = "B.json")]
    pub b: PathBuf,
    /// Exit with 1 if this holds, such as "p99(ttft)>1.1", "rate(output_tokens)<0.9" (ratios of B
    /// to A) or "errors>0.01" (share of B's requests that failed); may be repeated
    #[arg(long, value_name = "EXPRESSION")]
    pub fail_if: Vec<Expression>,
    /// Resamples of the bootstrap; 0 leaves out the intervals
    #[arg(long, default_value_t = 1000, value_name = "NUMBER")]
    pub resamples: u32,
    /// Of the bootstrap
    #[arg(long, default_value_t = 0, value_name = "NUMBER")]
    pub seed: u64,
}

/// What is to be compared, and how.
#[derive(Debug)]
pub struct Comparison<'a> {
    pub a: &'a Document,
    pub b: &'a Document,
    pub fail_if: &'a [Expression],
    pub resamples: u32,
    pub seed: u64,
}

/// What a comparison found.
#[derive(Clone, Debug, PartialEq)]
pub struct Findings {
    pub rows: Vec<Row>,
    /// Conditions that hold, a line each: not empty is a failure.
    pub failures: Vec<String>,
    /// What a reader should know, a line each.
    pub warnings: Vec<String>,
}

/// A quantity in both runs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Row {
    pub quantity: Quantity,
    /// `None`: not measured in that run.
    pub a: Option<f64>,
    pub b: Option<f64>,
    /// B to A; `None` if either lacks or A is 0.
    pub ratio: Option<f64>,
    /// 95% of the ratio.
    pub interval: Option<Interval>,
}

#[derive(Debug, thiserror::Error)]
pub enum CompareError {
    #[error("{path}: {source}; name a file written by kvasir loadtest --json")]
    File {
        path: String,
        source: std::io::Error,
    },
    #[error("{path}: {source}")]
    Document { path: String, source: DocumentError },
    #[error(
        "--fail-if {expression}: {quantity} cannot be judged, {run} did not measure it; leave the \
         condition out or compare other runs"
    )]
    NotMeasured {
        expression: String,
        quantity: Quantity,
        run: &'static str,
    },
}

/// Text to print, and the conditions that hold.
pub fn compare(config: &Config) -> Result<(String, Findings), CompareError> {
    let (a, b) = (read(&config.a)?, read(&config.b)?);
    let findings = Comparison {
        a: &a,
        b: &b,
        fail_if: &config.fail_if,
        resamples: config.resamples,
        seed: config.seed,
    }
    .find()?;
    let heading = [described("A", &config.a, &a), described("B", &config.b, &b)];
    Ok((format!("{}\n{findings}", heading.concat()), findings))
}

impl Comparison<'_> {
    pub fn find(&self) -> Result<Findings, CompareError> {
        let mut warnings = Vec::new();
        for (name, run) in [("A", self.a), ("B", self.b)] {
            if let Some(reason) = &run.info.invalid {
                warnings.push(format!("{name} is an INVALID RUN: {}", printable(reason)));
            }
        }
        let mut intervals = self.intervals(&mut warnings);
        let rows: Vec<_> = Quantity::shown()
            .map(|quantity| {
                let row = self.row(quantity);
                Row {
                    interval: row.ratio.and_then(|_| intervals.remove(&quantity)),
                    ..row
                }
            })
            .filter(|it| it.a.is_some() || it.b.is_some())
            .collect();
        let failures = self.fail_if.iter().map(|it| self.failure(it));
        let failures: Result<Vec<_>, _> = failures.collect();
        Ok(Findings {
            rows,
            failures: failures?.into_iter().flatten().collect(),
            warnings,
        })
    }

    fn intervals(&self, warnings: &mut Vec<String>) -> BTreeMap<Quantity, Interval> {
        if self.a.records.is_none() || self.b.records.is_none() {
            warnings.push("no intervals: a file has no records".to_owned());
            return BTreeMap::new();
        }
        let bootstrap = Bootstrap {
            resamples: self.resamples,
            seed: self.seed,
        };
        bootstrap.ratios(self.a, self.b)
    }

    fn row(&self, quantity: Quantity) -> Row {
        let (a, b) = (quantity.of(&self.a.figures), quantity.of(&self.b.figures));
        let ratio = a.zip(b).filter(|it| it.0 > 0.0).map(|(a, b)| b / a);
        Row {
            quantity,
            a,
            b,
            ratio,
            interval: None,
        }
    }

    /// A line if the expression holds.
    fn failure(&self, expression: &Expression) -> Result<Option<String>, CompareError> {
        let quantity = expression.quantity;
        let row = self.row(quantity);
        let not_measured = |run| CompareError::NotMeasured {
            expression: expression.to_string(),
            quantity,
            run,
        };
        let b = row.b.ok_or_else(|| not_measured("B"))?;
        let (judged, what) = if quantity == Quantity::Errors {
            (b, "in B")
        } else {
            row.a.ok_or_else(|| not_measured("A"))?;
            // From 0 to more than 0 is beyond every ratio.
            let from_zero = if b > 0.0 { f64::INFINITY } else { 1.0 };
            (row.ratio.unwrap_or(from_zero), "of A")
        };
        let holds = expression.holds(judged);
        Ok(holds.then(|| format!("{expression}: {quantity} is {} {what}", decimal(judged, 4))))
    }
}

/// Warnings and the table; who prints it says which conditions hold.
impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for warning in &self.warnings {
            writeln!(f, "warning: {warning}")?;
        }
        let mut grid = Grid::new(["", "A", "B", "B/A", "95% interval", "differs"]);
        for row in &self.rows {
            let number =
                |it: Option<f64>| it.map_or("-".to_owned(), |it| row.quantity.shown_as(it));
            let interval = row.interval;
            let differs = interval.map(|it| if it.has(1.0) { "" } else { "yes" });
            grid.row([
                row.quantity.title(),
                number(row.a),
                number(row.b),
                row.ratio.map_or("-".to_owned(), |it| decimal(it, 3)),
                interval.map_or("-".to_owned(), |it| it.to_string()),
                differs.unwrap_or("").to_owned(),
            ]);
        }
        write!(f, "{grid}")
    }
}

fn read(path: &Path) -> Result<Document, CompareError> {
    let shown = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|source| CompareError::File {
        path: shown.clone(),
        source,
    })?;
    Document::from_json(&text).map_err(|source| CompareError::Document {
        path: shown,
        source,
    })
}

fn described(name: &str, path: &Path, run: &Document) -> String {
    let info = &run.info;
    let text = format!(
        "{name}  {}: {}, {}, {}, {}",
        path.display(),
        info.target,
        info.workload,
        info.arrival,
        utc(info.started)
    );
    printable(&text) + "\n"
}
