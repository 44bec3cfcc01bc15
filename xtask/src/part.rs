//! Processes of the release build: started until they are ready, and watched
//! from outside through /proc.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;

use anyhow::{Context, Result, ensure};

/// The kernel counts CPU time for others in hundredths of a second.
const TICKS_PER_SECOND: f64 = 100.0;

/// Before all that is not urgent, behind what the kernel needs.
const PRIORITY: &str = "5";

/// The program to measure.
pub struct Binary {
    pub path: PathBuf,
    /// Its processes run before all others.
    pub realtime: bool,
}

/// A running router, worker or cluster; ends when dropped.
pub struct Part {
    child: Child,
    /// Lines up to the one that says that it is ready.
    pub said: Vec<String>,
}

impl Binary {
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = match self.realtime {
            true => Command::new("chrt"),
            false => Command::new(&self.path),
        };
        if self.realtime {
            command.args(["-r", PRIORITY]).arg(&self.path);
        }
        command.args(arguments);
        command
    }

    /// Starts a part, which says `ready...` when it is.
    pub fn start(&self, arguments: &[&str]) -> Result<Part> {
        let mut child = self
            .command(&[arguments, &["--log-level=error"]].concat())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("can't start {}", self.path.display()))?;
        let mut out = BufReader::new(child.stdout.take().context("no output")?);
        let mut part = Part {
            child,
            said: Vec::new(),
        };
        loop {
            let mut line = String::new();
            out.read_line(&mut line)?;
            ensure!(!line.is_empty(), "{arguments:?} ended before it was ready");
            part.said.push(line.trim_end().to_owned());
            if line.starts_with("ready") {
                break;
            }
        }
        // Who writes to a pipe that nobody reads would stop in the end.
        thread::spawn(move || out.read_to_end(&mut Vec::new()));
        Ok(part)
    }

    /// A worker with a simulated device.
    pub fn worker(&self, model: &str, flags: &[&str]) -> Result<Part> {
        let mut all = vec![
            "worker",
            "--device=sim",
            "--listen=127.0.0.1:0",
            "--model",
            model,
        ];
        all.push("--until-stdin-closes");
        all.extend(flags);
        self.start(&all)
    }

    /// A router that knows all of `workers`.
    pub fn router(&self, workers: &[SocketAddr], flags: &[&str]) -> Result<Part> {
        let workers: Vec<String> = workers
            .iter()
            .map(|it| format!("--worker=grpc://{it}"))
            .collect();
        let mut all = vec!["router", "--listen=127.0.0.1:0", "--until-stdin-closes"];
        all.extend(workers.iter().map(String::as_str));
        all.extend(flags);
        self.start(&all)
    }
}

impl Part {
    /// Where it listens, as its ready line says.
    pub fn address(&self) -> Result<SocketAddr> {
        let line = self.said.last().map_or("", String::as_str);
        let words = line.split_whitespace();
        let address = words.filter_map(|word| word.trim_start_matches("http://").parse().ok());
        let mut address = address;
        address
            .next()
            .with_context(|| format!("no address in {line:?}"))
    }

    /// The model that a worker serves, as its ready line says.
    pub fn model(&self) -> Result<String> {
        let line = self.said.last().map_or("", String::as_str);
        let model = line.splitn(5, ' ').nth(4);
        Ok(model
            .with_context(|| format!("no model in {line:?}"))?
            .to_owned())
    }

    /// CPU time so far, in seconds: its own and the kernel's for it.
    pub fn cpu(&self) -> Result<f64> {
        cpu(&self.proc("stat")?)
    }

    /// Resident memory, in KiB.
    pub fn resident(&self) -> Result<f64> {
        let status = self.proc("status")?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.split_whitespace().next());
        Ok(kib.context("no VmRSS")?.parse()?)
    }

    fn proc(&self, file: &str) -> Result<String> {
        let path = format!("/proc/{}/{file}", self.child.id());
        std::fs::read_to_string(&path).with_context(|| format!("can't read {path}"))
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // Fails if it ended, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Of a line of /proc/PID/stat, whose second field may contain anything.
fn cpu(stat: &str) -> Result<f64> {
    let (_, fields) = stat.rsplit_once(')').context("no process name")?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let ticks = |at: usize| -> Result<f64> { Ok(fields.get(at).context("too short")?.parse()?) };
    // utime and stime are the 14th and 15th, counted from 1.
    Ok((ticks(11)? + ticks(12)?) / TICKS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_of_user_and_kernel() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 100 0 0 0 250 50 3 4 20 0 1 0 5 6 7";
        assert_eq!(cpu(stat).unwrap(), 3.0);
        assert!(cpu("7 (a) S 1").is_err());
    }
}
