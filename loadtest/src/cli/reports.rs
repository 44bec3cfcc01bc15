//! Flags that say what is written of a run.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use super::complain;
use crate::generator::Display;
use crate::report::{Document, Report, csv, html, sweep_csv};

#[derive(Debug, clap::Args)]
#[group(skip)]
#[command(next_help_heading = "Reports")]
pub(super) struct Reports {
    /// Write figures and all records; `kvasir loadtest compare` reads it
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write a row for each request, or for each rate of a sweep; times in
    /// milliseconds
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// Write a page with plots that needs no network
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Show no progress
    #[arg(long)]
    quiet: bool,
}

impl Reports {
    /// Adds a line for each file that can't be written: better before the run
    /// than after it.
    pub(super) fn check(&self, mistakes: &mut Vec<String>) {
        for (name, file) in self.files() {
            if let Err(error) = writable(file) {
                mistakes.push(format!("--{name} {}: {error}", file.display()));
            }
        }
    }

    pub(super) fn is_quiet(&self) -> bool {
        self.quiet
    }

    pub(super) fn display(&self) -> Display {
        match self.quiet {
            true => Display::Off,
            false => Display::Auto,
        }
    }

    pub(super) fn write(&self, document: &Document) -> io::Result<()> {
        let records = document.records.as_deref().unwrap_or_default();
        if let Some(file) = &self.csv {
            let mut file = BufWriter::new(File::create(file)?);
            match document.sweep.is_empty() {
                true => csv(records, &mut file)?,
                false => sweep_csv(&document.sweep, &mut file)?,
            }
            file.flush()?;
        }
        if let Some(file) = &self.html {
            let report = Report {
                info: &document.info,
                figures: &document.figures,
                records,
                sweep: &document.sweep,
                policies: &document.policies,
            };
            std::fs::write(file, html(&report))?;
        }
        if let Some(file) = &self.json {
            std::fs::write(file, document.to_json())?;
        }
        for (_, file) in self.files() {
            complain(&format!("wrote {}", file.display()));
        }
        Ok(())
    }

    /// Reports to be written, by the flags that ask for them.
    fn files(&self) -> impl Iterator<Item = (&'static str, &PathBuf)> {
        let all = [
            ("json", &self.json),
            ("csv", &self.csv),
            ("html", &self.html),
        ];
        all.into_iter()
            .filter_map(|(name, file)| Some((name, file.as_ref()?)))
    }
}

fn writable(file: &Path) -> io::Result<()> {
    File::options()
        .append(true)
        .create(true)
        .open(file)
        .map(drop)
}
