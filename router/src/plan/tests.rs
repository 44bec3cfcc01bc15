use proptest::prelude::*;

use super::cost::CostPolicy;
use super::*;

const ASK: Ask<'static> = Ask {
    prompt_tokens: 160,
    max_tokens: 100,
    first_token: None,
    inter_token: None,
    block_size: 16,
    may_split: true,
    hashes: &[],
    session: None,
    now: Duration::ZERO,
    random: 0,
};

fn candidate(worker: u32, role: Role) -> Candidate {
    Candidate {
        worker: WorkerSlot(worker),
        role,
        cached_tokens: 0,
        load: Load {
            free_blocks: 1000,
            total_blocks: 1000,
            prefill_ms: 1.0,
            step_ms: 10.0,
            inter_token_ms: 0.0,
            ..Load::default()
        },
    }
}

/// Plans, and answers with the numbers of the prefill and decode worker.
fn choice(ask: &Ask<'_>, candidates: &[Candidate]) -> Option<(Option<u32>, u32)> {
    let choice = CostPolicy.place(ask, candidates)?;
    let number = |at: usize| candidates[at].worker.0;
    Some((choice.prefill.map(number), number(choice.decode)))
}

#[test]
fn without_candidates_there_is_no_plan() {
    assert_eq!(choice(&ASK, &[]), None);
}

#[test]
fn splits_over_a_prefill_and_a_decode_worker() {
    let workers = [candidate(0, Role::Prefill), candidate(1, Role::Decode)];
    assert_eq!(choice(&ASK, &workers), Some((Some(0), 1)));
}

#[test]
fn a_decode_worker_computes_itself_what_takes_few_steps() {
    let mut workers = [candidate(0, Role::Prefill), candidate(1, Role::Decode)];
    workers[1].cached_tokens = 128;
    assert_eq!(choice(&ASK, &workers), Some((None, 1)));
    workers[1].cached_tokens = 64;
    assert_eq!(choice(&ASK, &workers), Some((Some(0), 1)));
    // What takes more steps is out of its role, and costs more.
    workers[0].cached_tokens = 112;
    workers[1].cached_tokens = 128;
    assert_eq!(choice(&ASK, &workers), Some((None, 1)));
    workers[1].load.step_ms = 7.0;
    assert_eq!(choice(&ASK, &workers), Some((Some(0), 1)));
    workers[1].load.step_ms = 10.0;
    // Unless another is faster.
    workers[1].cached_tokens = 128;
    workers[0].cached_tokens = 144;
    assert_eq!(choice(&ASK, &workers), Some((Some(0), 1)));
    // But for what no transfer is worth.
    workers[1].cached_tokens = 144;
    workers[1].load.queued_tokens = 1000;
    assert_eq!(choice(&ASK, &workers), Some((None, 1)));
}

#[test]
fn generates_where_steps_are_short() {
    let mut workers = [candidate(0, Role::Both), candidate(1, Role::Both)];
    workers[0].load.step_ms = 30.0;
    workers[1].load.queued_tokens = 700;
    for worker in &mut workers {
        worker.load.sequences = 40;
    }
    assert_eq!(choice(&ASK, &workers), Some((None, 1)));
    workers[1].load.queued_tokens = 900;
    assert_eq!(choice(&ASK, &workers), Some((None, 0)));
}

#[test]
fn a_decode_worker_computes_what_would_wait_too_long_elsewhere() {
    let mut workers = [candidate(0, Role::Prefill), candidate(1, Role::Decode)];
    // Computing takes 160 ms.
    workers[0].load.queued_tokens = 300;
    assert_eq!(choice(&ASK, &workers), Some((Some(0), 1)));
    workers[0].load.queued_tokens = 350;
    assert_eq!(choice(&ASK, &workers), Some((None, 1)));
    // While no rates are known, never.
    for worker in &mut workers {
        worker.load.prefill_ms = 0.0;
        worker.load.step_ms = 0.0;
    }
    workers[0].load.queued_tokens = 1_000_000;
    assert_eq!(choice(&ASK, &workers), Some((Some(0), 1)));
}

