//! Against real workers on a simulated device.

use clap::{Args, Command, FromArgMatches};
use runtime::Lifecycle;

use super::super::{Client, Encoder, Endpoint};
use super::*;
use crate::planned::{Output, PlannedRequest, Prompt};

async fn worker(life: &Lifecycle, more: &[&str]) -> String {
    let flags = [
        "worker",
        "--device=sim",
        "--listen=127.0.0.1:0",
        "--sim-speed=1000",
    ];
    let flags = flags.iter().chain(more);
    let command = ::worker::Config::augment_args(Command::new("worker"));
    let matches = command.get_matches_from(flags);
    let config = ::worker::Config::from_arg_matches(&matches).unwrap();
    let running = ::worker::start(config, life.child()).await.unwrap();
    format!("grpc://{}", running.address)
}

fn request(prompt: Prompt) -> PlannedRequest {
    PlannedRequest {
        number: 3,
        recorded_at: None,
        turn: None,
        prompt,
        prompt_tokens: None,
        output: Output {
            max_tokens: 5,
            exact: true,
        },
        tenant: None,
        priority: None,
    }
}

async fn send(target: &Target, prompt: Prompt) -> (Outcome, Answer) {
    let endpoint = Endpoint::resolve(target).await.unwrap();
    let client = Client::new(std::sync::Arc::new(endpoint));
    let mut answer = Answer::new(false);
    let encoded = Encoder::new(target).encode(&request(prompt));
    let outcome = client.send(&encoded, &mut answer).await;
    (outcome, answer)
}

#[tokio::test]
async fn tokens_go_to_a_worker_and_its_answer_is_counted_like_any_other() {
    let life = Lifecycle::new();
    let target = Target::new(&worker(&life, &[]).await, "kvasir-demo");
    let prompt: Vec<u32> = (300..340).collect();
    let before = Instant::now();
    let (outcome, answer) = send(&target, Prompt::Tokens(prompt.clone())).await;
    assert_eq!(outcome, Outcome::Complete);
    let tokens: u32 = answer.chunks.iter().map(|(_, tokens)| tokens).sum();
    assert_eq!(tokens, 5);
    let usage = answer.usage.unwrap();
    assert_eq!((usage.prompt_tokens, usage.completion_tokens), (40, 5));
    assert_eq!(usage.cached_tokens, Some(0));
    let times: Vec<Instant> = answer.chunks.iter().map(|(at, _)| *at).collect();
    assert!(times.is_sorted() && times[0] > before);
    assert!(answer.ended.unwrap() >= times[times.len() - 1]);
    let (_, again) = send(&target, Prompt::Tokens(prompt)).await;
    assert_eq!(again.usage.unwrap().cached_tokens, Some(32));
    life.stop();
}

#[tokio::test]
async fn what_a_worker_refuses_has_the_status_that_a_router_would_give() {
    let life = Lifecycle::new();
    let target = Target::new(&worker(&life, &[]).await, "kvasir-demo");
    let (outcome, _) = send(&target, Prompt::Text("no tokens".to_owned())).await;
    assert_eq!(outcome, Outcome::Status(400));
    life.stop();
}

#[tokio::test]
async fn a_worker_that_is_not_there_is_no_connection() {
    let target = Target::new("grpc://127.0.0.1:1", "kvasir-demo");
    let (outcome, _) = send(&target, Prompt::Tokens(vec![300])).await;
    assert_eq!(outcome, Outcome::Connect);
    let endpoint = Endpoint::resolve(&target).await.unwrap();
    let missing = endpoint.probe().await.unwrap_err();
    assert!(
        matches!(missing, TargetError::Unreachable { .. }),
        "{missing}"
    );
}

#[tokio::test]
async fn a_probe_knows_the_model() {
    let life = Lifecycle::new();
    let url = worker(&life, &[]).await;
    let probe = async |model| {
        let target = Target::new(&url, model);
        Endpoint::resolve(&target).await.unwrap().probe().await
    };
    assert_eq!(probe("kvasir-demo").await, Ok(()));
    let other = probe("another").await.unwrap_err();
    assert!(
        other.to_string().ends_with("it serves kvasir-demo"),
        "{other}"
    );
    life.stop();
}

#[tokio::test]
async fn several_workers_take_turns() {
    let life = Lifecycle::new();
    let first = worker(&life, &[]).await;
    let second = worker(&life, &[]).await;
    let second = second.trim_start_matches("grpc://");
    let target = Target::new(&format!("{first},{second}"), "kvasir-demo");
    let endpoint = Endpoint::resolve(&target).await.unwrap();
    endpoint.probe().await.unwrap();
    let client = Client::new(std::sync::Arc::new(endpoint));
    let prompt = Prompt::Tokens((300..340).collect());
    let encoded = Encoder::new(&target).encode(&request(prompt));
    let mut cached = Vec::new();
    for _ in 0..4 {
        let mut answer = Answer::new(false);
        assert_eq!(client.send(&encoded, &mut answer).await, Outcome::Complete);
        cached.push(answer.usage.unwrap().cached_tokens);
    }
    assert_eq!(cached, [Some(0), Some(0), Some(32), Some(32)]);
    life.stop();
}
