use std::time::Duration;

use kvcache_index::WorkerSlot;

use super::*;
use crate::plan::{Load, Role};

const ASK: Ask<'static> = Ask {
    prompt_tokens: 64,
    max_tokens: 8,
    first_token: None,
    inter_token: None,
    block_size: 16,
    may_split: true,
    hashes: &[1, 2, 3, 4],
    session: None,
    now: Duration::ZERO,
    random: 0,
};

fn workers(sequences: &[u32]) -> Vec<Candidate> {
    let worker = |(number, sequences): (u32, &u32)| Candidate {
        worker: WorkerSlot(number),
        role: Role::Both,
        cached_tokens: 0,
        load: Load {
            sequences: *sequences,
            ..Load::default()
        },
    };
    (0..).zip(sequences).map(worker).collect()
}

fn placed(
    name: &str,
    asks: impl IntoIterator<Item = Ask<'static>>,
    sequences: &[u32],
) -> Vec<usize> {
    let mut policy = name.parse::<PolicyName>().expect("known").make();
    asks.into_iter()
        .filter_map(|ask| policy.place(&ask, &workers(sequences)))
        .map(|choice| choice.decode)
        .collect()
}

fn random(turns: u64) -> impl Iterator<Item = Ask<'static>> {
    (0..turns).map(|turn| Ask {
        random: turn.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29),
        ..ASK
    })
}

#[test]
fn round_robin_takes_one_after_the_other() {
    assert_eq!(placed("round-robin", random(4), &[9, 0, 0]), [0, 1, 2, 0]);
}

#[test]
fn random_takes_all_alike() {
    let chosen = placed("random", random(3000), &[9, 0, 0]);
    let of_first = chosen.iter().filter(|it| **it == 0).count();
    assert!((850..1150).contains(&of_first), "{of_first}");
}

#[test]
fn least_loaded_takes_the_least_loaded() {
    assert_eq!(placed("least-loaded", random(3), &[2, 1, 3]), [1, 1, 1]);
}

#[test]
fn power_of_two_never_takes_the_most_loaded_of_all() {
    let chosen = placed("power-of-two", random(300), &[1, 2, 3]);
    assert!(chosen.contains(&0) && chosen.contains(&1) && !chosen.contains(&2));
}

#[test]
fn consistent_hash_keeps_sessions_and_prompts_together_until_one_is_overloaded() {
    let session = |it: u64| Ask {
        session: Some(it),
        ..ASK
    };
    let first = placed("consistent-hash", [session(7)], &[0; 4])[0];
    let again = placed(
        "consistent-hash",
        random(20).map(|it| Ask {
            session: Some(7),
            ..it
        }),
        &[0; 4],
    );
    assert!(again.iter().all(|it| *it == first));
    let spread = placed("consistent-hash", (0..100).map(session), &[0; 4]);
    assert!((0..4).all(|worker| spread.contains(&worker)));
    let mut loads = [1; 4];
    loads[first] = 20;
    assert_ne!(placed("consistent-hash", [session(7)], &loads)[0], first);
}

#[test]
fn prefix_approx_follows_what_it_sent_until_load_is_uneven_or_time_passes() {
    let mut policy = "prefix-approx".parse::<PolicyName>().expect("known").make();
    let mut place = |sequences: &[u32], random: u64, seconds: u64| {
        let ask = Ask {
            random,
            now: Duration::from_secs(seconds),
            ..ASK
        };
        policy.place(&ask, &workers(sequences)).map(|it| it.decode)
    };
    assert_eq!(place(&[1, 0, 1], 0, 0), Some(1));
    assert_eq!(place(&[0, 5, 0], 1, 1), Some(1), "follows the prefix");
    assert_eq!(place(&[0, 30, 1], 1, 2), Some(0), "load is uneven");
    assert_eq!(place(&[9, 0, 9], 1, 500), Some(1), "all is forgotten");
}

#[test]
fn a_name_that_is_not_known_is_answered_with_those_that_are() {
    let error = "best".parse::<PolicyName>().expect_err("unknown");
    assert!(error.contains("cost, round-robin"), "{error}");
}
