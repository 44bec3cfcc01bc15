//! The file a run leaves: what was run, its figures and, if wanted, its records.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::SweepPoint;
use super::numbers::percent;
use super::rows::Row;
use crate::figures::{Figures, RunInfo};
use crate::record::Record;
use crate::simulate::ClusterFigures;

/// Of the files written and read. Raised when a reader of the one before would
/// misread a file; new keys do not raise it.
pub const SCHEMA: u64 = 1;

#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    pub info: RunInfo,
    pub figures: Figures,
    /// `None`: not kept, so that intervals cannot be computed. In microseconds.
    pub records: Option<Vec<Record>>,
    pub sweep: Vec<SweepPoint>,
    /// Of a simulation: the policies side by side, the first of which `figures`
    /// are of.
    pub policies: Vec<PolicyPoint>,
}

/// A policy of a simulation and what it led to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PolicyPoint {
    /// Arrivals as a share of what the cluster gets through at most; `None`: they
    /// were not set by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load: Option<f64>,
    pub cluster: ClusterFigures,
    pub figures: Figures,
}

impl PolicyPoint {
    /// What it is called beside others.
    pub fn name(&self) -> String {
        match self.load {
            Some(load) => format!("{} at {}", self.cluster.policy, percent(load)),
            None => self.cluster.policy.clone(),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    #[error("is no JSON: {0}; give a file written by kvasir loadtest --json")]
    Json(serde_json::Error),
    #[error("has no \"schema\"; give a file written by kvasir loadtest --json")]
    NoSchema,
    #[error("has schema {0}, this kvasir reads {SCHEMA}; use the kvasir that wrote it")]
    Schema(u64),
    #[error("is not as schema {SCHEMA} wants it: {0}; write it again")]
    Shape(serde_json::Error),
    #[error("record {0}: {1}; write the file again")]
    Record(usize, String),
}

#[derive(Serialize)]
struct Written<'a> {
    schema: u64,
    info: &'a RunInfo,
    figures: &'a Figures,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    sweep: &'a [SweepPoint],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    policies: &'a [PolicyPoint],
    #[serde(skip_serializing_if = "Option::is_none")]
    records: Option<Vec<Row>>,
}

#[derive(Deserialize)]
struct Read {
    info: RunInfo,
    figures: Figures,
    #[serde(default)]
    sweep: Vec<SweepPoint>,
    #[serde(default)]
    policies: Vec<PolicyPoint>,
    records: Option<Vec<Row>>,
}

/// Only the key that every schema has.
#[derive(Deserialize)]
struct Versioned {
    schema: Option<Value>,
}

impl Document {
    pub fn to_json(&self) -> String {
        let rows = |records: &Vec<Record>| records.iter().map(Row::from).collect();
        let written = Written {
            schema: SCHEMA,
            info: &self.info,
            figures: &self.figures,
            sweep: &self.sweep,
            policies: &self.policies,
            records: self.records.as_ref().map(rows),
        };
        serde_json::to_string(&written).expect("no map in it has keys other than strings")
    }

    pub fn from_json(text: &str) -> Result<Document, DocumentError> {
        let versioned: Versioned = serde_json::from_str(text).map_err(DocumentError::Json)?;
        match versioned.schema.as_ref().and_then(Value::as_u64) {
            Some(SCHEMA) => {}
            Some(other) => return Err(DocumentError::Schema(other)),
            None => return Err(DocumentError::NoSchema),
        }
        let read: Read = serde_json::from_str(text).map_err(DocumentError::Shape)?;
        Ok(Document {
            info: read.info,
            figures: read.figures,
            records: read.records.map(records).transpose()?,
            sweep: read.sweep,
            policies: read.policies,
        })
    }
}

fn records(rows: Vec<Row>) -> Result<Vec<Record>, DocumentError> {
    let numbered = rows.into_iter().enumerate();
    numbered
        .map(|(i, row)| row.record().map_err(|it| DocumentError::Record(i, it)))
        .collect()
}
