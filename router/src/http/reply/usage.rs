//! Usage of one request over all its sequences.

use crate::openai::UsageObject;
use crate::sequence::Sequence;
use crate::tokenize::End;

/// Counts as choices end. A prompt counts once, however often it is completed.
pub(super) struct Tally {
    /// Completions of each prompt.
    n: usize,
    prompt_tokens: usize,
    completion_tokens: usize,
    /// Of each prompt, once a completion of it has ended.
    cached_tokens: Vec<Option<usize>>,
}

impl Tally {
    pub(super) fn new(sequences: &[Sequence], n: usize) -> Tally {
        let prompts = sequences.iter().step_by(n);
        Tally {
            n,
            prompt_tokens: prompts.clone().map(|sequence| sequence.prompt.len()).sum(),
            completion_tokens: 0,
            cached_tokens: vec![None; prompts.count()],
        }
    }

    /// Completions of one prompt reuse what the first of them computed; the
    /// prompt's own reuse is that of the completion which found the least.
    pub(super) fn add(&mut self, choice: usize, end: &End) {
        self.completion_tokens += end.generated;
        if let Some(cached) = &mut self.cached_tokens.get_mut(choice / self.n) {
            let least = cached.map_or(end.cached_tokens, |known| known.min(end.cached_tokens));
            **cached = Some(least);
        }
    }

    pub(super) fn usage(&self) -> UsageObject {
        let known = self.cached_tokens.iter().flatten();
        let cached = known.copied().reduce(|sum, cached| sum + cached);
        UsageObject::new(self.prompt_tokens, self.completion_tokens, cached)
    }
}
