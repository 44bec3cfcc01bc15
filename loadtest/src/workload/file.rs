//! Prompts from a file: JSON lines, or conversations as ShareGPT has them.

mod lines;
mod sharegpt;

use std::time::Duration;

use clap::Args;
use rustc_hash::FxHashMap;

use super::distribution::{Length, Time};
use super::error::WorkloadError;
use super::prompt::PromptMaker;
use super::seed::{Use, derive, rng};
use crate::planned::{ChatMessage, Output, PlannedRequest, Prompt, Turn, Workload};

#[derive(Clone, Debug, Args)]
#[group(skip)]
#[command(next_help_heading = "Prompt file")]
pub struct FileConfig {
    /// Send the prompts of a file, in order: JSON lines with prompt, input or
    /// messages, and perhaps max_tokens, tenant and priority; or a JSON list of
    /// ShareGPT conversations, of which --turns are sent
    #[arg(long, value_name = "FILE")]
    pub prompts: Option<String>,

    /// Begin again at the end of the file
    #[arg(long)]
    pub repeat_prompts: bool,
}

/// One request or conversation of a file.
#[derive(Clone, Debug, PartialEq)]
struct Entry {
    prompt: Prompt,
    max_tokens: Option<u32>,
    tenant: Option<std::sync::Arc<str>>,
    priority: Option<i32>,
    /// What the user says in later turns, with the recorded answer to it.
    later: Vec<Exchange>,
    /// The recorded answer to the prompt.
    answer: Option<String>,
}

#[derive(Clone, Debug, PartialEq)]
struct Exchange {
    message: String,
    answer: Option<String>,
}

/// Lengths that a file does not tell.
pub(super) struct Defaults {
    pub output_tokens: Length,
    pub turns: Length,
    pub think_time: Time,
    pub exact: bool,
    pub is_repeated: bool,
    pub seed: u64,
}

/// Sends the prompts of a file.
pub(super) struct FilePrompts {
    entries: Vec<Entry>,
    defaults: Defaults,
    maker: PromptMaker,
    /// ShareGPT conversations without a message of the user.
    left_out: u64,
    requests: u64,
    conversations: u64,
    /// Messages of those whose next turn may come, and how many turns they have.
    open: FxHashMap<u64, (Vec<ChatMessage>, u32)>,
}

impl FilePrompts {
    pub fn read(
        path: &str,
        maker: PromptMaker,
        defaults: Defaults,
    ) -> Result<FilePrompts, WorkloadError> {
        let (entries, left_out) = if sharegpt::is_list(path)? {
            sharegpt::read(path)?
        } else {
            (lines::read(path, maker.is_chat())?, 0)
        };
        if entries.is_empty() {
            return Err(WorkloadError::Empty {
                path: path.to_owned(),
                hint: "; expected are JSON lines with prompt, input or messages",
            });
        }
        Ok(FilePrompts {
            entries,
            defaults,
            maker,
            left_out,
            requests: 0,
            conversations: 0,
            open: FxHashMap::default(),
        })
    }

    fn entry(&self, conversation: u64) -> &Entry {
        &self.entries[(conversation % self.entries.len() as u64) as usize]
    }

    /// As the entry says, else as many tokens as the recorded answer has, else
    /// drawn.
    fn max_tokens(&self, asked: Option<u32>, answer: Option<&str>, number: u64) -> u32 {
        let counted = || {
            answer
                .and_then(|it| self.maker.count(it, false))
                .map(|it| it.max(1))
        };
        let drawn = || {
            let mut rng = rng(self.defaults.seed, Use::Shape, number);
            self.defaults.output_tokens.draw(&mut rng)
        };
        asked.or_else(counted).unwrap_or_else(drawn)
    }

    /// Turns of a conversation of which `recorded` are in the file.
    fn turns(&self, conversation: u64, recorded: usize) -> u32 {
        let mut rng = rng(self.defaults.seed, Use::Turns, conversation);
        let recorded = u32::try_from(recorded).unwrap_or(u32::MAX);
        self.defaults.turns.draw(&mut rng).min(recorded)
    }

    fn request(&mut self, conversation: u64, prompt: Prompt, max_tokens: u32) -> PlannedRequest {
        let prompt_tokens = match &prompt {
            Prompt::Tokens(tokens) => u32::try_from(tokens.len()).ok(),
            Prompt::Text(text) => self.maker.count(text, true),
            Prompt::Chat(_) => None,
        };
        let number = self.requests;
        self.requests += 1;
        let entry = self.entry(conversation);
        PlannedRequest {
            number,
            recorded_at: None,
            turn: None,
            prompt,
            prompt_tokens,
            output: Output {
                max_tokens,
                exact: self.defaults.exact,
            },
            tenant: entry.tenant.clone(),
            priority: entry.priority,
        }
    }
}

impl Workload for FilePrompts {
    fn next(&mut self) -> Option<PlannedRequest> {
        let conversation = self.conversations;
        if !self.defaults.is_repeated && conversation >= self.entries.len() as u64 {
            return None;
        }
        self.conversations += 1;
        let entry = self.entry(conversation).clone();
        let turns = self.turns(conversation, entry.later.len() + 1);
        let max_tokens = self.max_tokens(entry.max_tokens, entry.answer.as_deref(), conversation);
        let turn = (turns > 1).then_some(Turn {
            conversation,
            number: 0,
            think: Duration::ZERO,
        });
        if let (Prompt::Chat(messages), Some(_)) = (&entry.prompt, turn) {
            self.open.insert(conversation, (messages.clone(), turns));
        }
        Some(PlannedRequest {
            turn,
            ..self.request(conversation, entry.prompt, max_tokens)
        })
    }

    fn next_turn(&mut self, after: Turn, answer: &str) -> Option<PlannedRequest> {
        let number = after.number + 1;
        let (mut messages, turns) = self.open.remove(&after.conversation)?;
        let said = self
            .entry(after.conversation)
            .later
            .get(after.number as usize)?;
        let said = said.clone();
        let seed = derive(self.defaults.seed, Use::Shape, after.conversation);
        let mut rng = rng(seed, Use::Shape, u64::from(number));
        let think = self.defaults.think_time.draw(&mut rng);
        let max_tokens = self.max_tokens(None, said.answer.as_deref(), after.conversation);
        messages.push(ChatMessage {
            role: "assistant",
            content: answer.to_owned(),
        });
        messages.push(ChatMessage {
            role: "user",
            content: said.message,
        });
        if number + 1 < turns {
            self.open
                .insert(after.conversation, (messages.clone(), turns));
        }
        Some(PlannedRequest {
            turn: Some(Turn {
                number,
                think,
                ..after
            }),
            ..self.request(after.conversation, Prompt::Chat(messages), max_tokens)
        })
    }

    fn len_hint(&self) -> Option<u64> {
        if self.defaults.is_repeated {
            return None;
        }
        let entries = self.entries.iter().enumerate();
        let turns =
            entries.map(|(at, entry)| u64::from(self.turns(at as u64, entry.later.len() + 1)));
        Some(turns.sum())
    }

    fn abandon(&mut self, conversation: u64) {
        self.open.remove(&conversation);
    }

    fn caveats(&self) -> Vec<String> {
        let left_out = (self.left_out > 0).then(|| {
            format!(
                "{} conversations of the file left out: no message of a user",
                self.left_out
            )
        });
        left_out.into_iter().collect()
    }
}

#[cfg(test)]
mod tests;
