//! What the rules of the module come to with a real etcd.

use std::net::TcpListener;

use etcd_client::{Client, PutOptions};
use futures::StreamExt;
use futures::stream::BoxStream;
use tokio::sync::watch;

use super::server::Etcd;
use super::*;
use crate::Lifecycle;
use crate::membership::{Change, Member};

/// Longest wait for anything in these tests.
const PATIENCE: Duration = Duration::from_secs(60);

/// Long enough that no member is dropped in a test.
const LONG: &str = "--etcd-absence-grace=10m";
const NONE: &[&str] = &[];
const SHORT: &str = "--etcd-absence-grace=200ms";

/// A router's view of one etcd.
pub struct Follower {
    changes: BoxStream<'static, Change>,
    answers: watch::Receiver<bool>,
}

impl Follower {
    pub fn new(urls: &[String], flags: &[impl AsRef<str>]) -> Follower {
        let urls: Vec<_> = urls.iter().map(|url| format!("--etcd={url}")).collect();
        let mut all = vec!["--etcd-timeout=1s"];
        all.extend(urls.iter().map(String::as_str));
        all.extend(flags.iter().map(AsRef::as_ref));
        let (answers_tx, answers) = watch::channel(true);
        let on_source = move |answers| {
            answers_tx.send_replace(answers);
        };
        let changes = follow(parse(&all), on_source).unwrap().changes();
        Follower { changes, answers }
    }

    pub async fn next(&mut self) -> Change {
        let change = tokio::time::timeout(PATIENCE, self.changes.next()).await;
        change.expect("a change in time").expect("no end")
    }

    /// Until etcd is seen to answer, or not to. No change comes meanwhile.
    pub async fn until_source(&mut self, wanted: bool) {
        let mut answers = self.answers.clone();
        let waited = async {
            tokio::select! {
                change = self.changes.next() => panic!("{change:?}"),
                seen = answers.wait_for(|it| *it == wanted) => drop(seen.unwrap()),
            }
        };
        tokio::time::timeout(PATIENCE, waited)
            .await
            .expect("in time");
    }
}

/// A worker that registers; it leaves with its lifecycle.
pub fn worker(id: &str, port: u16, url: &str, flags: &[impl AsRef<str>]) -> Lifecycle {
    let url = format!("--etcd={url}");
    let mut all = vec![url.as_str(), "--etcd-timeout=1s"];
    all.extend(flags.iter().map(AsRef::as_ref));
    if !all.iter().any(|it| it.starts_with("--etcd-lease-ttl")) {
        all.push("--etcd-lease-ttl=3s");
    }
    let registration = Registration {
        id: id.to_owned(),
        address: member(id, port).address,
        epoch: 1,
        labels: BTreeMap::new(),
    };
    let lifecycle = Lifecycle::new();
    register(parse(&all), &registration, &lifecycle).unwrap();
    lifecycle
}

fn member(id: &str, port: u16) -> Member {
    Member {
        id: id.to_owned(),
        address: format!("host:{port}").parse().unwrap(),
    }
}

pub fn added(id: &str, port: u16) -> Change {
    Change::Added(member(id, port))
}

fn removed(id: &str) -> Change {
    Change::Removed { id: id.to_owned() }
}

pub fn key(id: &str) -> String {
    format!("/kvasir/default/workers/{id}")
}

