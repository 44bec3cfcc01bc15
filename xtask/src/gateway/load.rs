//! Runs of the load generator, and of what they found.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::Plan;

/// What a run found; times in milliseconds.
#[derive(Clone, Copy, Debug)]
pub struct Found {
    pub answered: f64,
    pub input_tokens: f64,
    pub ttft: Quantiles,
    pub e2e: Quantiles,
}

#[derive(Clone, Copy, Debug)]
pub struct Quantiles {
    pub p50: f64,
    pub p99: f64,
}

/// Sends load to `url` (`http://` a router, `grpc://` a worker). Every request
/// must be answered as asked for.
pub fn run(plan: &Plan, url: &str, model: &str, flags: &[&str]) -> Result<Found> {
    let file = plan.file("run.json");
    let mut command = plan.binary.command(&["loadtest", "run", "--url", url]);
    command.args(["--model", model, "--quiet", "--json", &file]);
    // Its exit code tells of a generator that was late, which the caller sees
    // in the figures, and its output is theirs.
    let ended = command
        .args(flags)
        .output()
        .context("can't run the load test")?;
    let text = std::fs::read_to_string(&file);
    let text = text.with_context(|| String::from_utf8_lossy(&ended.stderr).into_owned())?;
    std::fs::remove_file(&file)?;
    let report: Value = serde_json::from_str(&text)?;
    let outcomes = &report["figures"]["requests"]["outcomes"];
    let complete = outcomes["complete"].as_f64().unwrap_or_default();
    let counted = report["figures"]["requests"]["counted"].as_f64();
    ensure!(
        counted == Some(complete),
        "requests of {url} ended as {outcomes}"
    );
    Found::read(&report["figures"]).with_context(|| format!("no figures in {file}"))
}

pub fn http(address: SocketAddr) -> String {
    format!("http://{address}")
}

impl Found {
    fn read(figures: &Value) -> Option<Found> {
        let quantiles = |of: &str| {
            let latency = &figures["latency_ms"][of];
            Some(Quantiles {
                p50: latency["p50"].as_f64()?,
                p99: latency["p99"].as_f64()?,
            })
        };
        Some(Found {
            answered: figures["requests"]["answered"].as_f64()?,
            input_tokens: figures["tokens"]["input"].as_f64()?,
            ttft: quantiles("ttft")?,
            e2e: quantiles("e2e")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn reads_what_the_bars_need() {
        let quantiles = json!({"p50": 1.5, "p99": 2.5});
        let figures = json!({
            "requests": {"answered": 7},
            "tokens": {"input": 70},
            "latency_ms": {"ttft": quantiles, "e2e": quantiles},
        });
        let found = Found::read(&figures).unwrap();
        assert_eq!((found.answered, found.input_tokens), (7.0, 70.0));
        assert_eq!((found.ttft.p50, found.e2e.p99), (1.5, 2.5));
        assert!(Found::read(&json!({})).is_none());
    }
}
