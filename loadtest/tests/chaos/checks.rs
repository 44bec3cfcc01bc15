//! What must be true once all is quiet.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use kvcache_index::HashScope;
use proto::worker as pb;
use proto::worker::worker_client::WorkerClient;
use proto::worker::worker_event::Event;
use serde_json::{Value, json};
use tonic::transport::Endpoint;

use crate::clients::asks;
use crate::cluster::Cluster;
use crate::harness::{Ask, block_on, post};

const BLOCK_SIZE: usize = 16;
/// Longest time from quiet to a true index.
const SETTLED_WITHIN: Duration = Duration::from_secs(1);

/// No permit, booking, sequence or block is held.
pub fn nothing_is_held(cluster: &Cluster) {
    for router in &cluster.routers {
        router
            .part()
            .wait_for("kvasir_router_bookings", |n| n == 0.0);
        router
            .part()
            .wait_for("kvasir_router_permits", |n| n == 0.0);
    }
    for worker in &cluster.workers {
        let part = worker.part();
        let total = part.metric("kvasir_kv_blocks_total");
        assert!(total > 0.0, "{}", worker.id);
        part.wait_for("kvasir_kv_blocks_free", |free| free == total);
        part.wait_for("kvasir_running_sequences", |n| n == 0.0);
        part.wait_for("kvasir_waiting_sequences", |n| n == 0.0);
    }
}

/// Every router knows what every worker holds: as many blocks in all, and for
/// each prompt the same prefix on the same worker.
pub fn indexes_are_true(cluster: &Cluster) {
    let quiet = Instant::now();
    let truth = contents(cluster);
    let all: BTreeSet<u64> = truth
        .values()
        .flat_map(|(_, blocks)| blocks)
        .copied()
        .collect();
    for router in &cluster.routers {
        let indexed = || router.part().metric("kvasir_router_index_blocks") as usize;
        while indexed() != all.len() {
            let late = quiet.elapsed() > SETTLED_WITHIN;
            assert!(!late, "{} blocks instead of {}", indexed(), all.len());
            std::thread::yield_now();
        }
    }
    for (number, ask) in asks().iter().step_by(7).enumerate() {
        let router = &cluster.routers[number % cluster.routers.len()];
        // An earlier check may just have stored or evicted blocks.
        let asked = Instant::now();
        loop {
            let truth = held(cluster, ask);
            let known = planned(router.address, ask);
            let same = known
                .iter()
                .all(|(id, tokens)| truth.get(id) == Some(tokens));
            if same && known.len() == truth.len() {
                break;
            }
            let late = asked.elapsed() > SETTLED_WITHIN;
            assert!(!late, "{ask:?}: known {known:?}, true {truth:?}");
        }
    }
}

/// Tokens at the start of a prompt whose blocks each worker holds.
fn held(cluster: &Cluster, ask: &Ask) -> BTreeMap<String, u64> {
    let truth = contents(cluster);
    let held = truth.into_iter().map(|(id, (fingerprint, blocks))| {
        let scope = HashScope::new(&fingerprint, "", BLOCK_SIZE);
        let prompt = scope.full_blocks(&ask.prompt(), BLOCK_SIZE);
        let prefix = prompt
            .iter()
            .take_while(|hash| blocks.contains(&hash.short()));
        (id, (prefix.count() * BLOCK_SIZE) as u64)
    });
    held.collect()
}

/// The same as a router knew it when it planned the prompt.
fn planned(router: std::net::SocketAddr, ask: &Ask) -> BTreeMap<String, u64> {
    let body = json!({
        "model": "kvasir-demo", "prompt": ask.prompt(), "max_tokens": 1,
        "seed": ask.seed, "temperature": 1.0, "ignore_eos": true,
    });
    let explain = "x-kvasir-explain: 1\r\n";
    let (head, body) = post(router, "/v1/completions", explain, &body.to_string());
    assert!(head.starts_with("HTTP/1.1 200"), "{head} {body}");
    let explained = head
        .lines()
        .find_map(|line| line.strip_prefix("x-kvasir-explain: "))
        .expect("it was asked for");
    let explained: Value = serde_json::from_str(explained).expect("JSON");
    let considered = explained["considered"].as_array().expect("a list");
    let cached = considered.iter().map(|it| {
        let id = it["worker"].as_str().unwrap_or_default().to_owned();
        (id, it["cached_tokens"].as_u64().unwrap_or_default())
    });
    cached.collect()
}

/// By worker: its model's fingerprint, and all blocks that it says it holds when
/// asked directly.
fn contents(cluster: &Cluster) -> BTreeMap<String, (String, BTreeSet<u64>)> {
    let workers = cluster.workers.iter();
    let contents = workers.map(|worker| {
        let held = block_on(async {
            let endpoint = Endpoint::from_shared(format!("http://{}", worker.address));
            let channel = endpoint.expect("an address").connect().await;
            let mut client = WorkerClient::new(channel.expect("it answers"))
                .max_decoding_message_size(usize::MAX);
            let described = client.describe(pb::DescribeRequest {}).await;
            let described = described.expect("it answers").into_inner();
            let request = pb::SubscribeRequest::default();
            let events = client.subscribe(request).await.expect("it answers");
            (
                described.model_fingerprint,
                snapshot(events.into_inner()).await,
            )
        });
        (worker.id.clone(), held)
    });
    contents.collect()
}

async fn snapshot(mut events: tonic::Streaming<pb::WorkerEvent>) -> BTreeSet<u64> {
    let mut blocks = BTreeSet::new();
    loop {
        let event = events.message().await.expect("it goes on").expect("no end");
        let Some(Event::Snapshot(part)) = event.event else {
            panic!("a snapshot comes first");
        };
        blocks.extend(part.stored.iter().flat_map(|stored| &stored.hashes));
        if part.last {
            return blocks;
        }
    }
}
