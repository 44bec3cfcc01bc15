//! The README's main job: start a cluster, use it with curl and with the
//! official `openai` client, see that nothing is left over, and end it.

use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::cluster::Cluster;
use crate::{call, cargo, metrics, tools};

/// Most resident memory of a whole cluster with the demo model, in MiB.
const MEMORY_LIMIT: u64 = 300;

/// After the last request, everything it held must be free again this soon.
const RELEASED_WITHIN: Duration = Duration::from_secs(5);

/// What the client script checks.
const SCRIPT: &str = "xtask/smoke.py";

pub fn run() -> Result<()> {
    tools::compiler()?;
    tools::program("curl", "curl")?;
    let python = tools::python_with_openai()?;
    cargo(&["build", "--release", "--bin", "kvasir"])?;

    check_refuses_etcd()?;
    println!("-- one process");
    let cluster = Cluster::start(&[])?;
    check_with_curl(&cluster)?;
    call(
        Command::new(&python)
            .arg(SCRIPT)
            .arg(format!("{}/v1", cluster.url)),
    )?;
    check_released(&cluster)?;
    let memory = cluster.peak_memory()?;
    println!("peak memory {memory} MiB");
    ensure!(
        memory <= MEMORY_LIMIT,
        "peak memory {memory} MiB is above {MEMORY_LIMIT} MiB"
    );
    cluster.end()?;

    println!("-- a process for each part");
    let cluster = Cluster::start(&["--processes"])?;
    check_with_curl(&cluster)?;
    check_released(&cluster)?;
    cluster.end()
}

/// This build is a plain one: it has no etcd client, and says how to get it.
fn check_refuses_etcd() -> Result<()> {
    let binary = tools::target_dir().join("release/kvasir");
    let asked = Command::new(binary)
        .args(["router", "--etcd", "http://127.0.0.1:2379"])
        .output()?;
    let said = String::from_utf8_lossy(&asked.stderr);
    ensure!(
        asked.status.code() == Some(2) && said.contains("--features etcd"),
        "asked for etcd, a build without it says: {said}"
    );
    Ok(())
}

fn check_with_curl(cluster: &Cluster) -> Result<()> {
    for path in ["/health", "/ready"] {
        let answer = curl(&format!("{}{path}", cluster.url), &[])?;
        ensure!(answer.status == 200, "{path}: status {}", answer.status);
    }
    let models = curl(&format!("{}/v1/models", cluster.url), &[])?.json()?;
    let model = models["data"][0]["id"]
        .as_str()
        .context("no model is listed")?
        .to_owned();
    let body = serde_json::json!({
        "model": model,
        "temperature": 0,
        "messages": [{"role": "user", "content": "What is Kvasir?"}],
    });
    let chat = format!("{}/v1/chat/completions", cluster.url);
    let answer = curl(
        &chat,
        &[
            "-H",
            "content-type: application/json",
            "-d",
            &body.to_string(),
        ],
    )?;
    let text = answer.json()?["choices"][0]["message"]["content"].clone();
    ensure!(
        text.as_str().is_some_and(|it| it.contains("Kvasir")),
        "answered {text}"
    );
    println!("curl: {text}");
    let unknown = curl(&format!("{}/v2/nothing", cluster.url), &[])?;
    ensure!(
        unknown.status == 404,
        "unknown path: status {}",
        unknown.status
    );
    ensure!(
        unknown.json()?["error"]["message"].is_string(),
        "404 without an error object"
    );
    Ok(())
}

/// All blocks of all workers are free; the router holds no permit or booking.
fn check_released(cluster: &Cluster) -> Result<()> {
    let start = Instant::now();
    loop {
        match held(cluster)? {
            None => break,
            Some(held) if start.elapsed() > RELEASED_WITHIN => bail!("still held: {held}"),
            Some(_) => thread::sleep(Duration::from_millis(100)),
        }
    }
    println!("nothing is held after the last request");
    Ok(())
}

fn held(cluster: &Cluster) -> Result<Option<String>> {
    let mut held = Vec::new();
    for worker in &cluster.workers {
        let page = curl(&format!("{worker}/metrics"), &[])?.body;
        let total = metric(&page, "kvasir_kv_blocks_total")?;
        let free = metric(&page, "kvasir_kv_blocks_free")?;
        ensure!(total > 0.0, "{worker} has no blocks");
        if free != total {
            held.push(format!("{} blocks of {worker}", total - free));
        }
    }
    let page = curl(&format!("{}/metrics", cluster.url), &[])?.body;
    for name in ["kvasir_router_permits", "kvasir_router_bookings"] {
        let count = metric(&page, name)?;
        if count != 0.0 {
            held.push(format!("{name} {count}"));
        }
    }
    Ok((!held.is_empty()).then(|| held.join(", ")))
}

fn metric(page: &str, name: &str) -> Result<f64> {
    metrics::sum(page, name).with_context(|| format!("no {name} on the metrics page"))
}

struct Answer {
    status: u16,
    body: String,
}

impl Answer {
    fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.body).with_context(|| format!("no JSON: {}", self.body))
    }
}

fn curl(url: &str, arguments: &[&str]) -> Result<Answer> {
    let always = [
        "-sS",
        "--max-time",
        "30",
        "--noproxy",
        "*",
        "-w",
        "\n%{http_code}",
        url,
    ];
    let output = Command::new("curl").args(always).args(arguments).output()?;
    let text = String::from_utf8(output.stdout)?;
    ensure!(
        output.status.success(),
        "curl {url}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let (body, status) = text.rsplit_once('\n').context("curl says no status")?;
    Ok(Answer {
        status: status.parse()?,
        body: body.to_owned(),
    })
}