pub fn value(port: u16) -> String {
    format!(r#"{{"version":1,"address":"host:{port}"}}"#)
}

pub async fn client(etcd: &Etcd) -> Client {
    Client::connect([etcd.url()], None).await.unwrap()
}

/// Until a key is there under another lease than before.
async fn until_registered(etcd: &Etcd, id: &str, not_lease: i64) -> i64 {
    let mut client = client(etcd).await;
    let waited = async {
        loop {
            let found = client.get(key(id), None).await.unwrap();
            let lease = found.kvs().first().map(|it| it.lease());
            if let Some(lease) = lease.filter(|it| *it != not_lease) {
                return lease;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waited)
        .await
        .expect("in time")
}

#[tokio::test]
async fn a_worker_that_drains_leaves_long_before_its_lease_ends() {
    let Some(etcd) = Etcd::start() else { return };
    let mut router = Follower::new(&[etcd.url()], &[SHORT]);
    let a = worker("a", 1, &etcd.url(), &["--etcd-lease-ttl=1h"]);
    assert_eq!(router.next().await, added("a", 1));
    a.finish(PATIENCE).await.unwrap();
    assert_eq!(router.next().await, removed("a"));
}

#[tokio::test]
async fn a_lease_that_ends_takes_its_worker_along() {
    let Some(etcd) = Etcd::start() else { return };
    let mut router = Follower::new(&[etcd.url()], &[SHORT]);
    let a = worker("a", 1, &etcd.url(), NONE);
    assert_eq!(router.next().await, added("a", 1));
    // As a crash does: no farewell.
    let lease = until_registered(&etcd, "a", 0).await;
    let mut client = client(&etcd).await;
    client
        .put(
            key("b"),
            value(2),
            Some(PutOptions::new().with_lease(lease)),
        )
        .await
        .unwrap();
    assert_eq!(router.next().await, added("b", 2));
    let granted = client.lease_grant(2, None).await.unwrap();
    let options = PutOptions::new().with_lease(granted.id());
    client.put(key("c"), value(3), Some(options)).await.unwrap();
    assert_eq!(router.next().await, added("c", 3));
    // Nobody keeps c's lease; a keeps its own, on which b hangs.
    assert_eq!(router.next().await, removed("c"));
    a.finish(PATIENCE).await.unwrap();
    let mut gone = [router.next().await, router.next().await];
    gone.sort_by_key(|it| format!("{it:?}"));
    assert_eq!(gone, [removed("a"), removed("b")]);
}

#[tokio::test]
async fn a_restart_of_etcd_changes_nothing() {
    let Some(mut etcd) = Etcd::start() else {
        return;
    };
    let mut router = Follower::new(&[etcd.url()], &[SHORT]);
    let _a = worker("a", 1, &etcd.url(), &["--etcd-lease-ttl=1m"]);
    assert_eq!(router.next().await, added("a", 1));
    etcd.kill();
    router.until_source(false).await;
    etcd.restart();
    router.until_source(true).await;
    let _b = worker("b", 2, &etcd.url(), NONE);
    assert_eq!(router.next().await, added("b", 2));
}

#[tokio::test]
async fn an_etcd_that_lost_its_data_loses_only_who_does_not_come_back() {
    let Some(mut etcd) = Etcd::start() else {
        return;
    };
    let mut router = Follower::new(&[etcd.url()], &["--etcd-absence-grace=10s"]);
    let _a = worker("a", 1, &etcd.url(), NONE);
    assert_eq!(router.next().await, added("a", 1));
    client(&etcd)
        .await
        .put(key("b"), value(2), None)
        .await
        .unwrap();
    assert_eq!(router.next().await, added("b", 2));
    etcd.kill();
    router.until_source(false).await;
    etcd.restart_empty();
    router.until_source(true).await;
    until_registered(&etcd, "a", 0).await;
    assert_eq!(router.next().await, removed("b"));
    let _c = worker("c", 3, &etcd.url(), NONE);
    assert_eq!(router.next().await, added("c", 3));
}

#[tokio::test]
async fn a_frozen_etcd_is_away_and_its_leases_may_end() {
    let Some(etcd) = Etcd::start() else { return };
    let mut router = Follower::new(&[etcd.url()], &[LONG]);
    let _a = worker("a", 1, &etcd.url(), &["--etcd-lease-ttl=2s"]);
    assert_eq!(router.next().await, added("a", 1));
    let lease = until_registered(&etcd, "a", 0).await;
    etcd.freeze();
    router.until_source(false).await;
    etcd.thaw();
    router.until_source(true).await;
    // The worker gave its lease up while etcd was silent.
    until_registered(&etcd, "a", lease).await;
    let _b = worker("b", 2, &etcd.url(), NONE);
    assert_eq!(router.next().await, added("b", 2));
}

#[tokio::test]
async fn an_etcd_that_accepts_and_never_answers_holds_nobody_up() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = format!("http://{}", silent.local_addr().unwrap());
    let mut router = Follower::new(std::slice::from_ref(&silent), &[LONG]);
    router.until_source(false).await;
    let a = worker("a", 1, &silent, NONE);
    a.finish(PATIENCE).await.unwrap();

    let Some(etcd) = Etcd::start() else { return };
    let mut router = Follower::new(&[silent, etcd.url()], &[LONG]);
    let _a = worker("a", 1, &etcd.url(), NONE);
    assert_eq!(router.next().await, added("a", 1));
}

#[tokio::test]
async fn two_routers_see_the_same_and_another_cluster_nothing() {
    let Some(etcd) = Etcd::start() else { return };
    let mut first = Follower::new(&[etcd.url()], &[LONG]);
    let _a = worker("a", 1, &etcd.url(), NONE);
    assert_eq!(first.next().await, added("a", 1));
    let mut second = Follower::new(&[etcd.url()], &[LONG]);
    assert_eq!(second.next().await, added("a", 1));
    let mut other = Follower::new(&[etcd.url()], &[LONG, "--etcd-cluster=other"]);
    let _b = worker("b", 2, &etcd.url(), NONE);
    assert_eq!(first.next().await, added("b", 2));
    assert_eq!(second.next().await, added("b", 2));
    let _c = worker("c", 3, &etcd.url(), &["--etcd-cluster=other"]);
    assert_eq!(other.next().await, added("c", 3));
}

#[tokio::test]
async fn a_registration_deleted_by_hand_comes_back() {
    let Some(etcd) = Etcd::start() else { return };
    let mut router = Follower::new(&[etcd.url()], &[LONG]);
    let _a = worker("a", 1, &etcd.url(), NONE);
    assert_eq!(router.next().await, added("a", 1));
    let mut client = client(&etcd).await;
    client.delete(key("a"), None).await.unwrap();
    until_registered(&etcd, "a", 0).await;
    let _b = worker("b", 2, &etcd.url(), NONE);
    assert_eq!(router.next().await, added("b", 2));
}

#[tokio::test]
async fn a_restarted_worker_takes_its_id_over_and_survives_the_old_lease() {
    let Some(etcd) = Etcd::start() else { return };
    let mut router = Follower::new(&[etcd.url()], &[SHORT]);
    let old = worker("a", 1, &etcd.url(), NONE);
    assert_eq!(router.next().await, added("a", 1));
    let lease = until_registered(&etcd, "a", 0).await;
    let new = worker("a", 2, &etcd.url(), NONE);
    assert_eq!(router.next().await, Change::Updated(member("a", 2)));
    until_registered(&etcd, "a", lease).await;
    old.finish(PATIENCE).await.unwrap();
    let _b = worker("b", 3, &etcd.url(), NONE);
    assert_eq!(router.next().await, added("b", 3));
    new.finish(PATIENCE).await.unwrap();
    assert_eq!(router.next().await, removed("a"));
}

#[tokio::test]
async fn registrations_that_cannot_be_read_are_passed_over() {
    let Some(etcd) = Etcd::start() else { return };
    let mut client = client(&etcd).await;
    for (id, value) in [("a", "?"), ("", "?"), ("b", r#"{"version":9}"#)] {
        client.put(key(id), value, None).await.unwrap();
    }
    client.put(key("c"), value(3), None).await.unwrap();
    let mut router = Follower::new(&[etcd.url()], &[SHORT]);
    assert_eq!(router.next().await, added("c", 3));
    client.put(key("c"), "?", None).await.unwrap();
    assert_eq!(router.next().await, removed("c"));
}
