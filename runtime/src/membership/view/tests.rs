use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

const GRACE: Duration = Duration::from_secs(30);

fn member(id: &str, port: u16) -> Member {
    Member {
        id: id.to_owned(),
        address: format!("host:{port}").parse().unwrap(),
    }
}

fn listed(members: &[(&str, u16)]) -> Vec<Listed> {
    let numbered = (1..).zip(members);
    numbered
        .map(|(revision, (id, port))| Listed {
            member: member(id, *port),
            revision,
        })
        .collect()
}

fn added(id: &str, port: u16) -> Change {
    Change::Added(member(id, port))
}

fn removed(id: &str) -> Change {
    Change::Removed { id: id.to_owned() }
}

/// A view over `a` at port 1 and `b` at port 2, and the time of its list.
fn two() -> (View, Instant) {
    let (mut view, now) = (View::new(GRACE), Instant::now());
    let changes = view.list(listed(&[("a", 1), ("b", 2)]), now);
    assert_eq!(changes, [added("a", 1), added("b", 2)]);
    (view, now)
}

#[test]
fn a_list_that_says_the_same_changes_nothing() {
    let (mut view, now) = two();
    assert_eq!(view.list(listed(&[("b", 2), ("a", 1)]), now), []);
    assert_eq!(view.put(member("a", 1)), []);
    assert_eq!(view.next_expiry(), None);
}

#[test]
fn another_address_is_an_update() {
    let (mut view, now) = two();
    assert_eq!(view.put(member("a", 9)), [Change::Updated(member("a", 9))]);
    assert_eq!(
        view.list(listed(&[("a", 9), ("b", 8)]), now),
        [Change::Updated(member("b", 8))]
    );
}

#[test]
fn an_absent_member_is_dropped_after_the_grace_time() {
    let (mut view, now) = two();
    view.delete("a", now);
    assert_eq!(view.next_expiry(), Some(now + GRACE));
    assert_eq!(view.expire(now + GRACE - Duration::from_millis(1)), []);
    assert_eq!(view.expire(now + GRACE), [removed("a")]);
    assert_eq!(view.next_expiry(), None);
    assert_eq!(view.len(), 1);
}

#[test]
fn a_lease_lost_and_regained_is_no_change() {
    let (mut view, now) = two();
    view.delete("a", now);
    assert_eq!(view.put(member("a", 1)), []);
    assert_eq!(view.expire(now + GRACE * 2), []);
}

#[test]
fn absence_counts_from_its_beginning() {
    let (mut view, now) = two();
    view.delete("a", now);
    view.delete("a", now + GRACE / 2);
    assert_eq!(view.list(listed(&[("b", 2)]), now + GRACE / 2), []);
    assert_eq!(view.expire(now + GRACE), [removed("a")]);
}

#[test]
fn a_source_that_lost_its_data_removes_nobody_who_comes_back() {
    let (mut view, now) = two();
    view.away();
    assert_eq!(view.list(Vec::new(), now), []);
    assert_eq!(view.put(member("a", 1)), []);
    assert_eq!(view.expire(now + GRACE), [removed("b")]);
}

#[test]
fn while_the_source_is_away_nobody_is_absent() {
    let (mut view, now) = two();
    view.delete("a", now);
    view.away();
    assert_eq!(view.next_expiry(), None);
    assert_eq!(view.expire(now + GRACE * 10), []);
    // The grace time begins anew with the next list.
    let back = now + GRACE * 10;
    assert_eq!(view.list(listed(&[("b", 2)]), back), []);
    assert_eq!(view.expire(back + GRACE / 2), []);
    assert_eq!(view.expire(back + GRACE), [removed("a")]);
}

#[test]
fn a_worker_back_under_another_id_takes_its_own_place() {
    let (mut view, now) = two();
    assert_eq!(view.put(member("a2", 1)), [removed("a"), added("a2", 1)]);
    // The old lease ends later: nothing is left to end.
    view.delete("a", now);
    assert_eq!(view.next_expiry(), None);
    // In one list the later registration counts.
    let mut fresh = View::new(GRACE);
    let list = listed(&[("z", 1), ("a", 1)]);
    assert_eq!(fresh.list(list, now), [added("a", 1)]);
}