#[test]
fn goes_where_tokens_follow_one_another_fast() {
    let mut workers = [candidate(0, Role::Both), candidate(1, Role::Both)];
    for worker in &mut workers {
        worker.load.sequences = 5;
        worker.load.inter_token_ms = 12.0;
    }
    workers[0].load.inter_token_ms = 25.0;
    workers[1].load.queued_tokens = 100;
    assert_eq!(choice(&ASK, &workers), Some((None, 1)));
    // A worker that runs nothing may have been slow; it would not be now.
    workers[0].load.waiting = 5;
    assert_eq!(choice(&ASK, &workers), Some((None, 0)));
}

#[test]
fn keeps_to_objectives_where_it_can() {
    let mut workers = [candidate(0, Role::Both), candidate(1, Role::Both)];
    for worker in &mut workers {
        worker.load.sequences = 5;
        worker.load.inter_token_ms = 15.0;
    }
    workers[1].load.queued_tokens = 30;
    workers[1].load.inter_token_ms = 14.2;
    assert_eq!(choice(&ASK, &workers), Some((None, 0)));
    let steady = Ask {
        inter_token: Some(Duration::from_millis(14)),
        ..ASK
    };
    assert_eq!(choice(&steady, &workers), Some((None, 1)));
    workers[1].load.inter_token_ms = 13.5;
    assert_eq!(choice(&ASK, &workers), Some((None, 1)));
    let soon = Ask {
        first_token: Some(Duration::from_millis(165)),
        ..ASK
    };
    assert_eq!(choice(&soon, &workers), Some((None, 0)));
}

#[test]
fn a_sequence_that_may_not_be_split_stays_on_the_decode_worker() {
    let workers = [candidate(0, Role::Prefill), candidate(1, Role::Decode)];
    let ask = Ask {
        may_split: false,
        ..ASK
    };
    assert_eq!(choice(&ask, &workers), Some((None, 1)));
}

#[test]
fn roles_give_way_when_nobody_else_is_left() {
    assert_eq!(
        choice(&ASK, &[candidate(0, Role::Prefill)]),
        Some((None, 0))
    );
    assert_eq!(choice(&ASK, &[candidate(1, Role::Decode)]), Some((None, 1)));
    let two = [candidate(0, Role::Prefill), candidate(1, Role::Prefill)];
    assert_eq!(choice(&ASK, &two).map(|(prefill, _)| prefill), Some(None));
}

#[test]
fn goes_where_the_prefix_is() {
    let mut workers = [candidate(0, Role::Both), candidate(1, Role::Both)];
    workers[1].cached_tokens = 144;
    assert_eq!(choice(&ASK, &workers), Some((None, 1)));
}

#[test]
fn leaves_the_prefix_when_waiting_costs_more_than_computing() {
    let mut workers = [candidate(0, Role::Both), candidate(1, Role::Both)];
    workers[1].cached_tokens = 144;
    workers[1].load.queued_tokens = 500;
    assert_eq!(choice(&ASK, &workers), Some((None, 0)));
}

#[test]
fn avoids_a_worker_without_blocks() {
    let mut workers = [candidate(0, Role::Both), candidate(1, Role::Both)];
    workers[0].load.free_blocks = 2;
    assert_eq!(choice(&ASK, &workers), Some((None, 1)));
    // Of one that has not reported nothing is known.
    workers[1].load.queued_tokens = 1;
    workers[0].load.free_blocks = 0;
    workers[0].load.total_blocks = 0;
    assert_eq!(choice(&ASK, &workers), Some((None, 0)));
}

#[test]
fn a_new_worker_is_taken_for_one_like_the_others() {
    let mut workers = [0, 1].map(|worker| candidate(worker, Role::Both));
    workers[1].load.prefill_ms = 0.0;
    workers[1].load.step_ms = 0.0;
    workers[0].load.queued_tokens = 1;
    assert_eq!(choice(&ASK, &workers), Some((None, 1)));
    workers[0].load.queued_tokens = 0;
    workers[1].load.queued_tokens = 1;
    assert_eq!(choice(&ASK, &workers), Some((None, 0)));
}

