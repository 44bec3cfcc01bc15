use proptest::prelude::*;

use super::*;

const ASK: Ask = Ask {
    prompt_tokens: 160,
    max_tokens: 100,
    block_size: 16,
    may_split: true,
};

fn candidate(worker: u32, role: Role) -> Candidate {
    Candidate {
        worker: WorkerSlot(worker),
        role,
        cached_tokens: 0,
        load: Load {
            free_blocks: 1000,
            prefill_tokens_per_second: 1000.0,
            decode_step_ms: 10.0,
            ..Load::default()
        },
    }
}

/// Plans, and answers with the numbers of the prefill and decode worker.
fn choice(ask: &Ask, candidates: &[Candidate]) -> Option<(Option<u32>, u32)> {
    plan(ask, candidates, 0).map(|plan| (plan.prefill.map(|w| w.0), plan.decode.0))
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
fn a_decode_worker_that_holds_all_but_the_last_block_needs_no_prefill_worker() {
    let mut workers = [candidate(0, Role::Prefill), candidate(1, Role::Decode)];
    workers[1].cached_tokens = 144;
    assert_eq!(choice(&ASK, &workers), Some((None, 1)));
    workers[1].cached_tokens = 128;
    assert_eq!(choice(&ASK, &workers), Some((Some(0), 1)));
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
}

#[test]
fn equals_take_turns() {
    let workers = [candidate(0, Role::Both), candidate(1, Role::Both)];
    let chosen: Vec<u32> = (0..4)
        .filter_map(|salt| plan(&ASK, &workers, salt))
        .map(|plan| plan.decode.0)
        .collect();
    assert_eq!(chosen, [0, 1, 0, 1]);
}

fn any_candidate(worker: u32) -> impl Strategy<Value = Candidate> {
    let role = prop_oneof![Just(Role::Prefill), Just(Role::Decode), Just(Role::Both)];
    let load = (
        0..10_000u64,
        0..300u32,
        0..2000u32,
        0.0..1e6f32,
        0.0..1e3f32,
    );
    (role, 0..400usize, load).prop_map(move |(role, cached_tokens, load)| Candidate {
        worker: WorkerSlot(worker),
        role,
        cached_tokens,
        load: Load {
            queued_tokens: load.0,
            sequences: load.1,
            free_blocks: load.2,
            prefill_tokens_per_second: load.3,
            decode_step_ms: load.4,
        },
    })
}

fn any_candidates() -> impl Strategy<Value = Vec<Candidate>> {
    (1..8u32).prop_flat_map(|n| (0..n).map(any_candidate).collect::<Vec<_>>())
}

proptest! {
    #[test]
    fn whoever_is_there_the_sequence_is_placed_on_them(
        candidates in any_candidates(),
        prompt_tokens in 1..400usize,
        may_split: bool,
        salt: u64,
    ) {
        let ask = Ask { prompt_tokens, may_split, ..ASK };
        let plan = plan(&ask, &candidates, salt).expect("there are candidates");
        let role = |slot| candidates.iter().find(|c| c.worker == slot).map(|c| c.role);
        let decodable = candidates.iter().any(|c| c.role != Role::Prefill);
        prop_assert_eq!(role(plan.decode) != Some(Role::Prefill), decodable);
        if let Some(prefill) = plan.prefill {
            prop_assert!(may_split);
            prop_assert_eq!(role(prefill), Some(Role::Prefill));
            prop_assert_ne!(prefill, plan.decode);
        }
        let least = plan.options.iter().map(|o| o.cost.total()).fold(f64::INFINITY, f64::min);
        prop_assert!(plan.options[0].cost.total() <= least + 1e-6);
        prop_assert!(plan.options.iter().all(|o| o.cost.total().is_finite()));
    }
}
