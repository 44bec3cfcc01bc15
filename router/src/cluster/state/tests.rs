use super::*;
use kvcache_index::KvEvent;
use std::time::Duration;

use crate::plan::Role;
use crate::tokenize::fixture;

const ASK: Ask<'static> = Ask {
    prompt_tokens: 1000,
    max_tokens: 10,
    first_token: None,
    inter_token: None,
    block_size: 16,
    may_split: true,
    hashes: &[],
    session: None,
    now: Duration::ZERO,
    random: 0,
};

fn model_named(name: &str, fingerprint: &str) -> Arc<Model> {
    let card = crate::tokenize::ModelCard {
        name: name.to_owned(),
        fingerprint: fingerprint.to_owned(),
        ..fixture::byte_level_card()
    };
    Arc::new(Model::new(card).expect("a valid card"))
}

fn joining(slot: u32, epoch: u64, role: Role, model: &Arc<Model>) -> Joining {
    Joining {
        slot: WorkerSlot(slot),
        description: Arc::new(Description {
            worker_id: format!("worker-{slot}"),
            epoch,
            model: model.name().to_owned(),
            model_fingerprint: model.fingerprint().to_owned(),
            role,
            block_size: 16,
            max_model_len: 512,
            vocab_size: 300,
        }),
        client: WorkerClient::unconnected(),
        model: model.clone(),
        recheck: Arc::default(),
    }
}

fn idle() -> WorkerStatus {
    WorkerStatus {
        free_blocks: 100,
        ..WorkerStatus::default()
    }
}

/// Connected workers with these roles, in slots 0, 1, ...
fn state_of(model: &Arc<Model>, roles: &[Role]) -> State {
    let mut state = State::new(PolicyName::default(), usize::MAX);
    for (slot, role) in (0..).zip(roles) {
        state.join(joining(slot, 1, *role, model)).expect("joins");
        state.status(WorkerSlot(slot), idle(), Duration::ZERO);
    }
    state
}

fn loads(state: &mut State, model: &Model) -> Vec<(u32, u32, u32)> {
    state
        .candidates(model, &ASK, &Excluded::new())
        .iter()
        .map(|it| (it.worker.0, it.load.queued_tokens, it.load.sequences))
        .collect()
}

fn book(state: &mut State, model: &Model) -> u64 {
    let choice = state.choose(model, &ASK, &Overlaps::default(), &Excluded::new());
    state.book(&ASK, choice.expect("somebody is there")).booking
}

#[tokio::test]
async fn a_booking_counts_until_the_worker_reports_it() {
    let model = model_named("m", "f");
    let mut state = state_of(&model, &[Role::Prefill, Role::Decode]);
    let booking = book(&mut state, &model);
    assert_eq!(loads(&mut state, &model), [(0, 1000, 1), (1, 0, 1)]);
    // A status that was on its way before the worker accepted changes nothing.
    state.status(WorkerSlot(0), idle(), Duration::ZERO);
    assert_eq!(loads(&mut state, &model), [(0, 1000, 1), (1, 0, 1)]);
    state.accepted(booking, WorkerSlot(0), 7);
    let counting = |accepted| WorkerStatus {
        accepted: Some(accepted),
        ..idle()
    };
    // Accepted as the seventh: what was told before comes late.
    state.status(WorkerSlot(0), counting(6), Duration::ZERO);
    assert_eq!(loads(&mut state, &model), [(0, 1000, 1), (1, 0, 1)]);
    state.status(WorkerSlot(0), counting(7), Duration::ZERO);
    assert_eq!(loads(&mut state, &model), [(0, 0, 0), (1, 0, 1)]);
    state.release(booking);
    assert_eq!(loads(&mut state, &model), [(0, 0, 0), (1, 0, 0)]);
    assert_eq!(state.bookings(), 0);
}

#[tokio::test]
async fn a_booking_is_accepted_after_the_report_that_includes_it() {
    let model = model_named("m", "f");
    let mut state = state_of(&model, &[Role::Both]);
    let booking = book(&mut state, &model);
    let counting = |accepted| WorkerStatus {
        accepted: Some(accepted),
        ..idle()
    };
    state.status(WorkerSlot(0), counting(7), Duration::ZERO);
    assert_eq!(loads(&mut state, &model), [(0, 1000, 1)]);
    state.accepted(booking, WorkerSlot(0), 7);
    assert_eq!(loads(&mut state, &model), [(0, 0, 0)]);
    state.release(booking);
    assert_eq!(loads(&mut state, &model), [(0, 0, 0)]);
}

#[tokio::test]
async fn what_a_former_start_accepted_does_not_count_for_the_next() {
    let model = model_named("m", "f");
    let mut state = state_of(&model, &[Role::Both]);
    let booking = book(&mut state, &model);
    state
        .join(joining(0, 2, Role::Both, &model))
        .expect("joins");
    state.accepted(booking, WorkerSlot(0), 900);
    let counting = WorkerStatus {
        accepted: Some(1000),
        ..idle()
    };
    state.status(WorkerSlot(0), counting, Duration::ZERO);
    assert_eq!(loads(&mut state, &model), [(0, 0, 0)]);
    state.release(booking);
    assert_eq!(loads(&mut state, &model), [(0, 0, 0)]);
}

#[tokio::test]
async fn a_booking_on_a_former_start_is_released_without_trace() {
    let model = model_named("m", "f");
    let mut state = state_of(&model, &[Role::Both]);
    let booking = book(&mut state, &model);
    state
        .join(joining(0, 2, Role::Both, &model))
        .expect("joins");
    state.status(WorkerSlot(0), idle(), Duration::ZERO);
    state.release(booking);
    assert_eq!(loads(&mut state, &model), [(0, 0, 0)]);
}

