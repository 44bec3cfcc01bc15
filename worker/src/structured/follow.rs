//! A compiled grammar, and the way of one text through it.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use engine::{Constraint, TokenMask, Violation};
use llguidance::Matcher;
use toktrie::SimpleVob;

/// A grammar at its beginning.
pub(super) struct Compiled {
    matcher: Mutex<Matcher>,
    vocab_size: usize,
}

impl Compiled {
    pub(super) fn new(matcher: Matcher, vocab_size: usize) -> Compiled {
        Compiled {
            matcher: Mutex::new(matcher),
            vocab_size,
        }
    }

    /// What one text learns of the grammar others of it know too.
    fn begin(&self) -> Progress {
        let matcher = self.matcher.lock().unwrap_or_else(PoisonError::into_inner);
        Progress {
            matcher: matcher.clone(),
            consumed: Vec::new(),
            next: None,
        }
    }
}

/// A text's way through a grammar. It remembers how far the last question was,
/// and begins anew if the next one is not of what follows.
pub(super) struct Follow {
    compiled: Arc<Compiled>,
    progress: Mutex<Progress>,
}

struct Progress {
    matcher: Matcher,
    consumed: Vec<u32>,
    /// The answer after `consumed`, once it is known.
    next: Option<Next>,
}

struct Next {
    tokens: SimpleVob,
    may_end: bool,
}

impl Follow {
    pub(super) fn new(compiled: Arc<Compiled>) -> Follow {
        Follow {
            progress: Mutex::new(compiled.begin()),
            compiled,
        }
    }

    /// Of the tokenizer.
    pub(super) fn vocab_size(&self) -> usize {
        self.compiled.vocab_size
    }
}

impl Constraint for Follow {
    fn allow(&self, generated: &[u32], mask: &mut TokenMask) -> Result<bool, Violation> {
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        if !generated.starts_with(&progress.consumed) {
            *progress = self.compiled.begin();
        }
        let next = progress.after(generated)?;
        mask.allow_words(next.tokens.as_slice());
        Ok(next.may_end)
    }
}

impl Progress {
    /// `generated` begins with what is consumed.
    fn after(&mut self, generated: &[u32]) -> Result<&Next, Violation> {
        let fresh = &generated[self.consumed.len()..];
        if !fresh.is_empty() {
            self.next = None;
            self.matcher.consume_tokens(fresh).map_err(violation)?;
            self.consumed.extend_from_slice(fresh);
        }
        let next = match self.next.take() {
            Some(next) => next,
            None => self.compute()?,
        };
        Ok(self.next.insert(next))
    }

    fn compute(&mut self) -> Result<Next, Violation> {
        if self.matcher.is_stopped() && self.matcher.stop_reason().is_ok() {
            return Ok(Next {
                tokens: SimpleVob::new(),
                may_end: true,
            });
        }
        let tokens = self.matcher.compute_mask().map_err(violation)?;
        let may_end = self.matcher.is_accepting().map_err(violation)?;
        Ok(Next { tokens, may_end })
    }
}

fn violation(error: impl fmt::Display) -> Violation {
    let why = super::grammar::plain(&error.to_string());
    Violation(format!("the constraint can't be followed: {why}"))
}

impl fmt::Debug for Follow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Follow").finish_non_exhaustive()
    }
}
