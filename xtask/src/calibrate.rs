//! Whether the simulator tells the truth: one workload, once through a real
//! cluster of simulated devices and once through the simulator.
//!
//! No part of the tests: the real run keeps real time, which a busy machine
//! does not.

use std::process::Command;

use anyhow::{Context, Result};

use crate::cluster::Cluster;
use crate::{call, cargo, tools};

/// 1,000 prompt tokens, of which 800 are one of 400 prefixes.
const WORKLOAD: &str = "--prefix-groups 400 --prefix-tokens 800 --input-tokens 200 \
                        --output-tokens 50 --prompt-format tokens --token-ids 300..1000 \
                        --rate 40 --requests 2000 --warm-up 100 --seed 3";

const WORKERS: &str = "4";

/// How far the two may be apart.
const TOLERANCE: f64 = 0.1;

pub fn run() -> Result<()> {
    tools::compiler()?;
    cargo(&["build", "--release", "--package", "kvasir"])?;
    let cluster = Cluster::start(&["--workers", WORKERS, "--device", "sim"])?;
    let folder = tools::target_dir().join("calibrate");
    std::fs::create_dir_all(&folder)?;
    let file = |name: &str| folder.join(name).display().to_string();
    let (real, simulated) = (file("real.json"), file("simulated.json"));
    let url = cluster.url.clone();
    let common = || WORKLOAD.split_whitespace();
    loadtest("run")
        .args(["--url", &url, "--model", "kvasir-demo", "--quiet"])
        .args(["--json", &real])
        .args(common())
        .status()
        .context("can't run the load test")?;
    cluster.end()?;
    call(
        loadtest("simulate")
            .args(["--workers", &format!("{WORKERS}:sim"), "--json", &simulated])
            .args(common()),
    )?;
    let mut compare = loadtest("compare");
    compare.args([&real, &simulated]);
    for quantity in ["mean(ttft)", "p50(ttft)", "p90(ttft)", "cached"] {
        compare.args(["--fail-if", &format!("{quantity}<{}", 1.0 - TOLERANCE)]);
        compare.args(["--fail-if", &format!("{quantity}>{}", 1.0 + TOLERANCE)]);
    }
    call(&mut compare)
}

fn loadtest(what: &str) -> Command {
    let mut command = Command::new(tools::target_dir().join("release/kvasir"));
    command.args(["loadtest", what]);
    command
}
