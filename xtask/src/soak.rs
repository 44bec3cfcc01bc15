//! `cargo xtask soak`: the chaos test of `loadtest`, for minutes.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{call, tools};

const MINUTES: f64 = 10.0;

/// Runs it as the arguments after `soak` say.
pub fn run(arguments: impl Iterator<Item = String>) -> Result<()> {
    let (minutes, seed) = read(arguments)?;
    let mut cargo = Command::new(tools::cargo());
    cargo
        .args(["test", "--package", "loadtest", "--test", "chaos", "--"])
        .args(["--ignored", "--exact", "soak", "--nocapture"])
        .env("KVASIR_SOAK_SECONDS", ((minutes * 60.0) as u64).to_string())
        .env("KVASIR_SOAK_SEED", seed.to_string());
    call(&mut cargo)
}

fn read(mut arguments: impl Iterator<Item = String>) -> Result<(f64, u64)> {
    let (mut minutes, mut seed) = (MINUTES, 1);
    while let Some(flag) = arguments.next() {
        let value = arguments
            .next()
            .with_context(|| format!("{flag} has no value"))?;
        let number = || format!("{flag} {value} is no number");
        match flag.as_str() {
            "--minutes" => minutes = value.parse().with_context(number)?,
            "--seed" => seed = value.parse().with_context(number)?,
            _ => bail!("{flag} is unknown; there are --minutes and --seed"),
        }
    }
    if !(minutes.is_finite() && minutes > 0.0) {
        bail!("--minutes must be above 0");
    }
    Ok((minutes, seed))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Option<(f64, u64)> {
        read(text.split_whitespace().map(str::to_owned)).ok()
    }

    #[test]
    fn reads_its_flags_and_nothing_else() {
        assert_eq!(parsed(""), Some((10.0, 1)));
        assert_eq!(parsed("--seed 7 --minutes 0.5"), Some((0.5, 7)));
        for wrong in ["--minutes", "--minutes x", "--minutes -1", "--hours 1"] {
            assert_eq!(parsed(wrong), None, "{wrong}");
        }
    }
}
