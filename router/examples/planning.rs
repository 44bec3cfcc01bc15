//! What a planning decision costs: index lookup, cost of every worker, booking
//! and prediction, as `cluster` does it, by 8 callers at once.
//!
//! `cargo run --release -p router --example planning`

// It reports to a person.
#![allow(clippy::print_stdout)]

use std::sync::Mutex;
use std::time::{Duration, Instant};

use kvcache_index::{KvEvent, WorkerSlot};
use router::cluster::lock;
use router::cluster::view::{Excluded, Member, Report, View};
use router::plan::{Ask, Policy, PolicyName, Role};

const CALLERS: usize = 8;
const DECISIONS: usize = 20_000;
const PREFIXES: u64 = 256;

fn main() {
    println!("workers  blocks  split  p50 us  p99 us  max us  decisions/s");
    for workers in [64, 1000] {
        for blocks in [128, 1000] {
            for split in [false, true] {
                measure(workers, blocks, split);
            }
        }
    }
}

fn measure(workers: u32, blocks: usize, split: bool) {
    let view = Mutex::new((view(workers, blocks, split), PolicyName::default().make()));
    let begun = Instant::now();
    let mut times: Vec<Duration> = std::thread::scope(|scope| {
        let caller = |caller| {
            let view = &view;
            scope.spawn(move || decide(view, blocks, caller))
        };
        let callers: Vec<_> = (0..CALLERS).map(caller).collect();
        let times = callers
            .into_iter()
            .map(|it| it.join().expect("no caller panics"));
        times.flatten().collect()
    });
    let seconds = begun.elapsed().as_secs_f64();
    times.sort();
    let at = |share: f64| {
        let at = (times.len() as f64 * share) as usize;
        times[at.min(times.len() - 1)].as_secs_f64() * 1e6
    };
    println!(
        "{workers:7}  {blocks:6}  {split:5}  {:6.1}  {:6.1}  {:6.0}  {:11.0}",
        at(0.5),
        at(0.99),
        at(1.0),
        times.len() as f64 / seconds
    );
}

/// Every prefix is held whole by a few workers, and its beginning by many.
fn view(workers: u32, blocks: usize, split: bool) -> View {
    let mut view = View::default();
    for slot in (0..workers).map(WorkerSlot) {
        let role = match (split, slot.0 % 2) {
            (false, _) => Role::Both,
            (true, 0) => Role::Prefill,
            (true, _) => Role::Decode,
        };
        let member = Member {
            epoch: 1,
            role,
            model: 0,
        };
        view.join(slot, member);
        view.set_available(slot, true);
        view.report(
            slot,
            Report {
                sequences: slot.0 % 7,
                queued_prefill_tokens: u64::from(slot.0 % 5) * 700,
                free_blocks: 20_000,
                total_blocks: 27_000,
                prefill_tokens_per_second: 25_000.0,
                decode_step_ms: 7.0,
                inter_token_ms: 20.0,
                ..Report::default()
            },
            Duration::ZERO,
        );
        for prefix in 0..PREFIXES {
            let spread = (u64::from(slot.0) * 31 + prefix * 17) % u64::from(workers);
            let depth = match spread {
                0..4 => blocks,
                4..16 => blocks / 4,
                _ => blocks / 16,
            };
            view.index()
                .apply(slot, &KvEvent::stored(0, hashes(prefix, depth)));
        }
    }
    view
}

fn hashes(prefix: u64, blocks: usize) -> Vec<u64> {
    let hash = |block: u64| (prefix << 32 | (block + 1)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (0..blocks as u64).map(hash).collect()
}

fn decide(view: &Mutex<(View, Box<dyn Policy>)>, blocks: usize, caller: usize) -> Vec<Duration> {
    let mut times = Vec::with_capacity(DECISIONS / CALLERS);
    let index = lock(view).0.index().clone();
    let mut random = caller as u64;
    for _ in 0..DECISIONS / CALLERS {
        random = random
            .wrapping_mul(0x5851_f42d_4c95_7f2d)
            .wrapping_add(0x1405_7b7e_f767_814f);
        let hashes = hashes((random >> 33) % PREFIXES, blocks);
        let ask = Ask {
            prompt_tokens: blocks * 16 + 5,
            max_tokens: 100,
            first_token: None,
            inter_token: None,
            block_size: 16,
            may_split: true,
            hashes: &hashes,
            session: None,
            now: Duration::ZERO,
            random,
        };
        let begun = Instant::now();
        let overlaps = index.overlaps(&hashes, Duration::ZERO);
        let placed = {
            let mut locked = lock(view);
            let (view, policy) = &mut *locked;
            let candidates = view.candidates(0, &ask, &overlaps, &Excluded::new());
            let choice = policy.place(&ask, candidates).expect("there are workers");
            view.book(&ask, choice)
        };
        placed.predict(&index, &ask);
        times.push(begun.elapsed());
        lock(view).0.release(placed.booking);
    }
    times
}
