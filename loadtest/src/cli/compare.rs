//! `kvasir loadtest compare`.

use std::process::ExitCode;

use super::{Mistakes, complain, say};
use crate::compare::{Config, compare};

pub(super) type Args = Config;

pub(super) fn run(args: Args) -> Result<ExitCode, Mistakes> {
    let (table, findings) = compare(&args)?;
    say(table.trim_end());
    for failure in &findings.failures {
        complain(failure);
    }
    Ok(match findings.failures.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}
