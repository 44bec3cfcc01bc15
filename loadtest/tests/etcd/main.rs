//! Clusters whose workers are found by etcd, and what becomes of them when it
//! goes away.

#[path = "../cluster/harness.rs"]
#[allow(dead_code, reason = "each test binary uses its share")]
mod harness;
#[path = "../harness/parts.rs"]
#[allow(dead_code, reason = "each test binary uses its share")]
mod parts;
#[path = "../../../runtime/src/membership/etcd/tests/server.rs"]
#[allow(dead_code, reason = "each test binary uses its share")]
mod server;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::future::join_all;
use runtime::Lifecycle;
use runtime::membership::etcd::{Registration, register};

use harness::{
    Ask, Client, FAST, Generated, Part, assert_idle, block_on, new_runtime, parse, reference,
    router_with, run, sim_worker, until,
};
use server::Etcd;

const CONNECTED: &str = "kvasir_router_connected_workers";
const BLOCKS: &str = "kvasir_router_index_blocks";
const MEMBERS: &str = "kvasir_router_members";
/// One for each link that was made: a worker's first events come as a snapshot.
const SNAPSHOTS: &str = "kvasir_router_snapshots_total";
const UP: &str = "kvasir_router_membership_up";

/// Longest wait for a task to end.
const PATIENCE: Duration = Duration::from_secs(30);

/// Slow enough that a test can act in the middle of a stream.
const SLOW: &[&str] = &[
    "--sim-prefill-tokens-per-second=100000",
    "--sim-step-time=10ms",
    "--etcd-timeout=500ms",
    "--etcd-lease-ttl=2s",
];

fn worker(id: &str, etcd: &str) -> Part {
    let etcd = format!("--etcd={etcd}");
    sim_worker(id, "both", &[SLOW, &[&etcd]].concat())
}

fn router(etcd: &str, grace: &str) -> Part {
    let etcd = format!("--etcd={etcd}");
    let grace = format!("--etcd-absence-grace={grace}");
    router_with(&[&etcd, &grace, "--etcd-timeout=500ms"])
}

fn asks(n: u32, max_tokens: u32) -> Vec<Ask> {
    let ask = |seed| Ask {
        seed,
        prompt_tokens: 100 + 7 * seed,
        max_tokens,
    };
    (0..n).map(ask).collect()
}

/// Runs all requests at once, and `meanwhile` once all of them stream.
fn run_while(router: &Part, asks: &[Ask], meanwhile: impl FnOnce()) -> Vec<Generated> {
    let streaming: Vec<_> = asks.iter().map(|_| AtomicUsize::new(0)).collect();
    std::thread::scope(|scope| {
        let running = scope.spawn(|| {
            block_on(async {
                let client = Client::connect(router).await;
                let runs = asks.iter().zip(&streaming).map(|(ask, seen)| {
                    let mut client = client.clone();
                    async move {
                        let on_token = |n| seen.store(n, Ordering::SeqCst);
                        client.generate(ask, on_token).await.expect("generates")
                    }
                });
                join_all(runs).await
            })
        });
        until("every stream to begin", || {
            streaming.iter().all(|n| n.load(Ordering::SeqCst) > 0)
        });
        meanwhile();
        running.join().expect("clients end")
    })
}

fn assert_undisturbed(asks: &[Ask], got: &[Generated]) {
    for ((ask, got), expected) in asks.iter().zip(got).zip(reference(asks)) {
        assert_eq!(got.tokens, expected.tokens, "{ask:?}");
        assert_eq!(got.usage.completion_tokens, ask.max_tokens, "{ask:?}");
    }
}

