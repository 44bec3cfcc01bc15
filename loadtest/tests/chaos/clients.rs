//! Clients that ask all the time, and compare each answer with that of an
//! undisturbed cluster.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;

use proto::v1::inference_client::InferenceClient;
use tonic::transport::{Channel, Endpoint};

use crate::cluster::Cluster;
use crate::harness::{Ask, Client, Generated, block_on, reference};

const CLIENTS: u32 = 12;
/// Different requests; they come again and again, to find cached blocks.
const ASKS: u32 = 60;

/// Every request that clients make. Some begin with the same tokens.
pub fn asks() -> Vec<Ask> {
    let ask = |n: u32| Ask {
        seed: n % 20,
        prompt_tokens: 30 + (n * 53) % 400,
        max_tokens: 10 + (n * 7) % 50,
    };
    (0..ASKS).map(ask).collect()
}

/// Clients at work.
pub struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Vec<String>>>,
    answered: Arc<AtomicUsize>,
}

/// What they have seen.
pub struct Seen {
    answered: usize,
    complaints: Vec<String>,
}

/// A router as clients know it.
#[derive(Clone)]
struct Target {
    address: SocketAddr,
    changes: Arc<AtomicU64>,
}

impl Load {
    pub fn start(cluster: &Cluster) -> Load {
        let asks = asks();
        let expected = Arc::new(reference(&asks));
        let asks = Arc::new(asks);
        let stop = Arc::new(AtomicBool::new(false));
        let answered = Arc::new(AtomicUsize::new(0));
        let targets = cluster.routers.iter().map(|router| Target {
            address: router.address,
            changes: router.changes.clone(),
        });
        let targets: Vec<Target> = targets.collect();
        let clients = (0..CLIENTS).map(|number| {
            let (asks, expected) = (asks.clone(), expected.clone());
            let (stop, answered) = (stop.clone(), answered.clone());
            let target = targets[number as usize % targets.len()].clone();
            std::thread::spawn(move || {
                let mut complaints = Vec::new();
                let mut at = number as usize * 5;
                while !stop.load(Ordering::SeqCst) {
                    at = (at + 7) % asks.len();
                    let got = insist(&target, &asks[at]);
                    match check(&asks[at], got, &expected[at]) {
                        Ok(()) => _ = answered.fetch_add(1, Ordering::SeqCst),
                        Err(complaint) => complaints.push(complaint),
                    }
                }
                complaints
            })
        });
        Load {
            clients: clients.collect(),
            stop,
            answered,
        }
    }

    /// Lets every client finish its request.
    pub fn stop(self) -> Seen {
        self.stop.store(true, Ordering::SeqCst);
        let clients = self.clients.into_iter();
        let complaints = clients.flat_map(|client| client.join().expect("clients do not panic"));
        Seen {
            complaints: complaints.collect(),
            answered: self.answered.load(Ordering::SeqCst),
        }
    }
}

impl Seen {
    pub fn assert_undisturbed(&self) {
        println!("{} answers", self.answered);
        assert!(self.answered > 100, "only {} answers", self.answered);
        assert!(self.complaints.is_empty(), "{:#?}", self.complaints);
    }
}

/// Asks until the router answers. What breaks with the router itself is the
/// client's to try again; any other error is the answer.
fn insist(target: &Target, ask: &Ask) -> Result<Generated, tonic::Status> {
    loop {
        let before = target.changes.load(Ordering::SeqCst);
        let got = block_on(async {
            let mut client = Client::connect_to(target.address).await?;
            client.generate(ask, |_| {}).await
        });
        let after = target.changes.load(Ordering::SeqCst);
        let was_down = before != after || !before.is_multiple_of(2);
        if got.is_ok() || !was_down {
            return got;
        }
        std::thread::yield_now();
    }
}

fn check(
    ask: &Ask,
    got: Result<Generated, tonic::Status>,
    expected: &Generated,
) -> Result<(), String> {
    let got = got.map_err(|status| format!("{ask:?}: {status:?}"))?;
    if got.tokens != expected.tokens || got.finish_reason != expected.finish_reason {
        return Err(format!("{ask:?}: {got:?} instead of {expected:?}"));
    }
    let usage = (got.usage.prompt_tokens, got.usage.completion_tokens);
    if usage != (ask.prompt_tokens, ask.max_tokens) {
        return Err(format!("{ask:?}: counted as {usage:?}"));
    }
    Ok(())
}

/// Until the router at `address` serves a model.
pub async fn answers(address: SocketAddr) {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address");
    let channel: Channel = endpoint.connect_lazy();
    let mut client = InferenceClient::new(channel);
    loop {
        let models = client.list_models(proto::v1::ListModelsRequest {}).await;
        if models.is_ok_and(|models| !models.get_ref().models.is_empty()) {
            return;
        }
        tokio::task::yield_now().await;
    }
}
