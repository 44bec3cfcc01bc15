//! Times of one index. The first half of the schedule fills it; the third
//! quarter is applied as fast as it will go; the last one at given times,
//! while another thread looks up at given times.

use std::hint::black_box;
use std::time::{Duration, Instant};

use clap::Parser;
use cpu_time::ProcessTime;
use hdrhistogram::Histogram;
use peer_index::subject::wait_until;
use peer_index::{Dynamo, Kvasir, Schedule, Step, Subject, Workload};

#[derive(Parser)]
struct Args {
    #[command(flatten)]
    workload: Workload,
    /// kvasir; dynamo; check: whether both give the same answers; and of Kvasir
    /// alone, warm-up: joining 100 workers, and scale: 10^8 blocks
    #[arg(long)]
    index: String,
    /// Threads of Dynamo's pool that apply events
    #[arg(long, default_value_t = 4)]
    event_threads: usize,
    /// Seconds in which the last quarter is played
    #[arg(long, default_value_t = 5.0)]
    window: f64,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let schedule = Schedule::new(&args.workload)?;
    let dynamo = || Dynamo::new(args.event_threads, args.workload.block_size);
    match args.index.as_str() {
        "kvasir" => measure(&Kvasir::default(), &schedule, &args),
        "dynamo" => measure(&dynamo(), &schedule, &args),
        "check" => check(&Kvasir::default(), &dynamo(), &schedule),
        "warm-up" => warm_up(),
        "scale" => scale(),
        other => anyhow::bail!("--index is kvasir, dynamo, check, warm-up or scale, not {other}"),
    }
    Ok(())
}

fn events<S: Subject>(steps: &[Step]) -> Vec<S::Event> {
    let event = |(id, step)| S::event(step, id as u32);
    steps.iter().enumerate().filter_map(event).collect()
}

fn prompts<S: Subject>(steps: &[Step]) -> Vec<S::Prompt> {
    let prompt = |step: &Step| match step {
        Step::Lookup(blocks) => Some(S::prompt(blocks)),
        _ => None,
    };
    steps.iter().filter_map(prompt).collect()
}

fn measure<S: Subject>(subject: &S, schedule: &Schedule, args: &Args) {
    let (first, rest) = schedule.steps.split_at(schedule.steps.len() / 2);
    let (third, last) = rest.split_at(rest.len() / 2);
    subject.apply_all(events::<S>(first));

    let prompts_of_third = prompts::<S>(third);
    let lookups = lookups_per_second(subject, &prompts_of_third);

    let third_events = events::<S>(third);
    let (events_applied, blocks) = (
        third_events.len(),
        third.iter().map(Step::event_blocks).sum::<usize>(),
    );
    let (start, start_cpu) = (Instant::now(), ProcessTime::now());
    subject.apply_all(third_events);
    let (took, took_cpu) = (
        start.elapsed().as_secs_f64(),
        start_cpu.elapsed().as_secs_f64(),
    );

    let (lookup, lag) = open_loop(subject, last, Duration::from_secs_f64(args.window));
    let us = |histogram: &Histogram<u64>, q: f64| histogram.value_at_quantile(q) as f64 / 1e3;
    println!(
        "{}",
        serde_json::json!({
            "index": args.index, "event_threads": args.event_threads, "block_size": args.workload.block_size,
            "lookups_per_cpu_second": lookups as u64,
            "drained_block_ops_per_second": (blocks as f64 / took) as u64,
            "drained_block_ops_per_cpu_second": (blocks as f64 / took_cpu) as u64,
            "drained_events_per_second": (events_applied as f64 / took) as u64,
            "open_loop_lookups_per_second": (lookup.len() as f64 / args.window) as u64,
            "open_loop_block_ops_per_second": (last.iter().map(Step::event_blocks).sum::<usize>() as f64 / args.window) as u64,
            "lookup_us_p50": us(&lookup, 0.5), "lookup_us_p99": us(&lookup, 0.99),
            "apply_us_p50": us(&lag, 0.5), "apply_us_p99": us(&lag, 0.99),
        })
    );
}

/// Per second of CPU time, on one thread, nothing else at work in this process;
/// at least a second of it.
fn lookups_per_second<S: Subject>(subject: &S, prompts: &[S::Prompt]) -> f64 {
    let mut buffer = S::Buffer::default();
    let start = ProcessTime::now();
    let mut done = 0;
    while start.elapsed() < Duration::from_secs(1) {
        for prompt in prompts {
            black_box(subject.lookup(prompt, &mut buffer));
        }
        done += prompts.len();
    }
    done as f64 / start.elapsed().as_secs_f64()
}

/// Plays `steps` evenly over `window`: service times of lookups, and how long
/// after its time each event was applied, in nanoseconds.
fn open_loop<S: Subject>(
    subject: &S,
    steps: &[Step],
    window: Duration,
) -> (Histogram<u64>, Histogram<u64>) {
    let at = |i: usize| window.mul_f64(i as f64 / steps.len() as f64);
    let (mut timed_prompts, mut timed_events) = (Vec::new(), Vec::new());
    for (i, step) in steps.iter().enumerate() {
        match step {
            Step::Lookup(blocks) => timed_prompts.push((at(i), S::prompt(blocks))),
            step => timed_events.extend(S::event(step, i as u32).map(|event| (at(i), event))),
        }
    }
    let start = Instant::now() + Duration::from_millis(200);
    let (services, lags) = std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut buffer = S::Buffer::default();
            let lookup = |(at, prompt): &(Duration, S::Prompt)| {
                wait_until(start + *at);
                let begin = Instant::now();
                black_box(subject.lookup(prompt, &mut buffer));
                begin.elapsed()
            };
            timed_prompts.iter().map(lookup).collect::<Vec<_>>()
        });
        let lags = subject.apply_at(start, timed_events);
        (reader.join().expect("lookups do not panic"), lags)
    });
    (histogram(&services), histogram(&lags))
}

