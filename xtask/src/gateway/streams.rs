//! What a stream on which nothing happens keeps in memory.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::Plan;
use crate::bar::Bar;

const STREAMS: usize = 5000;
const WARM_UP: usize = 50;

/// A token of each stream every five seconds.
const WORKER: [&str; 6] = [
    "--sim-step-time=5s",
    "--sim-decode-time=0us",
    "--max-sequences=6000",
    "--max-waiting=6000",
    "--max-batch-tokens=200000",
    "--kv-blocks=60000",
];

/// Until every stream has its first tokens, and for some steps more.
const SETTLE: Duration = Duration::from_secs(20);

const PATIENCE: Duration = Duration::from_secs(60);

pub fn run(plan: &Plan) -> Result<Vec<Bar>> {
    let worker = plan.binary.worker(&plan.model, &WORKER)?;
    // A policy that holds nothing back: such slow workers would never have room
    // for so many at once.
    let flags = [
        "--max-concurrent-requests=6000",
        "--max-queued-requests=6000",
        "--policy=least-loaded",
    ];
    let router = plan.router.router(&[worker.address()?], &flags)?;
    let (address, model) = (router.address()?, worker.model()?);
    // Threads, buffers and tables that any load makes.
    drop(open(address, &model, WARM_UP)?);
    // A large vocabulary's fast encoder is made meanwhile.
    sleep(Duration::from_secs(3));
    let before = router.resident()?;
    let streams = open(address, &model, STREAMS)?;
    sleep(SETTLE);
    let during = router.resident()?;
    let busy = router.cpu()?;
    sleep(SETTLE);
    let cpu = (router.cpu()? - busy) / SETTLE.as_secs_f64();
    drop(streams);
    sleep(Duration::from_secs(2));
    println!(
        "resident: {:.1} MB before, {:.1} MB during, {:.1} MB after; {:.1}% of a core during",
        before / 1e3,
        during / 1e3,
        router.resident()? / 1e3,
        cpu * 100.0
    );
    Ok(vec![Bar {
        what: format!("{STREAMS} idle streams, each"),
        measured: (during - before) / STREAMS as f64,
        at_most: 40.0,
        unit: "KB",
        note: format!("resident: {before:.0} KB before, {during:.0} KB during"),
    }])
}

/// Opens streams, all of which have begun.
fn open(router: SocketAddr, model: &str, count: usize) -> Result<Vec<TcpStream>> {
    let mut streams = Vec::with_capacity(count);
    for number in 0..count {
        let body = serde_json::json!({
            "model": model, "stream": true, "max_tokens": 1000, "ignore_eos": true,
            "messages": [{"role": "user", "content": format!("Say {number}.")}],
        });
        streams.push(send(
            router,
            "POST /v1/chat/completions",
            &body.to_string(),
        )?);
    }
    for stream in &mut streams {
        let mut head = [0; 512];
        let length = stream.read(&mut head).context("a stream did not begin")?;
        let head = &head[..length];
        let said = String::from_utf8_lossy(head);
        ensure!(head.starts_with(b"HTTP/1.1 200"), "{said}");
    }
    Ok(streams)
}

fn send(to: SocketAddr, what: &str, body: &str) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(to).with_context(|| format!("can't connect to {to}"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let length = body.len();
    let head = format!(
        "{what} HTTP/1.1\r\nhost: xtask\r\ncontent-type: application/json\r\n\
         content-length: {length}\r\n\r\n"
    );
    // As clients write it: the head whole, then the body.
    stream.write_all(head.as_bytes())?;
    stream.write_all(body.as_bytes())?;
    Ok(stream)
}

/// The body of a page.
pub(super) fn get(from: SocketAddr, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(from)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nhost: xtask\r\nconnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (_, body) = answer.split_once("\r\n\r\n").context("no answer")?;
    Ok(body.to_owned())
}