#[derive(Clone, Debug)]
enum Step {
    List(Vec<(u8, u16)>),
    Put(u8, u16),
    Delete(u8),
    Away,
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let entry = || (0..5u8, 1..6u16);
    prop_oneof![
        proptest::collection::vec(entry(), 0..5).prop_map(Step::List),
        entry().prop_map(|(id, port)| Step::Put(id, port)),
        (0..5u8).prop_map(Step::Delete),
        Just(Step::Away),
        (1..40u64).prop_map(Step::Wait),
    ]
}

/// What the source said last, and since when who is absent: kept naively.
#[derive(Default)]
struct Naive {
    absent: BTreeMap<String, Instant>,
}

impl Naive {
    fn named(&mut self, ids: &BTreeSet<String>, members: &BTreeMap<String, u16>, now: Instant) {
        self.absent.retain(|id, _| !ids.contains(id));
        for id in members.keys().filter(|id| !ids.contains(*id)) {
            self.absent.entry(id.clone()).or_insert(now);
        }
    }
}

/// A listener's members, kept by the changes alone.
fn apply(members: &mut BTreeMap<String, u16>, change: &Change) {
    let port = |member: &Member| member.address.port();
    match change {
        Change::Added(member) => {
            let before = members.insert(member.id.clone(), port(member));
            assert_eq!(before, None, "{change:?} of a known member");
        }
        Change::Updated(member) => {
            let before = members.insert(member.id.clone(), port(member));
            assert!(before.is_some_and(|it| it != port(member)), "{change:?}");
        }
        Change::Removed { id } => {
            assert!(members.remove(id).is_some(), "{change:?} of an unknown one");
        }
    }
}

proptest! {
    #[test]
    fn whatever_the_source_does_the_view_keeps_its_promises(
        steps in proptest::collection::vec(step(), 1..60),
    ) {
        let (mut view, mut now) = (View::new(GRACE), Instant::now());
        let mut members = BTreeMap::new();
        let mut naive = Naive::default();
        for step in steps {
            let mut taken = BTreeSet::new();
            let changes = match step {
                Step::List(entries) => {
                    // An id is in a list once.
                    let entries: BTreeMap<_, _> = entries.into_iter().collect();
                    let list: Vec<_> = (1..).zip(&entries).map(|(revision, (id, port))| Listed {
                        member: member(&id.to_string(), *port),
                        revision,
                    }).collect();
                    let latest: BTreeMap<u16, String> =
                        entries.iter().map(|(id, port)| (*port, id.to_string())).collect();
                    taken.extend(latest.keys().copied());
                    let ids: BTreeSet<String> = latest.into_values().collect();
                    let changes = view.list(list, now);
                    naive.named(&ids, &members, now);
                    prop_assert!(ids.iter().all(|id| members.contains_key(id)
                        || changes.iter().any(|it| matches!(it, Change::Added(m) if m.id == *id))));
                    changes
                }
                Step::Put(id, port) => {
                    taken.insert(port);
                    naive.absent.remove(&id.to_string());
                    view.put(member(&id.to_string(), port))
                }
                Step::Delete(id) => {
                    let id = id.to_string();
                    view.delete(&id, now);
                    if members.contains_key(&id) {
                        naive.absent.entry(id).or_insert(now);
                    }
                    Vec::new()
                }
                Step::Away => {
                    view.away();
                    naive.absent.clear();
                    Vec::new()
                }
                Step::Wait(seconds) => {
                    now += Duration::from_secs(seconds);
                    view.expire(now)
                }
            };
            for change in &changes {
                if let Change::Removed { id } = change {
                    let over = naive.absent.get(id).is_some_and(|since| now >= *since + GRACE);
                    prop_assert!(over || taken.contains(&members[id]), "{change:?}");
                }
                apply(&mut members, change);
            }
            naive.absent.retain(|id, _| members.contains_key(id));
            let addresses: BTreeSet<_> = members.values().collect();
            prop_assert_eq!(addresses.len(), members.len(), "an address is there twice");
            prop_assert_eq!(view.len(), members.len());
            prop_assert_eq!(view.next_expiry(), naive.absent.values().min().map(|it| *it + GRACE));
        }
    }
}
