//! Clients of a cluster, what they ask and what they get.

use std::net::SocketAddr;

use proto::v1;
use proto::v1::inference_client::InferenceClient;
use tonic::transport::{Channel, Endpoint};

pub use crate::parts::*;

/// What one generation gave a client.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Generated {
    pub tokens: Vec<u32>,
    pub finish_reason: String,
    pub usage: v1::Usage,
}

/// One request: a prompt of its own, told by `seed`.
#[derive(Clone, Copy, Debug)]
pub struct Ask {
    pub seed: u32,
    pub prompt_tokens: u32,
    pub max_tokens: u32,
}

impl Ask {
    pub fn prompt(&self) -> Vec<u32> {
        let token = |i: u32| 10 + (self.seed.wrapping_mul(7919) ^ i.wrapping_mul(31)) % 200;
        (0..self.prompt_tokens).map(token).collect()
    }

    fn request(&self, model: String) -> v1::GenerateRequest {
        v1::GenerateRequest {
            model,
            prompt: Some(v1::generate_request::Prompt::TokenIds(v1::TokenIds {
                ids: self.prompt(),
            })),
            max_tokens: Some(self.max_tokens),
            sampling: Some(v1::Sampling {
                temperature: Some(1.0),
                seed: Some(u64::from(self.seed)),
                ignore_eos: true,
                ..v1::Sampling::default()
            }),
            ..v1::GenerateRequest::default()
        }
    }
}

/// A client of the public gRPC API.
#[derive(Clone)]
pub struct Client(InferenceClient<Channel>);

impl Client {
    pub async fn connect(router: &Part) -> Client {
        let client = Client::connect_to(router.address).await;
        client.expect("router answers")
    }

    pub async fn connect_to(router: SocketAddr) -> Result<Client, tonic::Status> {
        let endpoint = Endpoint::from_shared(format!("http://{router}")).expect("an address");
        let channel = endpoint.connect().await;
        let channel = channel.map_err(|error| tonic::Status::unavailable(error.to_string()))?;
        Ok(Client(InferenceClient::new(channel)))
    }

    /// Runs one request to its end. `on_token` sees the number of tokens so far
    /// each time it grows.
    pub async fn generate(
        &mut self,
        ask: &Ask,
        mut on_token: impl FnMut(usize),
    ) -> Result<Generated, tonic::Status> {
        let mut stream = self.start(ask).await?;
        let mut generated = Generated::default();
        while let Some(part) = stream.message().await? {
            generated.tokens.extend(part.token_ids);
            if !part.finish_reason.is_empty() {
                generated.finish_reason = part.finish_reason;
            }
            if let Some(usage) = part.usage {
                generated.usage = usage;
            }
            on_token(generated.tokens.len());
        }
        Ok(generated)
    }

    /// Starts a request and leaves its stream to the caller.
    pub async fn start(
        &mut self,
        ask: &Ask,
    ) -> Result<tonic::Streaming<v1::GenerateResponse>, tonic::Status> {
        let models = self.0.list_models(v1::ListModelsRequest {}).await?;
        let model = models
            .into_inner()
            .models
            .first()
            .map(|model| model.id.clone());
        let request = ask.request(model.unwrap_or_else(|| "kvasir-demo".to_owned()));
        Ok(self.0.generate(request).await?.into_inner())
    }
}

/// What `ask` gives on one undisturbed worker.
pub fn reference(asks: &[Ask]) -> Vec<Generated> {
    let worker = sim_worker("reference", "both", FAST);
    let router = router(&[&worker]);
    run(&router, asks)
}

/// Runs all requests at the same time.
pub fn run(router: &Part, asks: &[Ask]) -> Vec<Generated> {
    block_on(async {
        let client = Client::connect(router).await;
        let runs = asks.iter().map(|ask| {
            let mut client = client.clone();
            async move { client.generate(ask, |_| {}).await.expect("generates") }
        });
        futures::future::join_all(runs).await
    })
}

pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    new_runtime().block_on(future)
}

/// Nothing is left over: all blocks free, no sequence, permit or booking.
pub fn assert_idle(router: &Part, workers: &[&Part]) {
    router.wait_for("kvasir_router_bookings", |n| n == 0.0);
    router.wait_for("kvasir_router_permits", |n| n == 0.0);
    for worker in workers {
        let total = worker.metric("kvasir_kv_blocks_total");
        assert!(total > 0.0);
        worker.wait_for("kvasir_kv_blocks_free", |free| free == total);
    }
}
