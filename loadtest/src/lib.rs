//! The measuring instrument: a load generator for any OpenAI-compatible
//! endpoint, and reports of what it measured.
//!
//! A workload plans requests (`planned`), the generator sends them and records
//! what happens (`record`), figures are computed from the records once, and
//! every report shows those figures. Tests of whole clusters live in `tests/`.

pub mod accuracy;
pub mod arrival;
pub mod cli;
pub mod client;
pub mod compare;
pub mod figures;
pub mod generator;
pub mod null_server;
pub mod planned;
pub mod record;
pub mod report;
pub mod selfcheck;
pub mod simulate;
pub mod sweep;
pub mod workload;
