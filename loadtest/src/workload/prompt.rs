//! Prompts of a known number of tokens.
//!
//! A prompt is described by segments; equal segments give equal tokens, and a
//! shorter segment of the same seed is a prefix of a longer one. So shared
//! prefixes and a trace's blocks are shared on the wire too.

mod encoded;
mod words;

use crate::planned::{ChatMessage, Prompt};

use super::error::WorkloadError;
use super::seed::Stream;
pub(super) use encoded::{EncodedWords, plain_ids};

/// A run of tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    pub seed: u64,
    pub tokens: u32,
}

/// What prompts are sent as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Conversations and messages as chat, else text with --tokenizer and
    /// tokens without it
    Auto,
    /// Messages, to /v1/chat/completions
    Chat,
    /// Text, to /v1/completions
    Text,
    /// Token ids, to /v1/completions
    Tokens,
}

/// Makes prompts.
pub struct PromptMaker {
    vocabulary: Vocabulary,
    is_chat: bool,
    made: u64,
    inexact: u64,
}

/// What a prompt is made of.
pub(super) enum Vocabulary {
    /// Token ids to draw from; not empty.
    Ids(Vec<u32>),
    Encoded(EncodedWords),
    /// Common words, of about one token each.
    Words,
}

impl PromptMaker {
    pub(super) fn new(vocabulary: Vocabulary, is_chat: bool) -> PromptMaker {
        PromptMaker {
            vocabulary,
            is_chat,
            made: 0,
            inexact: 0,
        }
    }

    /// A prompt of `shared`, if any, and `rest`, and its number of tokens if
    /// that is known. In a conversation `shared` is the system message.
    pub fn make(&mut self, shared: Option<Segment>, rest: &[Segment]) -> (Prompt, Option<u32>) {
        if self.is_chat {
            // The server's template adds tokens that cannot be known here.
            return (Prompt::Chat(self.messages(shared, rest)), None);
        }
        let segments: Vec<Segment> = shared.into_iter().chain(rest.iter().copied()).collect();
        match &self.vocabulary {
            Vocabulary::Ids(ids) => {
                let tokens = draw_ids(ids, &segments);
                let count = tokens.len() as u32;
                (Prompt::Tokens(tokens), Some(count))
            }
            _ => {
                let (text, tokens) = self.text(&segments, true);
                (Prompt::Text(text), tokens)
            }
        }
    }

    pub fn messages(&mut self, system: Option<Segment>, user: &[Segment]) -> Vec<ChatMessage> {
        let system = system.map(|it| self.message("system", &[it]));
        let user = self.message("user", user);
        system.into_iter().chain([user]).collect()
    }

    pub fn message(&mut self, role: &'static str, segments: &[Segment]) -> ChatMessage {
        let (content, _) = self.text(segments, false);
        ChatMessage { role, content }
    }

    pub fn is_chat(&self) -> bool {
        self.is_chat
    }

    /// Tokens of a text, if they can be known; special are those that the
    /// tokenizer adds to any text.
    pub fn count(&self, text: &str, with_special_tokens: bool) -> Option<u32> {
        match &self.vocabulary {
            Vocabulary::Encoded(words) => words.count(text, with_special_tokens),
            _ => None,
        }
    }

    pub fn caveats(&self) -> Vec<String> {
        let mut caveats = Vec::new();
        if matches!(self.vocabulary, Vocabulary::Words) && self.made > 0 {
            caveats.push(
                "prompt lengths are estimates (one word a token); --tokenizer makes them exact"
                    .to_owned(),
            );
        }
        if self.is_chat {
            caveats.push(
                "prompt lengths do not count what the server's chat template adds".to_owned(),
            );
        }
        if self.inexact > 0 {
            caveats.push(format!(
                "{} of {} texts do not have the exact number of tokens asked for",
                self.inexact, self.made
            ));
        }
        caveats
    }

    fn text(&mut self, segments: &[Segment], with_special_tokens: bool) -> (String, Option<u32>) {
        self.made += 1;
        match &self.vocabulary {
            Vocabulary::Encoded(words) => {
                let (text, tokens) = words.text(segments, with_special_tokens);
                let asked: u64 = segments.iter().map(|it| u64::from(it.tokens)).sum();
                self.inexact += u64::from(tokens.map(u64::from) != Some(asked));
                (text, tokens)
            }
            _ => (words::text(segments), None),
        }
    }
}

fn draw_ids(ids: &[u32], segments: &[Segment]) -> Vec<u32> {
    draw(ids.len(), segments).map(|at| ids[at]).collect()
}

/// For each token of the segments a number below `choices`, which is not 0.
fn draw(choices: usize, segments: &[Segment]) -> impl Iterator<Item = usize> {
    let end = u32::try_from(choices).unwrap_or(u32::MAX);
    segments.iter().flat_map(move |segment| {
        let mut stream = Stream::new(segment.seed);
        (0..segment.tokens).map(move |_| stream.below(end) as usize)
    })
}

/// A tokenizer.json, or the one in a folder.
pub(super) fn load_tokenizer(path: &str) -> Result<tokenizers::Tokenizer, WorkloadError> {
    let mut file = std::path::PathBuf::from(path);
    if file.is_dir() {
        file.push("tokenizer.json");
    }
    let bytes = std::fs::read(&file).map_err(|source| WorkloadError::Read {
        path: file.display().to_string(),
        source,
    })?;
    tokenizers::Tokenizer::from_bytes(bytes).map_err(|error| WorkloadError::Tokenizer {
        path: path.to_owned(),
        reason: format!("is no tokenizer.json of Hugging Face tokenizers: {error}"),
    })
}

#[cfg(test)]
mod tests;
