//! Requests to a router, and what they get.

use std::net::SocketAddr;

use kvcache_index::HashScope;
use serde_json::{Value, json};

use crate::parts::{Part, post, router_over};
use crate::worker::{BLOCK_SIZE, Options, Scripted};

/// A prompt of so many tokens.
pub fn prompt(tokens: u32) -> Vec<u32> {
    (0..tokens).map(|i| 10 + (i * 31) % 200).collect()
}

/// The blocks of `prompt(..)`, as workers announce them.
pub fn blocks(n: usize) -> Vec<u64> {
    let scope = HashScope::new(Options::default().fingerprint, "", BLOCK_SIZE as usize);
    let prompt = prompt(n as u32 * BLOCK_SIZE);
    let hashes = scope.full_blocks(&prompt, BLOCK_SIZE as usize);
    hashes.into_iter().map(|hash| hash.short()).collect()
}

/// A router that is connected to all of `workers`.
pub fn router_of(workers: &[&Scripted]) -> Part {
    let addresses: Vec<SocketAddr> = workers.iter().map(|worker| worker.address).collect();
    let router = router_over(&addresses);
    let wanted = workers.len() as f64;
    router.wait_for("kvasir_router_connected_workers", |n| n == wanted);
    router
}

/// An HTTP answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    head: String,
    pub body: Value,
}

impl Answer {
    /// Token ids of the one completion.
    pub fn tokens(&self) -> Vec<u32> {
        let ids = self.body["choices"][0]["token_ids"].as_array();
        let ids = ids.unwrap_or_else(|| panic!("no tokens in {self:?}"));
        ids.iter()
            .filter_map(|id| u32::try_from(id.as_u64()?).ok())
            .collect()
    }

    pub fn finish_reason(&self) -> &str {
        let reason = self.body["choices"][0]["finish_reason"].as_str();
        reason.unwrap_or_default()
    }

    /// Prompt and completion tokens.
    pub fn usage(&self) -> (u64, u64) {
        let count = |name: &str| self.body["usage"][name].as_u64().unwrap_or_default();
        (count("prompt_tokens"), count("completion_tokens"))
    }

    /// The `code` of an error.
    pub fn code(&self) -> &str {
        self.body["error"]["code"].as_str().unwrap_or_default()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines();
        lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    /// Prompt tokens that the plan knew to be cached on `worker`; `None`: the
    /// worker was not considered.
    pub fn planned_cached(&self, worker: &str) -> Option<u64> {
        let explained = self.header("x-kvasir-explain").expect("it was asked for");
        let explained: Value = serde_json::from_str(explained).expect("JSON");
        let considered = explained["considered"].as_array().expect("a list");
        let considered = considered.iter().find(|it| it["worker"] == worker)?;
        considered["cached_tokens"].as_u64()
    }

    /// Where the first plan put it.
    pub fn decode_worker(&self) -> &str {
        self.header("x-kvasir-decode-worker").unwrap_or_default()
    }
}

/// Completes `prompt` on the default model.
pub fn complete(router: &Part, prompt: &[u32], max_tokens: u32) -> Answer {
    complete_on(router, Options::default().model, prompt, max_tokens)
}

pub fn complete_on(router: &Part, model: &str, prompt: &[u32], max_tokens: u32) -> Answer {
    let body = json!({
        "model": model, "prompt": prompt, "max_tokens": max_tokens, "return_token_ids": true,
    });
    let explain = "x-kvasir-explain: 1\r\n";
    let (head, body) = post(
        router.address,
        "/v1/completions",
        explain,
        &body.to_string(),
    );
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    Answer {
        status: status.unwrap_or_else(|| panic!("no status in {head}")),
        body: serde_json::from_str(&body).unwrap_or_else(|_| panic!("no JSON: {head} {body}")),
        head,
    }
}
