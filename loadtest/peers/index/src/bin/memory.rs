//! Bytes that one index has from the allocator after the first half of the
//! schedule, and what that is for each block that a worker holds.

use std::alloc::System;

use cap::Cap;
use clap::Parser;
use peer_index::{Dynamo, Kvasir, Schedule, Subject, Workload};

#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, usize::MAX);

#[derive(Parser)]
struct Args {
    #[command(flatten)]
    workload: Workload,
    /// kvasir or dynamo
    #[arg(long)]
    index: String,
    #[arg(long, default_value_t = 4)]
    event_threads: usize,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let schedule = Schedule::new(&args.workload)?;
    let dynamo = || Dynamo::new(args.event_threads, args.workload.block_size);
    match args.index.as_str() {
        "kvasir" => measure(Kvasir::default, &schedule, &args),
        "dynamo" => measure(dynamo, &schedule, &args),
        other => anyhow::bail!("--index is kvasir or dynamo, not {other}"),
    }
    Ok(())
}

fn measure<S: Subject>(make: impl FnOnce() -> S, schedule: &Schedule, args: &Args) {
    let half = &schedule.steps[..schedule.steps.len() / 2];
    let before = ALLOCATOR.allocated();
    let subject = make();
    // One at a time: what waits in a queue is no memory of the index.
    for (id, step) in half.iter().enumerate() {
        if let Some(event) = S::event(step, id as u32) {
            subject.apply_all(vec![event]);
        }
    }
    let bytes = ALLOCATOR.allocated() - before;
    let memberships = Schedule::memberships(half);
    println!(
        "{}",
        serde_json::json!({
            "index": args.index, "block_size": args.workload.block_size,
            "bytes": bytes, "memberships": memberships,
            "bytes_per_membership": bytes as f64 / memberships as f64,
        })
    );
}