#[tokio::test]
async fn an_equal_prompt_finds_the_one_before_it_is_computed() {
    let model = model_named("m", "f");
    let mut state = state_of(&model, &[Role::Both, Role::Both]);
    let ask = |now: u64| Ask {
        hashes: &[7, 8, 9],
        now: Duration::from_millis(now),
        ..ASK
    };
    let first = ask(0);
    let choice = state.choose(&model, &first, &Overlaps::default(), &Excluded::new());
    let placed = state.book(&first, choice.expect("somebody is there"));
    placed.predict(state.index(), &first);
    let cached = |state: &mut State, ask: &Ask<'_>| {
        let candidates = state.candidates(&model, ask, &Excluded::new());
        let held = candidates.iter().map(|it| (it.worker, it.cached_tokens));
        held.filter(|it| it.1 > 0).collect::<Vec<_>>()
    };
    assert_eq!(cached(&mut state, &ask(900)), [(placed.decode, 48)]);
    assert_eq!(cached(&mut state, &ask(1100)), []);
}

#[tokio::test]
async fn a_restart_leaves_no_blocks_and_a_reconnect_keeps_them() {
    let model = model_named("m", "f");
    let mut state = state_of(&model, &[Role::Both]);
    let stored = KvEvent::stored(0, vec![7, 8]);
    state.index().apply(WorkerSlot(0), &stored);
    let cached = |state: &mut State| {
        let ask = Ask {
            hashes: &[7, 8, 9],
            ..ASK
        };
        let candidates = state.candidates(&model, &ask, &Excluded::new());
        candidates.first().map(|candidate| candidate.cached_tokens)
    };
    assert_eq!(cached(&mut state), Some(32));
    state.disconnected(WorkerSlot(0));
    assert_eq!(cached(&mut state), None);
    state
        .join(joining(0, 1, Role::Both, &model))
        .expect("joins");
    state.status(WorkerSlot(0), idle(), Duration::ZERO);
    assert_eq!(cached(&mut state), Some(32));
    state
        .join(joining(0, 2, Role::Both, &model))
        .expect("joins");
    state.status(WorkerSlot(0), idle(), Duration::ZERO);
    assert_eq!(cached(&mut state), Some(0));
}

#[tokio::test]
async fn draining_suspected_and_excluded_workers_get_nothing() {
    let model = model_named("m", "f");
    let mut state = state_of(&model, &[Role::Both, Role::Both, Role::Both]);
    state.status(
        WorkerSlot(0),
        WorkerStatus {
            draining: true,
            ..idle()
        },
        Duration::ZERO,
    );
    state.suspect(WorkerSlot(1), 1);
    assert_eq!(loads(&mut state, &model), [(2, 0, 0)]);
    let excluded = vec![(WorkerSlot(2), 1)];
    assert!(state.candidates(&model, &ASK, &excluded).is_empty());
    state.trust(WorkerSlot(1));
    assert_eq!(state.candidates(&model, &ASK, &excluded).len(), 1);
    // A new connection is a sign of life too.
    state.suspect(WorkerSlot(1), 1);
    state
        .join(joining(1, 1, Role::Both, &model))
        .expect("joins");
    assert_eq!(state.candidates(&model, &ASK, &excluded).len(), 1);
    // The next start of an excluded worker is another worker.
    state
        .join(joining(2, 2, Role::Both, &model))
        .expect("joins");
    state.status(WorkerSlot(2), idle(), Duration::ZERO);
    assert_eq!(state.candidates(&model, &ASK, &excluded).len(), 2);
}

#[tokio::test]
async fn one_name_stands_for_one_model_at_a_time() {
    let (model, other) = (model_named("m", "f"), model_named("m", "g"));
    let mut state = state_of(&model, &[Role::Both]);
    assert!(state.join(joining(1, 1, Role::Both, &other)).is_err());
    state.disconnected(WorkerSlot(0));
    state
        .join(joining(1, 1, Role::Both, &other))
        .expect("the first is gone");
    state.status(WorkerSlot(1), idle(), Duration::ZERO);
    let known = state.model("m").expect("known");
    assert_eq!(known.fingerprint(), "g");
}

#[tokio::test]
async fn one_name_stands_for_one_model_among_workers_that_join_together() {
    let (model, other) = (model_named("m", "f"), model_named("m", "g"));
    let mut state = State::new(PolicyName::default(), usize::MAX);
    state
        .join(joining(0, 1, Role::Both, &model))
        .expect("joins");
    assert!(state.join(joining(1, 1, Role::Both, &other)).is_err());
    state.status(WorkerSlot(0), idle(), Duration::ZERO);
    let known = state.model("m").expect("known");
    assert_eq!(known.fingerprint(), "f");
    assert_eq!(loads(&mut state, &known), [(0, 0, 0)]);
}

#[tokio::test]
async fn models_live_side_by_side() {
    let (a, b) = (model_named("a", "f"), model_named("b", "g"));
    let mut state = state_of(&a, &[Role::Both]);
    state.join(joining(1, 1, Role::Both, &b)).expect("joins");
    state.status(WorkerSlot(1), idle(), Duration::ZERO);
    let names: Vec<String> = state
        .served_models()
        .iter()
        .map(|model| model.name().to_owned())
        .collect();
    assert_eq!(names, ["a", "b"]);
    assert_eq!(loads(&mut state, &b), [(1, 0, 0)]);
    state.disconnected(WorkerSlot(1));
    assert_eq!(state.served_models().len(), 1);
    assert!(state.model("b").is_some());
}
