//! Text that a tokenizer encodes to an exact number of tokens.
//!
//! It is made of words that are one token each wherever they stand, then
//! encoded, and repaired at its end while the count is wrong.

use tokenizers::Tokenizer;

use super::super::seed::{Stream, Use, derive};
use super::{Segment, draw};

/// Words tried: the commonest come first in most vocabularies.
const CANDIDATES: usize = 2048;
/// With fewer words, texts would repeat themselves.
const FEWEST_WORDS: usize = 8;
const REPAIRS: usize = 16;

pub(in super::super) struct EncodedWords {
    tokenizer: Tokenizer,
    /// Of one token each.
    words: Vec<String>,
}

impl EncodedWords {
    pub fn new(tokenizer: Tokenizer) -> Result<EncodedWords, String> {
        let vocabulary = vocabulary(&tokenizer);
        let is_common =
            |word: &str| word.len() > 1 && word.bytes().all(|it| it.is_ascii_lowercase());
        let mut words = single_tokens(&tokenizer, &vocabulary, is_common);
        if words.len() < FEWEST_WORDS {
            words = single_tokens(&tokenizer, &vocabulary, |word| {
                !word.is_empty() && word.chars().all(char::is_alphanumeric)
            });
        }
        if words.len() < FEWEST_WORDS {
            return Err(format!(
                "only {} of its words stay one token in a text; send token ids \
                 (--prompt-format tokens)",
                words.len()
            ));
        }
        Ok(EncodedWords { tokenizer, words })
    }

    /// Tokens of `text`; special are those that the tokenizer adds to any.
    pub fn count(&self, text: &str, with_special_tokens: bool) -> Option<u32> {
        count(&self.tokenizer, text, with_special_tokens).and_then(|it| u32::try_from(it).ok())
    }

    /// A text of the segments' tokens, and how many it has. Special tokens take
    /// the place of words at its end.
    pub fn text(&self, segments: &[Segment], with_special_tokens: bool) -> (String, Option<u32>) {
        let count = |text: &str| count(&self.tokenizer, text, with_special_tokens);
        let mut words: Vec<usize> = draw(self.words.len(), segments).collect();
        let asked = words.len();
        words.truncate(asked.saturating_sub(count("").unwrap_or(0)).max(1));
        let tail = segments.last().map_or(0, |it| it.seed);
        let mut spare = Stream::new(derive(tail, Use::Repair, 0));
        for _ in 0..REPAIRS {
            let text = self.join(&words);
            match count(&text) {
                Some(tokens) if tokens > asked && words.len() > 1 => {
                    let excess = tokens - asked;
                    words.truncate(words.len().saturating_sub(excess).max(1));
                }
                Some(tokens) if tokens < asked => {
                    let end = self.words.len() as u32;
                    words.extend((tokens..asked).map(|_| spare.below(end) as usize));
                }
                tokens => return (text, tokens.and_then(|it| u32::try_from(it).ok())),
            }
        }
        let text = self.join(&words);
        let tokens = self.count(&text, with_special_tokens);
        (text, tokens)
    }

    fn join(&self, words: &[usize]) -> String {
        let words: Vec<&str> = words.iter().map(|at| self.words[*at].as_str()).collect();
        words.join(" ")
    }
}

/// Ids of the vocabulary that are no special tokens, in order.
pub(in super::super) fn plain_ids(tokenizer: &Tokenizer) -> Vec<u32> {
    let added = tokenizer.get_added_tokens_decoder();
    let mut ids: Vec<u32> = tokenizer.get_vocab(true).into_values().collect();
    ids.retain(|id| !added.contains_key(id));
    ids.sort_unstable();
    ids
}

fn vocabulary(tokenizer: &Tokenizer) -> Vec<String> {
    let text = |id| tokenizer.decode(&[id], true).ok();
    let words = plain_ids(tokenizer).into_iter().filter_map(text);
    words.map(|it| it.trim().to_owned()).collect()
}

fn single_tokens(
    tokenizer: &Tokenizer,
    vocabulary: &[String],
    is_candidate: impl Fn(&str) -> bool,
) -> Vec<String> {
    let candidates = vocabulary.iter().filter(|it| is_candidate(it));
    let mut words: Vec<String> = candidates
        .take(CANDIDATES)
        .filter(|word| is_single_token(tokenizer, word))
        .cloned()
        .collect();
    words.sort_unstable();
    words.dedup();
    words
}

/// Whether each further occurrence adds one token.
fn is_single_token(tokenizer: &Tokenizer, word: &str) -> bool {
    let once = count(tokenizer, word, false);
    let thrice = count(tokenizer, &format!("{word} {word} {word}"), false);
    once == Some(1) && thrice == Some(3)
}

fn count(tokenizer: &Tokenizer, text: &str, with_special_tokens: bool) -> Option<usize> {
    let encoding = tokenizer.encode_fast(text, with_special_tokens).ok()?;
    Some(encoding.get_ids().len())
}
