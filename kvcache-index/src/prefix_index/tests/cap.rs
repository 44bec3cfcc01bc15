//! What is forgotten when memory runs out.

use super::*;

/// Stores `chains` chains of `blocks` blocks each, in order; chain c begins
/// at c * blocks + 1.
fn fill(index: &PrefixIndex, chains: std::ops::Range<u64>, blocks: u64) {
    for chain in chains {
        let first = chain * blocks + 1;
        store(index, (chain % 5) as u32, 0, first..first + blocks);
    }
}

fn kept(index: &PrefixIndex, chain: u64, blocks: u64) -> u32 {
    let hashes: Vec<u64> = (chain * blocks + 1..=(chain + 1) * blocks).collect();
    let found = index.overlaps(&hashes, NOW);
    found
        .iter()
        .map(|overlap| overlap.blocks)
        .max()
        .unwrap_or(0)
}

#[test]
fn memory_stays_under_the_cap_and_what_is_left_is_true() {
    let index = PrefixIndex::with_memory_cap(2 << 20);
    for chain in 0..20_000 {
        fill(&index, chain..chain + 1, 20);
        assert!(index.memory() <= 2 << 20, "{} at {chain}", index.memory());
    }
    assert!(index.len() > 30_000, "only {} blocks", index.len());
    let held: usize = (0..5)
        .map(|worker| index.blocks_of(WorkerSlot(worker)))
        .sum();
    assert_eq!(held, index.len());
    let found: u32 = (0..20_000).map(|chain| kept(&index, chain, 20)).sum();
    assert_eq!(found as usize, index.len());
}

#[test]
fn the_chain_unused_for_longest_goes_first() {
    let index = PrefixIndex::with_memory_cap(2 << 20);
    fill(&index, 0..1000, 20);
    let used: Vec<u64> = (0..1000).step_by(7).collect();
    for chain in &used {
        let hashes: Vec<u64> = (chain * 20 + 1..=(chain + 1) * 20).collect();
        index.predict(
            WorkerSlot((chain % 5) as u32),
            &hashes,
            Duration::from_secs(9),
        );
    }
    let mut filled = 1000;
    while (0..1000).any(|chain| kept(&index, chain, 20) == 20 && chain % 7 != 0) {
        fill(&index, filled..filled + 1, 20);
        filled += 1;
        let oldest_left = (0..1000)
            .filter(|chain| chain % 7 != 0)
            .find(|chain| kept(&index, *chain, 20) > 0);
        for chain in oldest_left.unwrap_or(1000)..1000 {
            assert_eq!(
                kept(&index, chain, 20),
                20,
                "{chain} went before {oldest_left:?}"
            );
        }
        let used_last = used.iter().all(|chain| kept(&index, *chain, 20) == 20);
        assert!(used_last || oldest_left.is_none());
    }
    assert!(filled > 2000);
}

#[test]
fn a_prompts_last_run_goes_before_its_first() {
    let index = PrefixIndex::with_memory_cap(4 << 20);
    // Three runs, each more than is forgotten at a time: held by two, by one,
    // and predicted.
    let run = 10_000;
    store(&index, 0, 0, 1..=2 * run);
    store(&index, 1, 0, 1..=run);
    let prompt: Vec<u64> = (1..=3 * run).collect();
    index.predict(WorkerSlot(0), &prompt, Duration::from_secs(1));
    let held = || {
        index
            .overlaps(&prompt, NOW)
            .of(WorkerSlot(0))
            .map_or(0, |it| it.blocks)
    };
    let mut seen = vec![held()];
    for filler in 0..1500u64 {
        let first = 100_000 + filler * 200;
        store(&index, 2, 0, first..first + 200);
        if seen.last() != Some(&held()) {
            seen.push(held());
        }
    }
    // Several runs may go at a time, but the first is never the first to go.
    assert!(
        seen.len() > 2 && seen.is_sorted_by(|a, b| a > b),
        "{seen:?}"
    );
    assert_eq!((seen[0], seen.last()), (30_000, Some(&0)));
}

#[test]
fn what_is_dead_goes_before_what_lives() {
    let index = PrefixIndex::with_memory_cap(2 << 20);
    fill(&index, 0..1000, 20);
    let full = index.len();
    for round in 0..200u64 {
        for chain in 0..100 {
            let first = 1_000_000 + (round * 100 + chain) * 20;
            store(&index, 9, 0, first..first + 20);
        }
        index.remove_worker(WorkerSlot(9));
        tidy(&index, NOW);
        assert_eq!(index.len(), full, "round {round}");
    }
}
