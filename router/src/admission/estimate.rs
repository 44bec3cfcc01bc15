//! What a request will cost, before it is tokenised, and what it cost: the
//! currency of fairness.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use futures::StreamExt;
use tokio::time::Instant;

use super::Gate;
use crate::sequence::{Event, Events, Sequence};
use crate::tokenize::{MaxTokens, Prompt, Request};

/// A generated token counts as so many prompt tokens, as in the paper on
/// virtual token counters and in most price lists.
const GENERATED: u64 = 2;
const BYTES_PER_TOKEN: usize = 4;
/// Of a completion, while none has been seen.
const FIRST_GUESS: f64 = 128.0;
/// Weight of the newest completion in the mean.
const NEWEST: f64 = 0.02;

/// The mean length of completions, learned from those that ended.
#[derive(Debug)]
pub(super) struct MeanCompletion(f64);

impl Default for MeanCompletion {
    fn default() -> MeanCompletion {
        MeanCompletion(FIRST_GUESS)
    }
}

impl MeanCompletion {
    pub(super) fn learn(&mut self, spent: &Spent) {
        if spent.sequences > 0 && spent.generated > 0 {
            let each = spent.generated as f64 / spent.sequences as f64;
            self.0 += NEWEST * (each - self.0);
        }
    }

    /// What `request` will cost.
    pub(super) fn cost(&self, request: &Request) -> u64 {
        let options = &request.options;
        let (MaxTokens::Exactly(most) | MaxTokens::UpTo(most)) = options.max_tokens;
        let expected = request.hints.output_tokens.unwrap_or(self.0 as usize);
        let each = expected.max(options.min_tokens).min(most);
        let completions = request.prompts.len().saturating_mul(options.n);
        let prompt: usize = request.prompts.iter().map(prompt_tokens).sum();
        cost(prompt as u64, each.saturating_mul(completions) as u64)
    }
}

fn prompt_tokens(prompt: &Prompt) -> usize {
    let bytes = match prompt {
        Prompt::Tokens(tokens) => return tokens.len(),
        Prompt::Text(text) => text.len(),
        Prompt::Chat(chat) => {
            let contents = chat.messages.iter().map(|message| message.content.len());
            contents.sum()
        }
    };
    bytes.div_ceil(BYTES_PER_TOKEN)
}

fn cost(prompt: u64, generated: u64) -> u64 {
    prompt.saturating_add(generated.saturating_mul(GENERATED))
}

/// What a request has come to so far; shared by its permit and its streams.
#[derive(Clone, Debug, Default)]
pub struct Usage(Arc<Counters>);

#[derive(Debug, Default)]
struct Counters {
    prompt: AtomicU64,
    generated: AtomicU64,
    sequences: AtomicU64,
    /// Who wants to know when the first token came, and since when it is awaited.
    turn: Option<(Weak<Gate>, Instant)>,
}

/// What a request came to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Spent {
    prompt: u64,
    generated: u64,
    sequences: u64,
}

impl Spent {
    pub(super) fn cost(&self) -> u64 {
        cost(self.prompt, self.generated)
    }
}

impl Usage {
    /// Of a request that has its turn now.
    pub(super) fn of_turn(gate: &Arc<Gate>) -> Usage {
        Usage(Arc::new(Counters {
            turn: Some((Arc::downgrade(gate), Instant::now())),
            ..Counters::default()
        }))
    }

    /// The prompts are known. Completions of one prompt share it.
    pub fn tokenized(&self, sequences: &[Sequence]) {
        let mut prompts: Vec<_> = sequences.iter().map(|sequence| &sequence.prompt).collect();
        prompts.dedup_by(|a, b| Arc::ptr_eq(a, b));
        let tokens: usize = prompts.iter().map(|prompt| prompt.len()).sum();
        self.0.prompt.store(tokens as u64, Ordering::Relaxed);
        let sequences = sequences.len() as u64;
        self.0.sequences.store(sequences, Ordering::Relaxed);
    }

    /// `runs`, counted as they are read.
    pub fn meter(&self, runs: Vec<Events>) -> Vec<Events> {
        let meter = |run: Events| {
            let usage = self.clone();
            let counted = run.inspect(move |event| {
                if let Ok(Event::Tokens(tokens)) = event {
                    usage.generated(tokens.len() as u64);
                }
            });
            counted.boxed()
        };
        runs.into_iter().map(meter).collect()
    }

    fn generated(&self, tokens: u64) {
        let before = self.0.generated.fetch_add(tokens, Ordering::Relaxed);
        if before == 0
            && let Some((gate, began)) = &self.0.turn
            && let Some(gate) = gate.upgrade()
        {
            gate.lock().lead.learn(began.elapsed());
        }
    }

    pub(super) fn spent(&self) -> Spent {
        Spent {
            prompt: self.0.prompt.load(Ordering::Relaxed),
            generated: self.0.generated.load(Ordering::Relaxed),
            sequences: self.0.sequences.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sequence::FinishReason;
    use crate::tokenize::{Options, fixture};

    fn request(max_tokens: MaxTokens, n: usize) -> Request {
        Request {
            model: "tiny".to_owned(),
            prompts: vec![Prompt::Tokens(Arc::from([5; 10]))],
            options: Options {
                max_tokens,
                n,
                ..Options::default()
            },
            hints: Default::default(),
        }
    }

    #[test]
    fn completions_are_expected_as_long_as_seen_but_never_beyond_their_limit() {
        let mut mean = MeanCompletion::default();
        let open = request(MaxTokens::UpTo(usize::MAX), 1);
        assert_eq!(mean.cost(&open), 10 + 2 * 128);
        assert_eq!(mean.cost(&request(MaxTokens::Exactly(8), 3)), 10 + 2 * 24);
        for _ in 0..1000 {
            mean.learn(&Spent {
                prompt: 10,
                generated: 60,
                sequences: 2,
            });
        }
        assert_eq!(mean.cost(&open), 10 + 2 * 30);
        let mut told = open;
        told.hints.output_tokens = Some(500);
        assert_eq!(mean.cost(&told), 10 + 2 * 500);
    }

    #[test]
    fn text_counts_by_its_length() {
        let mut text = request(MaxTokens::Exactly(1), 1);
        text.prompts = vec![Prompt::Text("x".repeat(401).into())];
        assert_eq!(MeanCompletion::default().cost(&text), 101 + 2);
    }

    #[tokio::test]
    async fn usage_counts_shared_prompts_once_and_every_token_read() {
        let request = request(MaxTokens::Exactly(4), 2);
        let sequences = fixture::sequences(&fixture::byte_level(), &request).await;
        let usage = Usage::default();
        usage.tokenized(&sequences);
        let run = || {
            let events = vec![
                fixture::started(0),
                fixture::tokens(&[7, 8]),
                fixture::finished(FinishReason::Length),
            ];
            fixture::events(events)
        };
        let mut runs = usage.meter(vec![run(), run()]);
        assert_eq!(usage.spent().cost(), 10);
        for run in &mut runs {
            while !matches!(run.next().await, Some(Ok(Event::Finished(_)))) {}
        }
        assert_eq!(usage.spent().cost(), 10 + 2 * 4);
    }
}
