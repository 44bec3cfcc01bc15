//! `cargo xtask test`: all that CI does, on any machine.
//!
//! Each step can be run alone: `cargo xtask fmt`, `clippy`, `unit`, `deny`,
//! `smoke`. `cargo xtask soak`, `calibrate`, `gateway` and `engine` are no part of
//! it: they take long, or want a machine of their own.

// It talks to a person at a terminal.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod bar;
mod calibrate;
mod cluster;
mod engine;
mod gateway;
mod metrics;
mod part;
mod routing;
mod smoke;
mod soak;
mod text;
mod tools;

use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::{Context, Result, bail};

/// A step's name, what it is for, and the step.
type Step = (&'static str, &'static str, fn() -> Result<()>);

const STEPS: [Step; 5] = [
    ("fmt", "formatting is rustfmt's default", fmt),
    ("clippy", "no warnings, in tests neither", clippy),
    (
        "deny",
        "licenses and advisories, if cargo-deny is installed",
        deny,
    ),
    ("unit", "every test of every crate", unit),
    (
        "smoke",
        "a cluster from the release build answers real requests",
        smoke::run,
    ),
];

/// What a plain build leaves out, for what its own build needs. The smoke test
/// is a plain build.
const FEATURES: &str = "etcd";

fn main() -> ExitCode {
    let wanted = std::env::args().nth(1).unwrap_or_default();
    match run(&wanted) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(wanted: &str) -> Result<()> {
    // Cargo runs this from wherever it was called.
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    std::env::set_current_dir(root).with_context(|| format!("no directory {root}"))?;
    if wanted == "test" {
        return STEPS.iter().try_for_each(step);
    }
    if wanted == "calibrate" {
        return calibrate::run();
    }
    if wanted == "gateway" {
        return gateway::run(std::env::args().skip(2));
    }
    if wanted == "engine" {
        return engine::run(std::env::args().skip(2));
    }
    if wanted == "routing" {
        return routing::run(std::env::args().skip(2));
    }
    if wanted == "soak" {
        return soak::run(std::env::args().skip(2));
    }
    match STEPS.iter().find(|(name, _, _)| *name == wanted) {
        Some(found) => step(found),
        None => bail!("{}", usage()),
    }
}

fn step((name, _, step): &Step) -> Result<()> {
    println!("== {name}");
    let start = Instant::now();
    step().with_context(|| format!("{name} failed"))?;
    println!("== {name} passed in {:.1} s", start.elapsed().as_secs_f64());
    Ok(())
}

fn usage() -> String {
    let mut text = "usage: cargo xtask STEP\n\n  test     all of these, in order".to_owned();
    for (name, purpose, _) in STEPS {
        text.push_str(&format!("\n  {name:<8} {purpose}"));
    }
    text.push_str("\n\nno part of test:\n");
    text.push_str("\n  calibrate  the simulator agrees with a real run");
    text.push_str("\n  engine     what a long prompt does to streams; see docs/engine.md");
    text.push_str("\n  gateway    what the gateway costs, against its bars; see docs/gateway.md");
    text.push_str("\n  routing    policies side by side in the simulator --traces FOLDER");
    text.push_str("\n  soak       breaks a cluster under load [--minutes 10] [--seed 1]");
    text
}

fn fmt() -> Result<()> {
    tools::component("rustfmt", "fmt")?;
    cargo(&["fmt", "--all", "--check"])
}

fn clippy() -> Result<()> {
    tools::component("clippy", "clippy")?;
    tools::etcd()?;
    cargo(&[
        "clippy",
        "--workspace",
        "--all-targets",
        "--features",
        FEATURES,
        "--",
        "-D",
        "warnings",
    ])
}

fn deny() -> Result<()> {
    if !tools::cargo_has("deny") {
        println!("cargo-deny is not installed: skipped (cargo install cargo-deny)");
        return Ok(());
    }
    cargo(&["deny", "check"])
}

fn unit() -> Result<()> {
    tools::compiler()?;
    tools::etcd()?;
    cargo(&["test", "--workspace", "--features", FEATURES])
}

/// Runs cargo; its output is the step's output.
fn cargo(arguments: &[&str]) -> Result<()> {
    call(Command::new(tools::cargo()).args(arguments))
}

/// Runs a command and fails when it does.
fn call(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("can't run {command:?}"))?;
    if !status.success() {
        bail!("{command:?}: {status}");
    }
    Ok(())
}
