//! A cluster as a user starts it: `kvasir up` from the release build.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::{call, tools};

/// From the start of the binary to the ready line.
const READY_WITHIN: Duration = Duration::from_secs(3);

/// From Ctrl-C to the end, with nothing left to do.
const END_WITHIN: Duration = Duration::from_secs(10);

/// A running cluster; killed when dropped.
pub struct Cluster {
    child: Child,
    lines: Receiver<String>,
    /// Of the gateway, `http://HOST:PORT`.
    pub url: String,
    /// Of each worker, `http://HOST:PORT`.
    pub workers: Vec<String>,
}

impl Cluster {
    /// Starts `kvasir up` and waits until it is ready.
    pub fn start(arguments: &[&str]) -> Result<Cluster> {
        let start = Instant::now();
        let binary = tools::target_dir().join("release/kvasir");
        let mut child = Command::new(&binary)
            .args(["up", "--port", "0"])
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("can't start {}", binary.display()))?;
        let lines = read_lines(&mut child);
        let mut cluster = Cluster {
            child,
            lines,
            url: String::new(),
            workers: Vec::new(),
        };
        while cluster.url.is_empty() {
            let left = READY_WITHIN.saturating_sub(start.elapsed());
            match cluster.lines.recv_timeout(left) {
                Ok(line) => cluster.read(&line),
                Err(RecvTimeoutError::Timeout) => bail!("not ready within {READY_WITHIN:?}"),
                Err(RecvTimeoutError::Disconnected) => bail!("ended before it was ready"),
            }
        }
        println!(
            "ready {:.2} s after its start",
            start.elapsed().as_secs_f64()
        );
        Ok(cluster)
    }

    fn read(&mut self, line: &str) {
        println!("  {line}");
        let last = line.split_whitespace().next_back().unwrap_or_default();
        if line.starts_with("ready after") {
            self.url = last.to_owned();
        } else if let Some(address) = last.strip_prefix("grpc://") {
            self.workers.push(format!("http://{address}"));
        }
    }

    /// Largest resident memory so far, in MiB.
    pub fn peak_memory(&self) -> Result<u64> {
        let path = format!("/proc/{}/status", self.child.id());
        let status =
            std::fs::read_to_string(&path).with_context(|| format!("can't read {path}"))?;
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = peak
            .and_then(|it| it.split_whitespace().next())
            .context("no VmHWM")?;
        Ok(kib.parse::<u64>()? / 1024)
    }

    /// Ctrl-C; the cluster must say that it drains and exit with 0.
    pub fn end(mut self) -> Result<()> {
        let id = self.child.id().to_string();
        call(Command::new("sh").args(["-c", "kill -INT \"$0\"", &id]))?;
        let start = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            if start.elapsed() > END_WITHIN {
                bail!("still there {END_WITHIN:?} after Ctrl-C");
            }
            thread::sleep(Duration::from_millis(20));
        };
        if !status.success() {
            bail!("after Ctrl-C: {status}");
        }
        if !self.lines.iter().any(|line| line.starts_with("draining")) {
            bail!("did not say that it drains");
        }
        println!(
            "Ctrl-C ended it in {:.2} s with 0",
            start.elapsed().as_secs_f64()
        );
        Ok(())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // Fails if it ended, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read_lines(child: &mut Child) -> Receiver<String> {
    let (lines_tx, lines_rx) = channel();
    let stdout = child.stdout.take();
    thread::spawn(move || {
        let lines = stdout.into_iter().flat_map(|it| BufReader::new(it).lines());
        for line in lines.map_while(Result::ok) {
            if lines_tx.send(line).is_err() {
                return;
            }
        }
    });
    lines_rx
}
