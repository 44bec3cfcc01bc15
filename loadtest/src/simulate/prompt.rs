//! A planned request as a worker's engine takes it: token ids.
//!
//! Chats are tokenised by words. A word of the simulated answers stands for its
//! token, so that the next turn of a conversation finds the KV of the answer to
//! the one before.

use crate::planned::Prompt;

/// Ids below are kept for what a chat template adds.
const FIRST_WORD: u32 = 1000;
const WORDS: u32 = 100_000;

/// The tokens of a prompt.
pub(super) fn tokens(prompt: &Prompt) -> Vec<u32> {
    match prompt {
        Prompt::Tokens(tokens) => tokens.clone(),
        Prompt::Text(text) => text.split_whitespace().map(word).collect(),
        Prompt::Chat(messages) => {
            let mut tokens = Vec::new();
            for message in messages {
                // Begin of message, role, separator; after it its end.
                tokens.extend([1, role(message.role), 2]);
                tokens.extend(message.content.split_whitespace().map(word));
                tokens.push(3);
            }
            tokens.extend([1, role("assistant"), 2]);
            tokens
        }
    }
}

/// The text of a simulated answer.
pub(super) fn answer(tokens: &[u32]) -> String {
    let words: Vec<String> = tokens.iter().map(|it| format!("#{it}")).collect();
    words.join(" ")
}

fn word(word: &str) -> u32 {
    let number = word.strip_prefix('#').and_then(|it| it.parse().ok());
    number.unwrap_or_else(|| FIRST_WORD + fnv(word) % WORDS)
}

fn role(role: &str) -> u32 {
    10 + fnv(role) % 100
}

/// FNV-1a.
fn fnv(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::planned::ChatMessage;

    #[test]
    fn the_next_turn_begins_with_the_turn_before_and_its_answer() {
        let message = |role, content: &str| ChatMessage {
            role,
            content: content.to_owned(),
        };
        let first = [message("user", "how are you")];
        let said = [5, 120_000];
        let then = [
            first[0].clone(),
            message("assistant", &answer(&said)),
            message("user", "good"),
        ];
        let before = [tokens(&Prompt::Chat(first.to_vec())), said.to_vec()].concat();
        let after = tokens(&Prompt::Chat(then.to_vec()));
        assert_eq!(after[..before.len()], before);
    }
}
