//! Workers over real sockets, with a simulated device that checks its KV.

mod engine_failure;
mod generate;
mod handover;
mod host_tier;
mod kv_dtype;
mod limits;
mod loading;
mod shutdown;
mod subscribe;

use std::time::Duration;

use bytes::Bytes;
use engine::sim::{KvCheck, StepCost};
use engine::{Runner, SimConfig, SimRunner};
use proto::worker as pb;
use proto::worker::worker_client::WorkerClient;
use proto::{ErrorCode, code_of};
use runtime::Lifecycle;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

use crate::config::Config;
use crate::model::LoadedModel;
use crate::start::{Running, serve};

/// Long enough for a busy machine; no test waits for it when all is well.
const PATIENCE: Duration = Duration::from_secs(30);

/// How a test's worker differs from the others.
struct Setup {
    config: Config,
    sim: SimConfig,
}

impl Default for Setup {
    fn default() -> Setup {
        let sim = SimConfig {
            vocab_size: 1000,
            max_model_len: 8192,
            total_blocks: 600,
            eos_token_ids: vec![1],
            cost: StepCost::FREE,
            check: KvCheck::Every,
            ..SimConfig::default()
        };
        let config = Config {
            listen: "127.0.0.1:0".into(),
            ..Config::default()
        };
        Setup { config, sim }
    }
}

impl Setup {
    /// Every step takes `step`.
    fn slow(step: Duration) -> Setup {
        let mut setup = Setup::default();
        setup.sim.cost.base = step;
        setup
    }

    async fn start(self) -> TestWorker {
        let runner = Box::new(SimRunner::new(self.sim));
        start(self.config, runner).await
    }
}

/// A worker on a port of its own, and a connection to it.
struct TestWorker {
    running: Running,
    lifecycle: Lifecycle,
    client: WorkerClient<Channel>,
}

async fn start(config: Config, runner: Box<dyn Runner>) -> TestWorker {
    let lifecycle = Lifecycle::new();
    let running = start_in(config, runner, lifecycle.clone()).await;
    let client = connect(&running).await;
    TestWorker {
        running,
        lifecycle,
        client,
    }
}

async fn start_in(config: Config, runner: Box<dyn Runner>, lifecycle: Lifecycle) -> Running {
    let listener = runtime::bind(&config.listen).await.unwrap();
    let load = async { Ok(model(runner)) };
    serve(config, listener, load, lifecycle).await.unwrap()
}

fn model(runner: Box<dyn Runner>) -> LoadedModel {
    LoadedModel {
        runner,
        name: "sim".into(),
        fingerprint: "sim-1".into(),
        files: vec![("tokenizer.json".into(), Bytes::from_static(b"{}"))],
    }
}

async fn connect(running: &Running) -> WorkerClient<Channel> {
    let endpoint = Channel::from_shared(format!("http://{}", running.address)).unwrap();
    WorkerClient::new(endpoint.connect().await.unwrap())
}

impl TestWorker {
    async fn generate(&self, prompt: pb::Prompt) -> Result<Streaming<pb::GenerateEvent>, Status> {
        self.generate_from(prompt, None).await
    }

    async fn generate_from(
        &self,
        prompt: pb::Prompt,
        kv: Option<pb::KvTicket>,
    ) -> Result<Streaming<pb::GenerateEvent>, Status> {
        let request = pb::GenerateRequest {
            prompt: Some(prompt),
            kv,
        };
        let answer = self.client.clone().generate(request).await?;
        Ok(answer.into_inner())
    }

    async fn prefill(&self, prompt: pb::Prompt) -> Result<Streaming<pb::PrefillEvent>, Status> {
        let request = pb::PrefillRequest {
            prompt: Some(prompt),
        };
        Ok(self.client.clone().prefill(request).await?.into_inner())
    }

    /// Waits until no sequence holds a block.
    async fn all_blocks_free(&self) {
        all_blocks_free(&self.running).await;
    }
}

async fn all_blocks_free(running: &Running) {
    let free = running.status_when(|status| status.free_blocks == running.total_blocks);
    let free = tokio::time::timeout(PATIENCE, free).await;
    assert!(
        free.is_ok(),
        "blocks are still held: {:?}",
        running.status()
    );
}

fn prompt(tokens: impl IntoIterator<Item = u32>, max_tokens: u32) -> pb::Prompt {
    pb::Prompt {
        request_id: "r1".into(),
        token_ids: tokens.into_iter().collect(),
        resumed_tokens: 0,
        sampling: Some(pb::Sampling {
            temperature: 1.0,
            top_p: 1.0,
            repetition_penalty: 1.0,
            seed: 7,
            max_tokens,
            ..pb::Sampling::default()
        }),
        cache_salt: String::new(),
        constraint: None,
        pooling: pb::Pooling::None.into(),
        priority: 0,
    }
}

/// All that a Generate call said.
#[derive(Debug, Default)]
struct Generated {
    started: Option<pb::Started>,
    tokens: Vec<u32>,
    prompt_logprobs: usize,
    embedding: Vec<f32>,
    finished: pb::Finished,
}

async fn collect(mut events: Streaming<pb::GenerateEvent>) -> Result<Generated, Status> {
    use pb::generate_event::Event;
    let mut generated = Generated::default();
    while let Some(event) = next(&mut events).await? {
        match event.event.unwrap() {
            Event::Started(started) => generated.started = Some(started),
            Event::Tokens(tokens) => {
                assert_eq!(tokens.index as usize, generated.tokens.len());
                generated
                    .tokens
                    .extend(tokens.tokens.iter().map(|it| it.id));
            }
            Event::Embedding(embedding) => generated.embedding = embedding.values,
            Event::PromptLogprobs(logprobs) => generated.prompt_logprobs += logprobs.tokens.len(),
            Event::Finished(finished) => {
                generated.finished = finished;
                assert_eq!(next(&mut events).await?, None, "an event after the last");
                return Ok(generated);
            }
        }
    }
    panic!("the stream ended without Finished");
}

async fn next<T>(events: &mut Streaming<T>) -> Result<Option<T>, Status> {
    let event = tokio::time::timeout(PATIENCE, events.message()).await;
    event.expect("an event is due")
}

fn code<T>(result: Result<T, Status>) -> ErrorCode {
    match result {
        Ok(_) => panic!("the call should fail"),
        Err(status) => code_of(&status),
    }
}
