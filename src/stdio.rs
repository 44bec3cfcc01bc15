//! Standard input and output: lines for people and for a parent process.

use std::io::{Read, Write};

use tokio::sync::oneshot;

/// How a part learns that the process that started it is gone or wants it to
/// end: its standard input closes. Unlike a signal this can't be missed and
/// needs no process id.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
pub struct ParentFlag {
    /// Drain when standard input closes
    #[arg(long, hide = true)]
    until_stdin_closes: bool,
}

impl ParentFlag {
    /// The flag as an argument of a child process.
    pub const ARGUMENT: &str = "--until-stdin-closes";

    /// Resolves when standard input closes; never without the flag.
    pub async fn closed(&self) {
        if !self.until_stdin_closes {
            return std::future::pending().await;
        }
        let (closed_tx, closed_rx) = oneshot::channel::<()>();
        // A thread of its own, since a read can't be cancelled: the runtime
        // would wait for it at the end.
        std::thread::spawn(move || {
            let mut ignored = [0; 256];
            while matches!(std::io::stdin().read(&mut ignored), Ok(1..)) {}
            drop(closed_tx);
        });
        let _ = closed_rx.await;
    }
}

/// One line on standard output. A closed output is no reason to end.
pub fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// One line on standard error.
pub fn complain(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}
