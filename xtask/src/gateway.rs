//! What the gateway costs: real routers before simulated workers, measured from
//! outside, each figure held against its bar.
//!
//! No part of the tests: a busy machine moves the figures. `--realtime` puts all
//! processes of a measurement before others (chrt), and what compares two
//! things takes them in turns.

mod bodies;
mod fleet;
mod latency;
mod load;
mod prompts;
mod streams;

use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};

use crate::bar::{self, Bar};
use crate::part::Binary;
use crate::{cargo, tools};

/// A section's name, what it measures, and the measurement.
type Section = (&'static str, &'static str, fn(&Plan) -> Result<Vec<Bar>>);

const SECTIONS: [Section; 5] = [
    (
        "latency",
        "added to a direct call at 500 requests/s",
        latency::run,
    ),
    (
        "prompts",
        "100,000 tokens of text, and a conversation",
        prompts::run,
    ),
    ("bodies", "from 1 KB to 1 MB at concurrency 20", bodies::run),
    (
        "fleet",
        "a start before 100 workers, and idling there",
        fleet::run,
    ),
    ("streams", "memory of 5,000 idle streams", streams::run),
];

/// What is measured, and with what.
pub struct Plan {
    /// Of workers and of the load generator.
    binary: Binary,
    /// Of the routers that are measured.
    router: Binary,
    /// Tokenizer and template: a folder, or the embedded model.
    model: String,
    /// For prompts and results.
    folder: PathBuf,
    sections: Vec<String>,
}

pub fn run(arguments: impl Iterator<Item = String>) -> Result<()> {
    let plan = Plan::read(arguments)?;
    std::fs::create_dir_all(&plan.folder)
        .with_context(|| format!("can't make {}", plan.folder.display()))?;
    let (mut bars, mut failed) = (Vec::new(), 0);
    for (name, about, measure) in SECTIONS {
        if plan.sections.is_empty() || plan.sections.iter().any(|it| it == name) {
            println!("== {name}: {about}");
            match measure(&plan) {
                Ok(measured) => bars.extend(measured),
                Err(error) => {
                    failed += 1;
                    eprintln!("{name} can't be measured: {error:#}");
                }
            }
        }
    }
    print!("\n{}", bar::table(&bars));
    let missed = bars.iter().filter(|it| !it.holds()).count();
    ensure!(failed == 0, "{failed} sections could not be measured");
    ensure!(missed == 0, "{missed} of {} bars do not hold", bars.len());
    Ok(())
}

impl Plan {
    fn read(mut arguments: impl Iterator<Item = String>) -> Result<Plan> {
        let (mut sections, mut realtime) = (Vec::new(), false);
        let (mut given, mut router) = (None, None);
        let mut model = "demo".to_owned();
        while let Some(argument) = arguments.next() {
            let mut value = || {
                let value = arguments.next();
                value.with_context(|| format!("{argument} needs a value"))
            };
            match argument.as_str() {
                "--realtime" => realtime = true,
                "--binary" => given = Some(PathBuf::from(value()?)),
                "--router" => router = Some(PathBuf::from(value()?)),
                "--model" => model = value()?,
                name if SECTIONS.iter().any(|(known, _, _)| *known == name) => {
                    sections.push(argument);
                }
                other => bail!("{other:?} is unknown; {}", usage()),
            }
        }
        let path = match given {
            Some(path) => path,
            None => {
                tools::compiler()?;
                cargo(&["build", "--release", "--package", "kvasir"])?;
                tools::target_dir().join("release/kvasir")
            }
        };
        Ok(Plan {
            router: Binary {
                path: router.unwrap_or_else(|| path.clone()),
                realtime,
            },
            binary: Binary { path, realtime },
            model,
            folder: tools::target_dir().join("gateway"),
            sections,
        })
    }

    fn file(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }
}

fn usage() -> String {
    let names: Vec<&str> = SECTIONS.iter().map(|(name, _, _)| *name).collect();
    format!(
        "cargo xtask gateway [{}]... [--model DIR] [--binary FILE] [--router FILE] [--realtime]",
        names.join("|")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(words: &str) -> Result<Plan> {
        let words = format!("--binary kvasir {words}");
        Plan::read(words.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn sections_and_flags_come_in_any_order() {
        let plan = read("streams --model folder fleet --realtime").unwrap();
        assert_eq!(plan.sections, ["streams", "fleet"]);
        assert_eq!(plan.model, "folder");
        assert!(plan.binary.realtime);
        assert_eq!(plan.binary.path, PathBuf::from("kvasir"));
    }

    #[test]
    fn what_is_unknown_or_incomplete_is_refused() {
        for words in ["stream", "--modle x", "--model"] {
            assert!(read(words).is_err(), "{words}");
        }
    }
}
