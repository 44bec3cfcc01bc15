//! What following a JSON Schema costs: the throughput of sequences that run side
//! by side, free and constrained in turns, on the demo model or another. The
//! demo model's steps take half a millisecond, so that what a constraint takes
//! is as much of them as it will ever be.
//!
//! `cargo run --release -p worker --example constrained -- [ROUNDS] [BATCH]
//! [MODEL]` prints each round's tokens per second and the medians; the cost is the
//! share of throughput that the constraint takes.

#![allow(clippy::print_stdout)]

use std::error::Error;
use std::time::Instant;

use proto::worker as pb;
use proto::worker::constraint::Grammar;
use proto::worker::generate_event::Event;
use proto::worker::worker_client::WorkerClient;
use runtime::Lifecycle;
use tonic::transport::{Channel, Endpoint};

const MAX_TOKENS: u32 = 512;

/// Never satisfied within so few tokens: both kinds generate equally many.
const SCHEMA: &str = r#"{
    "type": "array", "minItems": 10000, "items": {
        "type": "object", "required": ["name", "age", "tags"], "additionalProperties": false,
        "properties": {
            "name": {"type": "string", "maxLength": 30}, "age": {"type": "integer"},
            "tags": {"type": "array", "items": {"enum": ["red", "green", "blue"]}, "maxItems": 4}
        }
    }
}"#;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let mut number = || arguments.next().map(|it| it.parse::<usize>()).transpose();
    let rounds = number()?.unwrap_or(9);
    let batch = number()?.unwrap_or(8);
    let mut config = worker::Config {
        listen: "127.0.0.1:0".to_owned(),
        ..worker::Config::default()
    };
    if let Some(model) = arguments.next() {
        config.model = model.parse()?;
    }
    let lifecycle = Lifecycle::new();
    let running = worker::start(config, lifecycle.clone()).await?;
    let endpoint = Endpoint::from_shared(format!("http://{}", running.address))?;
    let client = WorkerClient::new(endpoint.connect().await?);
    // Compiles the schema, and shows the caches what they will see.
    for constrained in [false, true] {
        throughput(&client, batch, constrained).await?;
    }
    let mut free = Vec::new();
    let mut constrained = Vec::new();
    for round in 0..rounds {
        free.push(throughput(&client, batch, false).await?);
        constrained.push(throughput(&client, batch, true).await?);
        let (free, constrained) = (free[round], constrained[round]);
        println!("round {round}: free {free:.0} tokens/s, constrained {constrained:.0} tokens/s");
    }
    let (free, constrained) = (median(free), median(constrained));
    let cost = (1.0 - constrained / free) * 100.0;
    println!(
        "batch {batch}: free {free:.0} tokens/s, constrained {constrained:.0} tokens/s, cost {cost:.1} %"
    );
    lifecycle.begin_drain();
    Ok(())
}

/// Of `batch` sequences that begin together, in tokens per second.
async fn throughput(
    client: &WorkerClient<Channel>,
    batch: usize,
    constrained: bool,
) -> Result<f64, Box<dyn Error>> {
    let begun = Instant::now();
    let runs = (0..batch as u64).map(|seed| tokens(client.clone(), seed, constrained));
    let tokens: usize = futures::future::try_join_all(runs).await?.iter().sum();
    Ok(tokens as f64 / begun.elapsed().as_secs_f64())
}

async fn tokens(
    mut client: WorkerClient<Channel>,
    seed: u64,
    constrained: bool,
) -> Result<usize, Box<dyn Error>> {
    let sampling = pb::Sampling {
        temperature: 1.0,
        top_p: 1.0,
        repetition_penalty: 1.0,
        seed,
        ignore_eos: !constrained,
        max_tokens: MAX_TOKENS,
        ..pb::Sampling::default()
    };
    let grammar = Grammar::JsonSchema(SCHEMA.to_owned());
    let prompt = pb::Prompt {
        request_id: format!("r{seed}"),
        token_ids: (5..37).collect(),
        sampling: Some(sampling),
        constraint: constrained.then_some(pb::Constraint {
            grammar: Some(grammar),
        }),
        ..pb::Prompt::default()
    };
    let request = pb::GenerateRequest {
        prompt: Some(prompt),
        kv: None,
    };
    let mut events = client.generate(request).await?.into_inner();
    let mut count = 0;
    while let Some(event) = events.message().await? {
        if let Some(Event::Tokens(tokens)) = event.event {
            count += tokens.tokens.len();
        }
    }
    Ok(count)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}