#[test]
fn etcd_dies_under_load_and_comes_back_empty_and_no_client_notices() {
    let Some(mut etcd) = Etcd::start() else {
        return;
    };
    let url = etcd.url();
    let (a, b) = (worker("a", &url), worker("b", &url));
    let routers = [router(&url, "5s"), router(&url, "5s")];
    for router in &routers {
        router.wait_for(CONNECTED, |n| n == 2.0);
        assert_eq!(router.metric(UP), 1.0);
    }
    let first = asks(6, 150);
    let got = run_while(&routers[0], &first, || {
        etcd.kill();
        for router in &routers {
            router.wait_for(UP, |up| up == 0.0);
        }
    });
    assert_undisturbed(&first, &got);

    // Nobody can find it yet; the others serve.
    let c = worker("c", &url);
    let second = asks(6, 10);
    assert_undisturbed(&second, &run(&routers[1], &second));
    assert_eq!(routers[1].metric(CONNECTED), 2.0);

    let third = asks(6, 150);
    let got = run_while(&routers[1], &third, || {
        etcd.restart_empty();
        for router in &routers {
            router.wait_for(CONNECTED, |n| n == 3.0);
            assert_eq!(router.metric(UP), 1.0);
        }
    });
    assert_undisturbed(&third, &got);
    for router in &routers {
        assert_eq!(router.metric(SNAPSHOTS), 3.0);
        assert_idle(router, &[&a, &b, &c]);
    }
}

/// Registers a worker that knows nothing of etcd; ends with its runtime.
struct Registrar {
    runtime: tokio::runtime::Runtime,
    lifecycle: Lifecycle,
}

impl Registrar {
    fn new(id: &str, worker: &Part, etcd: &str) -> Registrar {
        let (runtime, lifecycle) = (new_runtime(), Lifecycle::new());
        let registration = Registration {
            id: id.to_owned(),
            address: worker.address.to_string().parse().expect("an address"),
            epoch: 1,
            labels: BTreeMap::new(),
        };
        let flag = format!("--etcd={etcd}");
        let config = parse(&["register", &flag]);
        runtime.block_on(async {
            register(config, &registration, &lifecycle).expect("is built");
        });
        Registrar { runtime, lifecycle }
    }

    fn deregister(self) {
        let ended = self.runtime.block_on(self.lifecycle.finish(PATIENCE));
        ended.expect("it ends in time");
    }
}

#[test]
fn a_worker_that_etcd_forgot_serves_until_its_own_connection_ends() {
    let Some(etcd) = Etcd::start() else { return };
    let mut workers = [sim_worker("a", "both", FAST), sim_worker("b", "both", FAST)];
    let router = router(&etcd.url(), "100ms");
    let b = Registrar::new("b", &workers[1], &etcd.url());
    router.wait_for(CONNECTED, |n| n == 1.0);
    run(&router, &asks(2, 10));
    router.wait_for(BLOCKS, |n| n > 0.0);
    let a = Registrar::new("a", &workers[0], &etcd.url());
    router.wait_for(CONNECTED, |n| n == 2.0);
    a.deregister();
    b.deregister();
    workers[1].kill();
    // The blocks of a lost worker go when it is taken for gone; by then the
    // other one, which left earlier, is absent too.
    router.wait_for(BLOCKS, |n| n == 0.0);
    assert_eq!(router.metric(CONNECTED), 1.0);
    run(&router, &asks(2, 10));
    router.wait_for(BLOCKS, |n| n > 0.0);
    // Back under another id it keeps its link, and its blocks.
    let c = Registrar::new("c", &workers[0], &etcd.url());
    let probe = Registrar::new("probe", &workers[1], &etcd.url());
    until("the probe to be followed", || {
        router.metric(CONNECTED) == 1.0 && router.metric(MEMBERS) == 2.0
    });
    assert!(router.metric(BLOCKS) > 0.0);
    c.deregister();
    probe.deregister();
    workers[0].kill();
    router.wait_for(BLOCKS, |n| n == 0.0);
    assert_eq!(router.metric(SNAPSHOTS), 2.0);
}

#[test]
fn a_router_starts_without_etcd_and_finds_its_workers_later() {
    let Some(mut etcd) = Etcd::start() else {
        return;
    };
    let url = etcd.url();
    etcd.kill();
    let router = router(&url, "30s");
    let body = r#"{"model":"kvasir-demo","messages":[{"role":"user","content":"hi"}]}"#;
    let (head, _) = harness::post(router.address, "/v1/chat/completions", "", body);
    assert!(
        head.starts_with("HTTP/1.1 4") || head.starts_with("HTTP/1.1 5"),
        "{head}"
    );
    let a = worker("a", &url);
    etcd.restart();
    router.wait_for(CONNECTED, |n| n == 1.0);
    let asks = asks(2, 10);
    assert_undisturbed(&asks, &run(&router, &asks));
    assert_idle(&router, &[&a]);
}
