//! What long prompts cost the router: text of 100,000 tokens, new each time, and
//! a conversation that grows.

use anyhow::Result;

use super::Plan;
use super::load::{self, http};
use crate::bar::Bar;
use crate::part::Part;
use crate::text::{Text, write_prompts};

const PROMPTS: usize = 20;
/// A prompt of this size has about the tokens asked for; what it costs is held
/// against the tokens that it has.
const TOKENS: f64 = 100_000.0;
/// To find out how many bytes a token takes.
const SAMPLE_BYTES: usize = 50_000;

const TURNS: usize = 20;
const CONVERSATIONS: usize = 20;

/// Prompts take the worker no time that counts.
pub(super) const WORKER: [&str; 5] = [
    "--sim-speed=1000",
    "--sim-prefill-tokens-per-second=1e7",
    "--max-batch-tokens=1000000",
    "--max-model-len=1000000",
    "--kv-blocks=200000",
];

pub fn run(plan: &Plan) -> Result<Vec<Bar>> {
    let worker = plan.binary.worker(&plan.model, &WORKER)?;
    let router = plan.router.router(&[worker.address()?], &[])?;
    let bench = Bench {
        plan,
        model: worker.model()?,
        router,
    };
    let bytes_per_token = bench.bytes_per_token()?;
    let mut bars = Vec::new();
    for (seed, format) in [(2, "text"), (3, "chat")] {
        bars.push(bench.long(seed, format, (TOKENS * bytes_per_token) as usize)?);
    }
    bars.push(bench.conversation(bytes_per_token)?);
    Ok(bars)
}

struct Bench<'a> {
    plan: &'a Plan,
    model: String,
    router: Part,
}

/// What some requests took the router.
struct Cost {
    cpu: f64,
    requests: f64,
    tokens: f64,
}

impl Bench<'_> {
    fn send(&self, file: &str, format: &str) -> Result<Cost> {
        let url = http(self.router.address()?);
        let flags = [
            "--prompts",
            file,
            "--prompt-format",
            format,
            "--concurrency=1",
        ];
        let before = self.router.cpu()?;
        let flags = [&flags[..], &["--output-tokens=1", "--requests=1000000"]].concat();
        let found = load::run(self.plan, &url, &self.model, &flags)?;
        Ok(Cost {
            cpu: self.router.cpu()? - before,
            requests: found.answered,
            tokens: found.input_tokens,
        })
    }

    /// Also warms up what is made once.
    fn bytes_per_token(&self) -> Result<f64> {
        let file = self.plan.file("sample.jsonl");
        write_prompts(&file, 1, PROMPTS, SAMPLE_BYTES)?;
        let cost = self.send(&file, "text")?;
        Ok((PROMPTS * SAMPLE_BYTES) as f64 / cost.tokens)
    }

    fn long(&self, seed: u64, format: &str, bytes: usize) -> Result<Bar> {
        let file = self.plan.file("long.jsonl");
        write_prompts(&file, seed, PROMPTS, bytes)?;
        let cost = self.send(&file, format)?;
        std::fs::remove_file(&file)?;
        let tokens = cost.tokens / cost.requests;
        Ok(Bar {
            what: format!("a prompt of 100,000 tokens as {format}"),
            measured: cost.cpu / cost.requests * TOKENS / tokens,
            at_most: 0.1,
            unit: "core s",
            note: format!(
                "{} requests of {tokens:.0} tokens in {:.0} KB, {}",
                cost.requests,
                bytes as f64 / 1e3,
                self.model
            ),
        })
    }

    /// Each turn of a conversation sends all before it again: ten times what is
    /// new, on average. Held against the cost of what is new, sent alone.
    fn conversation(&self, bytes_per_token: f64) -> Result<Bar> {
        let bytes = (50_000.0 * bytes_per_token) as usize / TURNS;
        let file = self.plan.file("conversation.jsonl");
        write_conversations(&file, 4, bytes)?;
        let grown = self.send(&file, "chat")?;
        write_prompts(&file, 5, CONVERSATIONS * TURNS, bytes)?;
        let new = self.send(&file, "chat")?;
        std::fs::remove_file(&file)?;
        Ok(Bar {
            what: format!("a conversation of {TURNS} turns to 50,000 tokens"),
            measured: grown.cpu / new.cpu,
            at_most: 2.5,
            unit: "times what is new",
            note: format!(
                "{:.1} ms a turn of {:.0} tokens on average, {:.1} ms for the {:.0} new ones alone",
                grown.cpu * 1e3 / grown.requests,
                grown.tokens / grown.requests,
                new.cpu * 1e3 / new.requests,
                new.tokens / new.requests,
            ),
        })
    }
}

/// Whole conversations, a request for each turn: what a client sends.
fn write_conversations(path: &str, seed: u64, bytes: usize) -> Result<()> {
    use std::io::Write;
    let mut text = Text::new(seed);
    let mut file = std::io::BufWriter::new(std::fs::File::create(path)?);
    for _ in 0..CONVERSATIONS {
        let mut messages = Vec::new();
        for turn in 0..TURNS {
            if turn > 0 {
                let answer = text.take(bytes / 10);
                messages.push(serde_json::json!({"role": "assistant", "content": answer}));
            }
            let question = text.take(bytes - bytes / 10);
            messages.push(serde_json::json!({"role": "user", "content": question}));
            writeln!(file, "{}", serde_json::json!({"messages": messages}))?;
        }
    }
    Ok(file.flush()?)
}
