//! Parts as processes of their own: started, watched, started again when they
//! die, and asked to drain by closing their standard input. A child whose
//! parent dies drains the same way.

use std::net::SocketAddr;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use runtime::Lifecycle;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::time::Instant;

use crate::part::Ready;
use crate::stdio::say;

/// Pause before a dead part is started again; doubles each time it dies soon.
const BACKOFF_MIN: Duration = Duration::from_millis(250);
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// A part that lived so long starts again with the shortest pause.
const HEALTHY: Duration = Duration::from_secs(60);

/// A part that runs.
struct Running {
    child: Child,
    /// Closed to ask for a drain.
    stdin: Option<ChildStdin>,
    ready: Ready,
    since: Instant,
}

/// Starts `kvasir arguments...`; keeps it running until `life` drains.
pub async fn start(
    name: String,
    arguments: Vec<String>,
    life: &Lifecycle,
) -> anyhow::Result<Ready> {
    let running = launch(&arguments).await?;
    let ready = running.ready.clone();
    let part = Part {
        name,
        arguments: with_address(arguments, ready.address()),
        life: life.clone(),
    };
    life.spawn("process", part.keep_running(running));
    Ok(ready)
}

/// The same arguments, but listening where the part listens now: the others
/// know it by that address.
fn with_address(arguments: Vec<String>, address: SocketAddr) -> Vec<String> {
    let listen = |argument: String| match argument.starts_with("--listen=") {
        true => format!("--listen={address}"),
        false => argument,
    };
    arguments.into_iter().map(listen).collect()
}

async fn launch(arguments: &[String]) -> anyhow::Result<Running> {
    let program = std::env::current_exe().context("the program's own file can't be found")?;
    let mut command = Command::new(program);
    // As in one process, a part sees nothing but its arguments.
    for (variable, _) in std::env::vars_os() {
        if variable.to_string_lossy().starts_with("KVASIR_") {
            command.env_remove(variable);
        }
    }
    // Out of the terminal's process group: Ctrl-C is for the parent, which ends
    // its parts in order.
    #[cfg(unix)]
    command.process_group(0);
    let spawned = command
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn();
    let mut child = spawned.context("can't start a process")?;
    let stdin = child.stdin.take();
    let mut line = String::new();
    if let Some(stdout) = child.stdout.take() {
        BufReader::new(stdout).read_line(&mut line).await?;
    }
    if line.is_empty() {
        bail!("it ended before it was ready ({})", child.wait().await?);
    }
    Ok(Running {
        child,
        stdin,
        ready: line.parse()?,
        since: Instant::now(),
    })
}

struct Part {
    name: String,
    arguments: Vec<String>,
    life: Lifecycle,
}

impl Part {
    async fn keep_running(self, mut running: Running) {
        let mut backoff = BACKOFF_MIN;
        loop {
            let status = tokio::select! {
                status = running.child.wait() => status,
                () = self.life.drain_started() => return self.drain(running).await,
            };
            if running.since.elapsed() > HEALTHY {
                backoff = BACKOFF_MIN;
            }
            say(&format!(
                "{} ended ({}); starting it again",
                self.name,
                described(status)
            ));
            match self.restart(&mut backoff).await {
                Some(restarted) => running = restarted,
                None => return,
            }
        }
    }

    /// Tries until it runs; `None` if the drain starts before.
    async fn restart(&self, backoff: &mut Duration) -> Option<Running> {
        loop {
            let attempt = async {
                tokio::time::sleep(*backoff).await;
                launch(&self.arguments).await
            };
            let launched = tokio::select! {
                launched = attempt => launched,
                () = self.life.drain_started() => return None,
            };
            *backoff = (*backoff * 2).min(BACKOFF_MAX);
            match launched {
                Ok(running) => {
                    say(&format!(
                        "{} is back on {}",
                        self.name,
                        running.ready.address()
                    ));
                    return Some(running);
                }
                Err(error) => say(&format!(
                    "{} did not start ({error:#}); trying again in {backoff:?}",
                    self.name
                )),
            }
        }
    }

    async fn drain(&self, mut running: Running) {
        drop(running.stdin.take());
        tokio::select! {
            _ = running.child.wait() => {}
            () = self.life.stopped() => {
                // Gone already, or killed now.
                let _ = running.child.kill().await;
            }
        }
    }
}

fn described(status: std::io::Result<ExitStatus>) -> String {
    match status {
        Ok(status) => status.to_string(),
        Err(error) => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_starts_again_where_it_was() {
        let arguments = ["worker", "--listen=127.0.0.1:0", "--id=a"].map(str::to_owned);
        let again = with_address(arguments.to_vec(), "127.0.0.1:4711".parse().unwrap());
        assert_eq!(again, ["worker", "--listen=127.0.0.1:4711", "--id=a"]);
    }
}