fn histogram(times: &[Duration]) -> Histogram<u64> {
    let mut histogram = Histogram::new(3).expect("three digits are allowed");
    times
        .iter()
        .for_each(|time| histogram.record(time.as_nanos() as u64).expect("it grows"));
    histogram
}

/// Both indexes, filled the same, on every prompt of the second half.
fn check(kvasir: &Kvasir, dynamo: &Dynamo, schedule: &Schedule) {
    let (first, rest) = schedule.steps.split_at(schedule.steps.len() / 2);
    kvasir.apply_all(events::<Kvasir>(first));
    dynamo.apply_all(events::<Dynamo>(first));
    let mut buffer = Default::default();
    let pairs = prompts::<Kvasir>(rest)
        .into_iter()
        .zip(prompts::<Dynamo>(rest));
    let answers = pairs.map(|(ours, theirs)| {
        (
            kvasir.lookup(&ours, &mut buffer),
            dynamo.lookup(&theirs, &mut ()),
        )
    });
    let answers: Vec<_> = answers.collect();
    let equal = answers
        .iter()
        .filter(|(ours, theirs)| ours == theirs)
        .count();
    let mean = |sum: usize| sum as f64 / answers.len() as f64;
    println!(
        "{}",
        serde_json::json!({
            "lookups": answers.len(), "equal": equal,
            "workers_found": mean(answers.iter().map(|(ours, _)| ours.0).sum()),
            "deepest_blocks": mean(answers.iter().map(|(ours, _)| ours.1).sum()),
        })
    );
}

/// A router that joins 100 workers, each with a snapshot of 10^4 blocks in
/// chains of 100.
fn warm_up() {
    use kvcache_index::{KvEvent, WorkerSlot};
    let snapshots: Vec<Vec<KvEvent>> = (0..100u64)
        .map(|worker| {
            let chain = |chain: u64| {
                let first = (worker * 100 + chain) * 1000;
                // Half of the chains are held by all workers.
                let first = if chain < 50 { chain * 1000 } else { first };
                KvEvent::stored(
                    0,
                    (1..=100)
                        .map(|i| (first + i).wrapping_mul(0x9e37_79b9_7f4a_7c15))
                        .collect(),
                )
            };
            (0..100).map(chain).collect()
        })
        .collect();
    let Kvasir(index) = Kvasir::default();
    let (start, start_cpu) = (Instant::now(), ProcessTime::now());
    for (worker, snapshot) in snapshots.iter().enumerate() {
        snapshot
            .iter()
            .for_each(|event| index.apply(WorkerSlot(worker as u32), event));
    }
    let (ms, cpu_ms) = (
        start.elapsed().as_secs_f64() * 1e3,
        start_cpu.elapsed().as_secs_f64() * 1e3,
    );
    let held: usize = (0..100)
        .map(|worker| index.blocks_of(WorkerSlot(worker)))
        .sum();
    println!(
        "{}",
        serde_json::json!({"warm_up_ms": ms, "warm_up_cpu_ms": cpu_ms, "memberships": held, "blocks": index.len()})
    );
}

/// 2,000 workers, each with 50,000 blocks of its own in chains of 100: bytes,
/// and the time of lookups that find a chain.
fn scale() {
    use kvcache_index::{KvEvent, WorkerSlot};
    const CHAINS: u64 = 1_000_000;
    let hashes =
        |chain: u64| (1..=100).map(move |i| (chain * 100 + i).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let Kvasir(index) = Kvasir::default();
    let start = ProcessTime::now();
    for chain in 0..CHAINS {
        let worker = WorkerSlot((chain % 2000) as u32);
        index.apply(worker, &KvEvent::stored(0, hashes(chain).collect()));
    }
    let filled = start.elapsed();
    let mut buffer = Default::default();
    let mut histogram = Histogram::<u64>::new(3).expect("three digits are allowed");
    for i in 0..100_000u64 {
        let prompt: Vec<u64> = hashes(i * 7919 % CHAINS).collect();
        let begin = Instant::now();
        index.overlaps_into(&prompt, Duration::ZERO, &mut buffer);
        histogram
            .record(begin.elapsed().as_nanos() as u64)
            .expect("it grows");
        assert_eq!(buffer.as_slice()[0].blocks, 100);
    }
    let begin = Instant::now();
    index.remove_worker(WorkerSlot(0));
    let removal = begin.elapsed();
    println!(
        "{}",
        serde_json::json!({
            "blocks": index.len(), "bytes": index.memory(), "fill_cpu_s": filled.as_secs_f64(),
            "lookup_us_p50": histogram.value_at_quantile(0.5) as f64 / 1e3,
            "lookup_us_p99": histogram.value_at_quantile(0.99) as f64 / 1e3,
            "remove_worker_us": removal.as_secs_f64() * 1e6,
        })
    );
}