#[test]
fn a_queue_that_waits_for_memory_counts_as_long_as_it_takes() {
    let mut workers = [0, 1].map(|worker| candidate(worker, Role::Both));
    workers[0].load.queued_tokens = 100;
    workers[1].load.queued_tokens = 200;
    assert_eq!(choice(&ASK, &workers), Some((None, 0)));
    workers[0].load.drain_ms = 3.3;
    assert_eq!(choice(&ASK, &workers), Some((None, 1)));
}

#[test]
fn equals_are_equally_likely() {
    let workers = [0, 1, 2].map(|worker| candidate(worker, Role::Both));
    let mut chosen = [0; 3];
    for turn in 0..3000u64 {
        let random = turn.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let (_, decode) = choice(&Ask { random, ..ASK }, &workers).expect("there are candidates");
        chosen[decode as usize] += 1;
    }
    assert!(
        chosen.iter().all(|it| (850..1150).contains(it)),
        "{chosen:?}"
    );
}

fn any_candidate(worker: u32) -> impl Strategy<Value = Candidate> {
    let role = prop_oneof![Just(Role::Prefill), Just(Role::Decode), Just(Role::Both)];
    let load = (
        0..10_000u32,
        0..300u32,
        0..2000u32,
        0.0..1e2f64,
        0.0..1e3f64,
    );
    (role, 0..400usize, load).prop_map(move |(role, cached_tokens, load)| Candidate {
        worker: WorkerSlot(worker),
        role,
        cached_tokens,
        load: Load {
            queued_tokens: load.0,
            sequences: load.1,
            free_blocks: load.2,
            total_blocks: 2000,
            prefill_ms: load.3,
            drain_ms: load.3 * 2.0,
            step_ms: load.4,
            inter_token_ms: load.4 * 2.0,
            waiting: load.1 / 2,
        },
    })
}

fn any_candidates() -> impl Strategy<Value = Vec<Candidate>> {
    (1..8u32).prop_flat_map(|n| (0..n).map(any_candidate).collect::<Vec<_>>())
}

proptest! {
    #[test]
    fn every_policy_places_sequences_on_eligible_workers(
        candidates in any_candidates(),
        hashes in prop::collection::vec(0..20u64, 0..25),
        may_split: bool,
        random: u64,
    ) {
        for name in PolicyName::all() {
            let mut policy = name.make();
            for turn in 0..3 {
                let ask = Ask {
                    prompt_tokens: hashes.len() * 16 + 1,
                    may_split,
                    random: random.wrapping_add(turn),
                    hashes: &hashes,
                    ..ASK
                };
                let choice = policy.place(&ask, &candidates).expect("there are candidates");
                let role = |at: usize| candidates[at].role;
                let decodable = candidates.iter().any(|c| c.role != Role::Prefill);
                prop_assert_eq!(role(choice.decode) != Role::Prefill, decodable);
                if let Some(prefill) = choice.prefill {
                    prop_assert!(may_split);
                    prop_assert_eq!(role(prefill), Role::Prefill);
                    prop_assert_ne!(prefill, choice.decode);
                }
            }
            prop_assert_eq!(policy.place(&ASK, &[]), None);
        }
    }

    #[test]
    fn the_default_takes_the_cheapest_option(
        candidates in any_candidates(),
        prompt_tokens in 1..400usize,
        may_split: bool,
        random: u64,
    ) {
        let ask = Ask { prompt_tokens, may_split, random, ..ASK };
        let choice = CostPolicy.place(&ask, &candidates).expect("there are candidates");
        let options = cost::options(&ask, &candidates, choice);
        let least = options.iter().map(|it| it.cost.total()).fold(f64::INFINITY, f64::min);
        prop_assert!(least.is_finite());
        prop_assert!(options[0].cost.total() <= least + 1e-5);
    }
}
