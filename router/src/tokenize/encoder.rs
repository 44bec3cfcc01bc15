//! Text to tokens. A rendered conversation is cut before special tokens, where
//! encoding the parts gives the tokens of the whole, and parts encoded before
//! come from the cache.

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};

use rustc_hash::FxHashSet;
use tokenizers::{AddedToken, Tokenizer};

use super::cache::{Key, PieceCache};
use super::fast::Fast;

/// Shorter pieces are joined: looking them up would cost as much as encoding.
const MIN_PIECE_BYTES: usize = 128;

/// One model's encoder.
pub(super) struct Encoder {
    tokenizer: Arc<Tokenizer>,
    /// Set once it is known whether the tokenizer has one.
    fast: OnceLock<Option<Fast>>,
    cuts: Cuts,
    /// Keys the cache, which all models share.
    key: [u8; 32],
}

impl Encoder {
    pub(super) fn new(tokenizer: Arc<Tokenizer>, tokenizer_json: &[u8]) -> Encoder {
        let added = tokenizer.get_added_tokens_decoder();
        Encoder {
            cuts: Cuts::new(&added.into_values().collect::<Vec<_>>()),
            key: *blake3::hash(tokenizer_json).as_bytes(),
            fast: OnceLock::new(),
            tokenizer,
        }
    }

    /// From here on it encodes the fast way, if the tokenizer has one.
    pub(super) fn speed_up(&self, tokenizer_json: &[u8]) {
        let fast = || Fast::of(tokenizer_json, &self.tokenizer);
        self.fast.get_or_init(fast);
    }

    /// The tokens of a rendered conversation, whose text has all special tokens
    /// in it.
    pub(super) fn encode_rendered(
        &self,
        text: &str,
        cache: &PieceCache,
    ) -> Result<Vec<u32>, String> {
        let mut tokens = Vec::with_capacity(text.len() / 4);
        for piece in self.cuts.pieces(text) {
            tokens.extend_from_slice(&self.encode_piece(piece, false, cache)?);
        }
        Ok(tokens)
    }

    /// The tokens of plain text, with those that the tokenizer adds to any
    /// text.
    pub(super) fn encode_text(&self, text: &str, cache: &PieceCache) -> Result<Arc<[u32]>, String> {
        self.encode_piece(text, true, cache)
    }

    fn encode_piece(
        &self,
        piece: &str,
        add_special_tokens: bool,
        cache: &PieceCache,
    ) -> Result<Arc<[u32]>, String> {
        let key = self.piece_key(piece, add_special_tokens);
        if let Some(tokens) = cache.get(&key) {
            return Ok(tokens);
        }
        let tokens = self.tokens(piece, add_special_tokens)?;
        cache.insert(key, Arc::clone(&tokens));
        Ok(tokens)
    }

    fn tokens(&self, text: &str, add_special_tokens: bool) -> Result<Arc<[u32]>, String> {
        let fast = self.fast.get().and_then(Option::as_ref);
        if let Some(tokens) = fast.and_then(|fast| fast.encode(text, add_special_tokens)) {
            return Ok(tokens.into());
        }
        let encoding = self.tokenizer.encode_fast(text, add_special_tokens);
        let encoding = encoding.map_err(|error| error.to_string())?;
        Ok(Arc::from(encoding.get_ids()))
    }

    fn piece_key(&self, piece: &str, add_special_tokens: bool) -> Key {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        hasher.update(&[u8::from(add_special_tokens)]);
        hasher.update(piece.as_bytes());
        let mut key = Key::default();
        let length = key.len();
        key.copy_from_slice(&hasher.finalize().as_bytes()[..length]);
        key
    }
}

/// Where text may be cut. The tokenizer first splits text at added tokens,
/// leftmost and longest first, and encodes what lies between for itself. So a
/// cut before an added token changes nothing, provided that
/// - it is matched in the text as given, not as normalised;
/// - no added token can begin before the cut and reach over it;
/// - no added token at the cut looks at, or takes, the text before it;
/// - no added token before the cut looks beyond it (at a word, at spaces).
#[derive(Debug, Default)]
struct Cuts {
    contents: FxHashSet<String>,
    /// Of `contents`, in bytes.
    lengths: BTreeSet<usize>,
    first_chars: Vec<char>,
}

impl Cuts {
    fn new(added: &[AddedToken]) -> Cuts {
        let mut cuts = Cuts::default();
        for token in added
            .iter()
            .filter(|token| token.special && is_safe(token, added))
        {
            cuts.lengths.insert(token.content.len());
            cuts.contents.insert(token.content.clone());
            cuts.first_chars.extend(token.content.chars().next());
        }
        cuts.first_chars.sort_unstable();
        cuts.first_chars.dedup();
        cuts
    }

    /// Cuts `text` into pieces, each but the last of a minimal length.
    fn pieces<'a>(&self, text: &'a str) -> Vec<&'a str> {
        let mut pieces = Vec::new();
        let mut start = 0;
        while let Some(end) = self.next_cut(text, start + MIN_PIECE_BYTES) {
            pieces.push(&text[start..end]);
            start = end;
        }
        if start < text.len() {
            pieces.push(&text[start..]);
        }
        pieces
    }

    /// The first cut at or after byte `from`.
    fn next_cut(&self, text: &str, from: usize) -> Option<usize> {
        if self.contents.is_empty() || from >= text.len() {
            return None;
        }
        let mut at = text.ceil_char_boundary(from);
        loop {
            at += match self.first_chars.as_slice() {
                [first] => text[at..].find(*first)?,
                several => text[at..].find(several)?,
            };
            let rest = &text[at..];
            let mut lengths = self.lengths.iter();
            if lengths.any(|&length| {
                rest.get(..length)
                    .is_some_and(|word| self.contents.contains(word))
            }) {
                return Some(at);
            }
            at += rest.chars().next().map_or(1, char::len_utf8);
        }
    }
}

fn is_safe(token: &AddedToken, added: &[AddedToken]) -> bool {
    let Some(first) = token.content.chars().next() else {
        return false;
    };
    let plain = |char: char| !char.is_alphanumeric() && !char.is_whitespace() && char != '_';
    let undisturbed = |other: &AddedToken| {
        let reaches_over = other.content.chars().skip(1).any(|char| char == first);
        let looks_back = other.content.starts_with(first) && (other.lstrip || other.single_word);
        !reaches_over && !looks_back
    };
    !token.normalized
        && plain(first)
        && added
            .iter()
            .filter(|other| !other.normalized)
            .all(undisturbed)
}

#[cfg(test)]
mod tests;
