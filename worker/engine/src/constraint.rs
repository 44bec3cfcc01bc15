//! What a sequence's tokens must obey.
//!
//! A [`Constraint`] is a function of the tokens generated so far: the engine
//! keeps no state of it, so preemption, hand-over and resumption on another
//! worker change nothing. It speaks of a text's content alone; where it says
//! that the text may end, the engine adds the tokens that end it.

use std::fmt;

use crate::request::SamplingParams;

const WORD_BITS: usize = 32;

/// Which tokens may come next.
pub trait Constraint: fmt::Debug + Send + Sync {
    /// Allows, in `mask`, which allows none yet, the tokens that may follow
    /// `generated`, and says whether the text may end there. Asked for one
    /// sequence in order mostly; equal `generated` give equal answers.
    fn allow(&self, generated: &[u32], mask: &mut TokenMask) -> Result<bool, Violation>;
}

/// `generated` does not obey the constraint, or what follows is too much work
/// to find.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Violation(pub String);

/// A set of tokens; one bit each, the lowest token in the lowest bit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenMask {
    words: Vec<u32>,
    vocab_size: usize,
}

impl TokenMask {
    /// Allows no token below `vocab_size`.
    pub fn none(vocab_size: usize) -> TokenMask {
        TokenMask {
            words: vec![0; vocab_size.div_ceil(WORD_BITS)],
            vocab_size,
        }
    }

    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// Allows no token below `vocab_size`; keeps its memory.
    pub fn clear(&mut self, vocab_size: usize) {
        self.vocab_size = vocab_size;
        self.words.clear();
        self.words.resize(vocab_size.div_ceil(WORD_BITS), 0);
    }

    pub fn allow(&mut self, token: u32) {
        if (token as usize) < self.vocab_size {
            self.words[token as usize / WORD_BITS] |= 1 << (token as usize % WORD_BITS);
        }
    }

    /// Allows the tokens of `words`, laid out as here; more than the vocabulary
    /// don't count.
    pub fn allow_words(&mut self, words: &[u32]) {
        for (mine, more) in self.words.iter_mut().zip(words) {
            *mine |= more;
        }
        let last = self.vocab_size % WORD_BITS;
        if let Some(word) = self.words.last_mut().filter(|_| last > 0) {
            *word &= (1 << last) - 1;
        }
    }

    pub fn ban(&mut self, token: u32) {
        if let Some(word) = self.words.get_mut(token as usize / WORD_BITS) {
            *word &= !(1 << (token as usize % WORD_BITS));
        }
    }

    pub fn allows(&self, token: u32) -> bool {
        let word = self.words.get(token as usize / WORD_BITS);
        word.is_some_and(|word| word & (1 << (token as usize % WORD_BITS)) != 0)
    }

    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }

    /// Makes all other tokens impossible. `logits` is `[vocab_size]`; a token
    /// that is allowed stays possible whatever its logit.
    pub fn apply(&self, logits: &mut [f32]) {
        let parts = logits.chunks_mut(WORD_BITS);
        let words = self.words.iter().copied().chain(std::iter::repeat(0));
        for (part, mut word) in parts.zip(words) {
            if word == 0 {
                part.fill(f32::NEG_INFINITY);
                continue;
            }
            for logit in part {
                *logit = match word & 1 {
                    0 => f32::NEG_INFINITY,
                    _ => logit.max(LEAST),
                };
                word >>= 1;
            }
        }
    }
}

/// Lower than any model's logit, and far enough from infinity for penalties.
const LEAST: f32 = -1e30;

/// The tokens that `constraint` lets follow `generated`: content, and where the
/// text may end `eos` and the request's own stop tokens.
pub fn constrain(
    constraint: &dyn Constraint,
    generated: &[u32],
    ends: &Ends<'_>,
    mask: &mut TokenMask,
) -> Result<(), Violation> {
    let may_end = constraint.allow(generated, mask)?;
    for &token in ends.eos.iter().chain(&ends.sampling.stop_token_ids) {
        match may_end {
            true => mask.allow(token),
            false => mask.ban(token),
        }
    }
    match mask.is_empty() {
        true => Err(Violation(
            "no token of this model can follow what was generated; loosen the constraint"
                .to_owned(),
        )),
        false => Ok(()),
    }
}

/// The tokens that end a sequence.
#[derive(Clone, Copy, Debug)]
pub struct Ends<'a> {
    /// Of the model.
    pub eos: &'a [u32],
    pub sampling: &'a SamplingParams,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{Counting, greedy};

    fn mask(tokens: &[u32]) -> TokenMask {
        let mut mask = TokenMask::none(70);
        for token in tokens {
            mask.allow(*token);
        }
        mask
    }

    fn constrained(generated: &[u32], stop: &[u32]) -> Result<TokenMask, Violation> {
        let sampling = crate::SamplingParams {
            stop_token_ids: stop.to_vec(),
            ..greedy(9)
        };
        let ends = Ends {
            eos: &[60],
            sampling: &sampling,
        };
        let mut mask = TokenMask::none(70);
        constrain(&Counting { from: 5, count: 3 }, generated, &ends, &mut mask)?;
        Ok(mask)
    }

    #[test]
    fn words_of_another_kind_of_vocabulary_are_cut_to_this_one() {
        let mut cut = TokenMask::none(34);
        cut.allow_words(&[0, u32::MAX, u32::MAX]);
        let mut expected = TokenMask::none(34);
        expected.allow(32);
        expected.allow(33);
        expected.allow(34);
        assert_eq!(cut, expected);
        assert!(!cut.allows(34) && !cut.allows(4000));
    }

    #[test]
    fn only_allowed_tokens_stay_possible_and_those_always_do() {
        let mut logits = vec![1.0; 70];
        logits[3] = f32::NEG_INFINITY;
        mask(&[3, 69]).apply(&mut logits);
        let possible: Vec<usize> = (0..70).filter(|it| logits[*it].is_finite()).collect();
        assert_eq!(possible, [3, 69]);
        assert_eq!(logits[69], 1.0);
    }

    #[test]
    fn a_text_ends_only_where_the_constraint_lets_it() {
        assert_eq!(constrained(&[], &[61]), Ok(mask(&[5])));
        assert_eq!(constrained(&[5, 6], &[61]), Ok(mask(&[7])));
        assert_eq!(constrained(&[5, 6, 7], &[61]), Ok(mask(&[60, 61])));
    }

    #[test]
    fn a_stop_token_within_the_content_leaves_no_way_on() {
        let refused = constrained(&[5], &[6]).unwrap_err();
        assert!(refused.0.contains("no token"), "{refused}");
    }
}
