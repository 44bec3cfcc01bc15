//! What each token says, as bytes: built once for a model, so that decoding a
//! token is a table lookup.

use std::sync::Arc;

use serde::Deserialize;
use tokenizers::Tokenizer;

/// A model's tokens.
pub(super) struct Vocabulary {
    pub(super) tokenizer: Arc<Tokenizer>,
    pub(super) decoding: Decoding,
    /// All tokens' bytes, one after the other.
    bytes: Vec<u8>,
    /// Where each token's bytes end.
    ends: Vec<u32>,
    special: Vec<bool>,
}

/// How tokens join to a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decoding {
    /// A text is its tokens' bytes (GPT-2 and its many successors).
    Bytes,
    /// Likewise, but a text drops its leading space, and a malformed character
    /// shows as one U+FFFD for each byte (SentencePiece with byte fallback).
    SentencePiece { strip_space: bool },
    /// Only the tokenizer's own decoder knows.
    Other,
}

/// The part of tokenizer.json that says how to decode.
#[derive(Deserialize)]
struct File {
    decoder: Option<Decoder>,
}

#[derive(Deserialize)]
#[serde(tag = "type")]
enum Decoder {
    ByteLevel,
    Sequence {
        decoders: Vec<Decoder>,
    },
    Replace {
        pattern: Pattern,
        content: String,
    },
    ByteFallback,
    Fuse,
    Strip {
        content: char,
        start: usize,
        stop: usize,
    },
    #[serde(other)]
    Unknown,
}

#[derive(Deserialize)]
enum Pattern {
    String(String),
    Regex(serde::de::IgnoredAny),
}

impl Vocabulary {
    /// `vocab_size` may exceed the tokenizer's: such tokens say nothing.
    pub(super) fn new(
        tokenizer: Arc<Tokenizer>,
        tokenizer_json: &[u8],
        vocab_size: usize,
    ) -> Result<Vocabulary, String> {
        let file: File = serde_json::from_slice(tokenizer_json)
            .map_err(|error| format!("tokenizer.json: {error}"))?;
        let mut vocabulary = Vocabulary {
            decoding: decoding(file.decoder.as_ref()),
            bytes: Vec::new(),
            ends: Vec::with_capacity(vocab_size),
            special: Vec::with_capacity(vocab_size),
            tokenizer,
        };
        let byte_of = byte_of_char();
        for id in 0..vocab_size as u32 {
            let token = vocabulary.tokenizer.id_to_token(id).unwrap_or_default();
            vocabulary.append(id, &token, &byte_of)?;
        }
        Ok(vocabulary)
    }

    fn append(&mut self, id: u32, token: &str, byte_of: &[Option<u8>]) -> Result<(), String> {
        let added = self.tokenizer.get_added_vocabulary();
        self.special.push(added.is_special_token(token));
        match self.decoding {
            Decoding::Bytes => {
                let bytes: Option<Vec<u8>> = token
                    .chars()
                    .map(|char| byte_of.get(char as usize).copied().flatten())
                    .collect();
                self.bytes
                    .extend(bytes.unwrap_or_else(|| token.as_bytes().to_vec()));
            }
            Decoding::SentencePiece { .. } => match fallback_byte(token) {
                Some(byte) => self.bytes.push(byte),
                None => self.bytes.extend(token.replace('▁', " ").as_bytes()),
            },
            Decoding::Other => {
                let text = self
                    .tokenizer
                    .decode(&[id], false)
                    .map_err(|error| error.to_string())?;
                self.bytes.extend(text.as_bytes());
            }
        }
        let end = u32::try_from(self.bytes.len())
            .map_err(|_| "the vocabulary has more than 4 GiB of text".to_owned())?;
        self.ends.push(end);
        Ok(())
    }

    /// Token ids are below this.
    pub(super) fn len(&self) -> u32 {
        self.ends.len() as u32
    }

    /// What the token says, taken for itself; a part of a character perhaps.
    pub(super) fn bytes(&self, id: u32) -> &[u8] {
        let id = id as usize;
        let Some(&end) = self.ends.get(id) else {
            return &[];
        };
        let start = id.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.bytes[start as usize..end as usize]
    }

    /// Whether the token is left out of text that skips special tokens.
    pub(super) fn is_special(&self, id: u32) -> bool {
        self.special.get(id as usize).copied().unwrap_or(false)
    }
}

fn decoding(decoder: Option<&Decoder>) -> Decoding {
    match decoder {
        Some(Decoder::ByteLevel) => Decoding::Bytes,
        Some(Decoder::Sequence { decoders }) => match decoders.as_slice() {
            [Decoder::ByteLevel] => Decoding::Bytes,
            [
                Decoder::Replace {
                    pattern: Pattern::String(from),
                    content,
                },
                Decoder::ByteFallback,
                Decoder::Fuse,
                rest @ ..,
            ] if from == "▁" && content == " " => match rest {
                [] => Decoding::SentencePiece { strip_space: false },
                [
                    Decoder::Strip {
                        content: ' ',
                        start: 1,
                        stop: 0,
                    },
                ] => Decoding::SentencePiece { strip_space: true },
                _ => Decoding::Other,
            },
            _ => Decoding::Other,
        },
        _ => Decoding::Other,
    }
}

fn fallback_byte(token: &str) -> Option<u8> {
    let hex = token.strip_prefix("<0x")?.strip_suffix('>')?;
    (hex.len() == 2)
        .then(|| u8::from_str_radix(hex, 16).ok())
        .flatten()
}

/// GPT-2's alphabet, in which every byte is a printable character; indexed by
/// character.
fn byte_of_char() -> Vec<Option<u8>> {
    let mut byte_of = vec![None; 512];
    let mut next = 256;
    for byte in 0..=255u8 {
        let printable = matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
        let char = if printable { usize::from(byte) } else { next };
        next += usize::from(!printable);
        byte_of[char] = Some(byte);
    }
    byte_of
}
