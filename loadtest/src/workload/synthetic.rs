//! Requests of drawn lengths: each alone, or turns of conversations that grow;
//! with prefixes that groups of them share. Without end.

use clap::Args;
use rand::Rng;
use rand_distr::{Distribution, Zipf};
use runtime::config::Check;
use rustc_hash::FxHashMap;

use super::distribution::{Length, Time};
use super::prompt::{PromptMaker, Segment};
use super::seed::{Use, derive, rng};
use crate::planned::{ChatMessage, Output, PlannedRequest, Prompt, Turn, Workload};

#[derive(Clone, Debug, Args)]
#[group(skip)]
#[command(next_help_heading = "Lengths and sharing")]
pub struct SyntheticConfig {
    /// Tokens of a prompt, or of a conversation's first message, that no other
    /// shares: 512, uniform:100..900, normal:mean=512,sd=64,
    /// lognormal:mean=512,sigma=0.8, exponential:mean=512 or zipf:max=4096,s=1.1,
    /// with limits as in lognormal:mean=512,sigma=0.8@4096 or ...,min=16,max=4096
    #[arg(long, value_name = "LENGTH", default_value = "512")]
    pub input_tokens: Length,

    /// Tokens of an answer, written as --input-tokens
    #[arg(long, value_name = "LENGTH", default_value = "128")]
    pub output_tokens: Length,

    /// Groups of requests that share a prefix, such as a system prompt; 0: none
    /// is shared
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub prefix_groups: u32,

    /// Tokens that the requests of a group share, before --input-tokens
    #[arg(long, value_name = "TOKENS", default_value_t = 1024)]
    pub prefix_tokens: u32,

    /// Zipf exponent of the groups' popularity; 0: all alike
    #[arg(long, value_name = "S", default_value_t = 0.0)]
    pub prefix_skew: f64,

    /// Turns of a conversation, written as --input-tokens; each turn sends what
    /// was said before, with the real answers
    #[arg(long, value_name = "LENGTH", default_value = "1")]
    pub turns: Length,

    /// Tokens of the user's message in turns after the first
    #[arg(long, value_name = "LENGTH", default_value = "64")]
    pub message_tokens: Length,

    /// Time between an answer and the next turn: 2s, uniform:1s..5s,
    /// exponential:mean=5s@60s, ...
    #[arg(long, value_name = "TIME", default_value = "0s")]
    pub think_time: Time,
}

/// Draws requests.
pub struct Synthetic {
    config: SyntheticConfig,
    groups: Option<Zipf<f64>>,
    maker: PromptMaker,
    exact: bool,
    seed: u64,
    requests: u64,
    conversations: u64,
    /// Those whose next turn may come.
    open: FxHashMap<u64, Conversation>,
}

/// What was said, up to the message whose answer is awaited.
struct Conversation {
    messages: Vec<ChatMessage>,
    turns: u32,
}

impl SyntheticConfig {
    /// Whether some conversation has a second turn.
    pub fn is_conversation(&self) -> bool {
        self.turns.fixed() != Some(1)
    }
}

impl Synthetic {
    pub fn new(config: &SyntheticConfig, maker: PromptMaker, exact: bool, seed: u64) -> Synthetic {
        // Checked by `Check`; without groups nothing is shared.
        let groups = Zipf::new(f64::from(config.prefix_groups), config.prefix_skew).ok();
        Synthetic {
            config: config.clone(),
            groups: groups.filter(|_| config.prefix_tokens > 0),
            maker,
            exact,
            seed,
            requests: 0,
            conversations: 0,
            open: FxHashMap::default(),
        }
    }

    /// The prefix of one of the groups.
    fn prefix(&self, rng: &mut impl Rng) -> Option<Segment> {
        let group = self.groups?.sample(rng) as u64;
        Some(Segment {
            seed: derive(self.seed, Use::Prefix, group),
            tokens: self.config.prefix_tokens,
        })
    }

    /// Tokens that only this turn has.
    fn own(&self, conversation: u64, turn: u32, tokens: u32) -> Segment {
        let seed = derive(self.seed, Use::Rest, conversation);
        Segment {
            seed: derive(seed, Use::Rest, u64::from(turn)),
            tokens,
        }
    }

    fn request(&mut self, prompt: (Prompt, Option<u32>), max_tokens: u32) -> PlannedRequest {
        let number = self.requests;
        self.requests += 1;
        PlannedRequest {
            number,
            recorded_at: None,
            turn: None,
            prompt: prompt.0,
            prompt_tokens: prompt.1,
            output: Output {
                max_tokens,
                exact: self.exact,
            },
            tenant: None,
            priority: None,
        }
    }
}

impl Workload for Synthetic {
    fn next(&mut self) -> Option<PlannedRequest> {
        let conversation = self.conversations;
        self.conversations += 1;
        let mut rng = rng(self.seed, Use::Shape, conversation);
        let prefix = self.prefix(&mut rng);
        let input = self.config.input_tokens.draw(&mut rng);
        let output = self.config.output_tokens.draw(&mut rng);
        let own = self.own(conversation, 0, input);
        let made = self.maker.make(prefix, &[own]);
        if !self.config.is_conversation() {
            return Some(self.request(made, output));
        }
        let turns = self.config.turns.draw(&mut rng);
        if let (Prompt::Chat(messages), true) = (&made.0, turns > 1) {
            let messages = messages.clone();
            self.open
                .insert(conversation, Conversation { messages, turns });
        }
        Some(PlannedRequest {
            turn: Some(Turn {
                conversation,
                number: 0,
                think: std::time::Duration::ZERO,
            }),
            ..self.request(made, output)
        })
    }

    fn next_turn(&mut self, after: Turn, answer: &str) -> Option<PlannedRequest> {
        let number = after.number + 1;
        let mut conversation = self.open.remove(&after.conversation)?;
        if number >= conversation.turns {
            return None;
        }
        let seed = derive(self.seed, Use::Shape, after.conversation);
        let mut rng = rng(seed, Use::Shape, u64::from(number));
        let tokens = self.config.message_tokens.draw(&mut rng);
        let output = self.config.output_tokens.draw(&mut rng);
        let think = self.config.think_time.draw(&mut rng);
        let own = self.own(after.conversation, number, tokens);
        conversation.messages.push(ChatMessage {
            role: "assistant",
            content: answer.to_owned(),
        });
        conversation
            .messages
            .push(self.maker.message("user", &[own]));
        let prompt = Prompt::Chat(conversation.messages.clone());
        if number + 1 < conversation.turns {
            self.open.insert(after.conversation, conversation);
        }
        Some(PlannedRequest {
            turn: Some(Turn {
                number,
                think,
                ..after
            }),
            ..self.request((prompt, None), output)
        })
    }

    fn len_hint(&self) -> Option<u64> {
        None
    }

    fn abandon(&mut self, conversation: u64) {
        self.open.remove(&conversation);
    }

    fn caveats(&self) -> Vec<String> {
        self.maker.caveats()
    }
}

impl Check for SyntheticConfig {
    fn check(&self, mistakes: &mut Vec<String>) {
        if !(self.prefix_skew.is_finite() && self.prefix_skew >= 0.0) {
            mistakes.push("--prefix-skew must be at least 0".to_owned());
        }
        if self.prefix_groups > 0 && self.prefix_tokens == 0 {
            mistakes.push("--prefix-groups needs --prefix-tokens above 0".to_owned());
        }
    }
}

#[cfg(test)]
mod tests;
