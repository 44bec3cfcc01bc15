//! How well requests are routed: policies side by side in the simulator, at
//! shares of what each cluster gets through.
//!
//! No part of the tests: it takes many minutes, and the traces are not ours.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{cargo, tools};

const POLICIES: [&str; 6] = [
    "cost",
    "sglang-cache-aware",
    "dynamo-cost",
    "least-loaded",
    "power-of-two",
    "round-robin",
];

const LOADS: &str = "50%,80%,95%";

/// The mean of an answer's gaps, not their worst, as TPOT objectives have it.
const OBJECTIVES: &str = "ttft=2s,itl.mean=50ms";

/// Half as fast as the `h100` that the simulator has.
const HALF_SPEED: &str = r#"
[h100-half]
about = "an H100 at half its speed"
source = "h100"
prefill_tokens_per_second = 27700
step = "6400us"
decode_per_sequence = "15us"
decode_per_1000_context_tokens = "52us"
kv_blocks = 25700
kv_bytes_per_token = 131072
network_gbit_per_second = 400
speed = 0.5
"#;

/// A workload by name: a file of the traces and flags.
struct Workload {
    name: &'static str,
    trace: Option<&'static str>,
    flags: &'static str,
}

const CONVERSATION: Workload = Workload {
    name: "Mooncake conversation",
    trace: Some("mooncake_conversation_first40min.jsonl"),
    flags: "--trace-spread 3s",
};
const CHAT: Workload = Workload {
    name: "Azure conversation",
    trace: Some("azure2023_conv_first36min.csv"),
    flags: "",
};
const CODE: Workload = Workload {
    name: "Azure code",
    trace: Some("azure2023_code_first36min.csv"),
    flags: "",
};
/// Long instructions shared by many, several calls in a row, short answers.
const AGENT: Workload = Workload {
    name: "tool agent",
    trace: None,
    flags: "--prefix-groups 24 --prefix-tokens 3000 --prefix-skew 1 --turns uniform:2..12 \
            --think-time exponential:mean=2s --input-tokens lognormal:mean=500,sigma=1@8000 \
            --output-tokens lognormal:mean=150,sigma=0.8@1000",
};

/// Workload, workers, and requests: enough of them that queues get as long as
/// they will.
const CASES: [(&Workload, &str, u32); 13] = [
    (&CONVERSATION, "8:h100", 2500),
    (&CHAT, "8:h100", 6000),
    (&CODE, "8:h100", 6621),
    (&AGENT, "8:h100", 3000),
    (&CONVERSATION, "3:h100:prefill,5:h100:decode", 2500),
    (&CHAT, "2:h100:prefill,6:h100:decode", 6000),
    (&AGENT, "2:h100:prefill,6:h100:decode", 3000),
    (&CONVERSATION, "4:h100,4:h100-half", 2500),
    (&CHAT, "4:h100,4:h100-half", 6000),
    (&CONVERSATION, "64:h100", 7851),
    (&CHAT, "64:h100", 12755),
    (&AGENT, "64:h100", 16000),
    (&CONVERSATION, "256:h100", 7851),
];

/// Prints the tables as Markdown.
pub fn run(mut args: impl Iterator<Item = String>) -> Result<()> {
    let traces = match (args.next().as_deref(), args.next(), args.next()) {
        (Some("--traces"), Some(folder), None) => PathBuf::from(folder),
        _ => bail!("usage: cargo xtask routing --traces FOLDER"),
    };
    tools::compiler()?;
    cargo(&["build", "--release", "--package", "kvasir"])?;
    let folder = tools::target_dir().join("routing");
    std::fs::create_dir_all(&folder)?;
    let profiles = folder.join("half-speed.toml");
    std::fs::write(&profiles, HALF_SPEED)?;
    for (number, (workload, workers, requests)) in CASES.iter().enumerate() {
        let file = folder.join(format!("{number}.json"));
        let mut command = Command::new(tools::target_dir().join("release/kvasir"));
        command.args(["loadtest", "simulate", "--workers", workers]);
        command.args(["--load", LOADS, "--slo", OBJECTIVES]);
        command.args(["--requests", &requests.to_string()]);
        command.arg("--profiles").arg(&profiles);
        command.arg("--json").arg(&file);
        command.args(POLICIES.iter().flat_map(|it| ["--policy", it]));
        command.args(workload.flags.split_whitespace());
        if let Some(trace) = workload.trace {
            command.arg("--trace").arg(traces.join(trace));
        }
        let status = command.stdout(Stdio::null()).status();
        if !status.context("can't run the simulator")?.success() {
            bail!("{}, {workers}: the simulation failed", workload.name);
        }
        println!("\n### {}, {workers}, {requests} requests\n", workload.name);
        print_table(&file)?;
    }
    Ok(())
}

fn print_table(file: &Path) -> Result<()> {
    let text = std::fs::read_to_string(file)?;
    let document: Value = serde_json::from_str(&text)?;
    println!("| load | policy | TTFT p50 | p99 | ITL p99 | goodput | hits |");
    println!("|---|---|---|---|---|---|---|");
    let points = document["policies"].as_array().context("no policies")?;
    for point in points {
        let number = |path: &str| point.pointer(path).and_then(Value::as_f64);
        let number = |path: &str| number(path).with_context(|| format!("no {path}"));
        println!(
            "| {:.0}% | {} | {:.0} ms | {:.0} ms | {:.0} ms | {:.1}% | {:.1}% |",
            100.0 * number("/load")?,
            point["cluster"]["policy"].as_str().unwrap_or_default(),
            number("/figures/latency_ms/ttft/p50")?,
            number("/figures/latency_ms/ttft/p99")?,
            number("/figures/latency_ms/itl/p99")?,
            100.0 * number("/figures/goodput/share")?,
            100.0 * number("/cluster/hit_rate")?,
        );
    }
    let bound = document["policies"][0].pointer("/cluster/bound/shared");
    if let Some(bound) = bound.and_then(Value::as_f64).filter(|it| *it > 0.0) {
        println!(
            "\nOne cache as large as all workers' would hit {:.1}%.",
            100.0 * bound
        );
    }
    Ok(())
}
