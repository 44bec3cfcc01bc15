//! Structured output: what a request wants its text to obey, compiled against
//! the model's vocabulary.
//!
//! Grammars are compiled once, off the engine's thread, within limits of size
//! and time, and kept by content. One that is malformed, impossible or too
//! large is refused with the place of the mistake. What follows from a grammar,
//! token by token, is `llguidance`'s work; the engine asks for it through
//! [`engine::Constraint`].

mod follow;
mod grammar;
mod locate;
mod vocabulary;

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use engine::{Constraint, TokenMask};
use hashlink::LruCache;
use llguidance::ParserFactory;
use proto::ErrorCode;
use proto::worker as pb;
use tokio::sync::Semaphore;

use crate::failure::Failure;
use follow::{Compiled, Follow};
use grammar::Grammar;

/// Grammars that are kept. One takes as much memory as its states, some MB at
/// most (see [`vocabulary::LIMITS`]).
const KEPT: usize = 64;

/// Compiled at a time: mistakes must not take the CPUs from the engine.
const COMPILING: usize = 2;

/// Most are ready in some milliseconds. Routers wait longer before a stream's
/// status goes out.
const TIME_LIMIT: Duration = Duration::from_secs(5);

/// Compiles what requests of one model want obeyed. Clones share what they
/// have compiled.
#[derive(Clone)]
pub struct Structured {
    shared: Arc<Shared>,
}

struct Shared {
    tokenizer: Option<Bytes>,
    eos: Vec<u32>,
    /// Made with the first grammar: few processes ever need it.
    factory: OnceLock<Result<ParserFactory, String>>,
    compiled: Mutex<LruCache<Grammar, Arc<Compiled>>>,
    permits: Arc<Semaphore>,
}

impl Structured {
    /// For a model with these files, whose texts end with one of `eos`.
    pub fn new(files: &[(String, Bytes)], eos: &[u32]) -> Structured {
        let tokenizer = files.iter().find(|(name, _)| name == "tokenizer.json");
        Structured {
            shared: Arc::new(Shared {
                tokenizer: tokenizer.map(|(_, content)| content.clone()),
                eos: eos.to_vec(),
                factory: OnceLock::new(),
                compiled: Mutex::new(LruCache::new(KEPT)),
                permits: Arc::new(Semaphore::new(COMPILING)),
            }),
        }
    }

    /// `wanted` as the engine takes it, for a text that begins with `resumed`.
    pub async fn constraint(
        &self,
        wanted: pb::Constraint,
        resumed: Vec<u32>,
    ) -> Result<Arc<dyn Constraint>, Failure> {
        let grammar = Grammar::read(wanted)?;
        let permit = self.shared.permits.clone().acquire_owned().await;
        let permit =
            permit.map_err(|closed| Failure::new(ErrorCode::Internal, closed.to_string()))?;
        let shared = self.shared.clone();
        let work = tokio::task::spawn_blocking(move || {
            // Until the work has really ended, whoever still waits for it.
            let _permit = permit;
            shared.follow(&grammar, &resumed)
        });
        match tokio::time::timeout(TIME_LIMIT, work).await {
            Ok(Ok(followed)) => Ok(Arc::new(followed?)),
            Ok(Err(panicked)) => Err(Failure::new(ErrorCode::Internal, panicked.to_string())),
            Err(_) => Err(refused(format!(
                "it was not compiled within {TIME_LIMIT:?}; simplify it"
            ))),
        }
    }
}

impl Shared {
    fn follow(&self, grammar: &Grammar, resumed: &[u32]) -> Result<Follow, Failure> {
        let follow = Follow::new(self.compiled(grammar)?);
        let mut mask = TokenMask::none(follow.vocab_size());
        let may_end = follow
            .allow(resumed, &mut mask)
            .map_err(|violation| refused(violation.0))?;
        match may_end || !mask.is_empty() {
            true => Ok(follow),
            false => Err(refused(
                "no text of this model's tokens can match it; loosen it".to_owned(),
            )),
        }
    }

    fn compiled(&self, grammar: &Grammar) -> Result<Arc<Compiled>, Failure> {
        let kept = || self.compiled.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(compiled) = kept().get(grammar) {
            return Ok(compiled.clone());
        }
        let compiled = Arc::new(grammar.compile(self.factory()?)?);
        kept().insert(grammar.clone(), compiled.clone());
        Ok(compiled)
    }

    fn factory(&self) -> Result<&ParserFactory, Failure> {
        let factory = self.factory.get_or_init(|| match &self.tokenizer {
            Some(json) => vocabulary::factory(json, &self.eos),
            None => Err("it has no tokenizer.json".to_owned()),
        });
        factory.as_ref().map_err(|why| {
            let message = format!("this model can't follow constraints: {why}");
            Failure::new(ErrorCode::Unsupported, message)
        })
    }
}

fn refused(why: String) -> Failure {
    Failure::new(ErrorCode::InvalidConstraint, why)
}

#[cfg(test)]
mod tests;
