//! Writes reports of made-up records, to see what they look like:
//! `cargo run -p loadtest --example report -- FOLDER`.

use std::error::Error;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use loadtest::figures::{Figures, Objectives, RunInfo};
use loadtest::record;
use loadtest::report::{self, Document, Report, SweepPoint, Verdict};

#[path = "../src/figures/made_up.rs"]
mod made_up;

use made_up::MadeUp;

fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::args().nth(1).ok_or("name a folder to write to")?;
    let folder = PathBuf::from(folder);
    let objectives: Objectives = "ttft=500ms,itl=50ms,e2e=10s".parse()?;
    let records = made_up(20.0, 1.0).records();
    let figures = Figures::of(&records, &objectives);
    let point = |rate: f64| SweepPoint {
        rate,
        verdict: match rate < 30.0 {
            true => Verdict::Holds,
            false => Verdict::Misses,
        },
        figures: Figures::of(
            &made_up(rate, 1.0 + rate * rate / 900.0).records(),
            &objectives,
        ),
    };
    let sweep: Vec<_> = [5.0, 10.0, 20.0, 30.0, 40.0].map(point).into();
    let info = info();
    let report = Report {
        info: &info,
        figures: &figures,
        records: &records,
        sweep: &sweep,
        policies: &[],
    };
    fs::write(folder.join("report.html"), report::html(&report))?;
    fs::write(folder.join("report.txt"), report::table(&info, &figures))?;
    report::csv(&records, &mut fs::File::create(folder.join("report.csv"))?)?;
    let document = Document {
        info,
        figures,
        records: Some(records),
        sweep: Vec::new(),
        policies: Vec::new(),
    };
    fs::write(folder.join("report.json"), document.to_json())?;
    Ok(())
}

fn made_up(rate: f64, slowness: f64) -> MadeUp {
    MadeUp {
        seed: 7,
        requests: 1200,
        rate,
        slowness,
    }
}

fn info() -> RunInfo {
    RunInfo {
        target: "made-up records, no server".to_owned(),
        model: "no-model".to_owned(),
        workload: "600 tokens in, 120 out, log-normal".to_owned(),
        arrival: "Poisson, 20 requests/s".to_owned(),
        started: 1_700_000_000,
        duration: Duration::from_secs(60),
        seed: 7,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        cores: 2,
        invalid: Some("records are made up by a seeded generator".to_owned()),
        notes: vec!["the server stalls from second 30 to 31.5".to_owned()],
    }
}
