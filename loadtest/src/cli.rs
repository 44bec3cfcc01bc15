//! `kvasir loadtest`: its subcommands, and what each prints and writes.
//!
//! Exit codes: 0, all is well; 1, a comparison or check failed, the generator
//! fell behind, no request was answered, or a sweep found no limit; 2, something
//! was asked for that can't be done, one line for each mistake.

mod compare;
mod null_server;
mod reports;
mod run;
mod selfcheck;
mod simulate;
mod sweep;
mod target;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

/// Measure any OpenAI-compatible endpoint.
#[derive(Debug, Parser)]
#[command(name = "kvasir loadtest", max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Send requests and report what happened
    Run(run::Args),
    /// Find the highest rate at which objectives hold
    Sweep(sweep::Args),
    /// Show two runs side by side, and fail if one is worse
    Compare(compare::Args),
    /// Run a workload through a simulated cluster, in virtual time
    Simulate(simulate::Args),
    /// Measure what this generator can do on this machine
    Selfcheck(selfcheck::Args),
    /// Serve answers of known timing, to hold any load generator against
    NullServer(null_server::Args),
}

/// Mistakes of the user, a line each.
#[derive(Debug)]
struct Mistakes(Vec<String>);

impl<E: std::error::Error> From<E> for Mistakes {
    fn from(error: E) -> Mistakes {
        Mistakes(vec![error.to_string()])
    }
}

/// Runs `kvasir loadtest` with what follows these words on the command line.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let program = OsString::from("kvasir loadtest");
    let arguments = [program].into_iter().chain(arguments);
    let parsed = Cli::command().try_get_matches_from(arguments);
    let (cli, matches) = match parsed.and_then(|it| Ok((Cli::from_arg_matches(&it)?, it))) {
        Ok(parsed) => parsed,
        Err(error) => {
            // Help goes to standard output, mistakes to standard error.
            let _ = error.print();
            return ExitCode::from(error.exit_code() as u8);
        }
    };
    let flags = matches.subcommand().map(|(_, flags)| flags);
    // Only of subcommands that have a workload.
    let workload = || flags.map(run::workload_given).unwrap_or_default();
    let done = match cli.what {
        What::Run(args) => run::run(args, workload()),
        What::Sweep(args) => sweep::run(args, workload()),
        What::Compare(args) => compare::run(args),
        What::Simulate(args) => simulate::run(args, workload()),
        What::Selfcheck(args) => selfcheck::run(args),
        What::NullServer(args) => null_server::run(args),
    };
    done.unwrap_or_else(|Mistakes(mistakes)| {
        for mistake in mistakes {
            complain(&mistake);
        }
        ExitCode::from(2)
    })
}

#[allow(clippy::print_stdout, reason = "it reports to a person or a pipe")]
fn say(text: &str) {
    println!("{text}");
}

#[allow(clippy::print_stderr, reason = "it reports to a person")]
fn complain(text: &str) {
    eprintln!("kvasir loadtest: {text}");
}

/// Runs `future` on a runtime of its own, told when Ctrl-C is pressed.
fn block_on<T>(
    future: impl Future<Output = T>,
    stop: &tokio_util::sync::CancellationToken,
) -> std::io::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    Ok(runtime.block_on(async {
        tokio::pin!(future);
        tokio::select! {
            done = &mut future => return done,
            _ = tokio::signal::ctrl_c() => stop.cancel(),
        }
        future.await
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_do_not_contradict_each_other() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_subcommand_without_a_workload_tells_mistakes_by_exit_code_2() {
        let arguments = ["compare", "/no/a.json", "/no/b.json"].map(OsString::from);
        let expected = format!("{:?}", ExitCode::from(2));
        assert_eq!(format!("{:?}", main(arguments)), expected);
    }
}
