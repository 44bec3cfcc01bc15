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

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use engine::{Constraint, TokenMask};
use hashlink::LruCache;
use llguidance::ParserFactory;
use proto::ErrorCode;
use proto::worker as pb;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::failure::Failure;
use crate::metrics::GrammarMetrics;
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
    metrics: GrammarMetrics,
}

impl Structured {
    /// For a model with these files, whose texts end with one of `eos`.
    pub fn new(files: &[(String, Bytes)], eos: &[u32], metrics: GrammarMetrics) -> Structured {
        let tokenizer = files.iter().find(|(name, _)| name == "tokenizer.json");
        Structured {
            shared: Arc::new(Shared {
                tokenizer: tokenizer.map(|(_, content)| content.clone()),
                eos: eos.to_vec(),
                factory: OnceLock::new(),
                compiled: Mutex::new(LruCache::new(KEPT)),
                permits: Arc::new(Semaphore::new(COMPILING)),
                metrics,
            }),
        }
    }

    /// `wanted` as the engine takes it, for a text that begins with `resumed`.
    pub async fn constraint(
        &self,
        wanted: pb::Constraint,
        resumed: Vec<u32>,
    ) -> Result<Arc<dyn Constraint>, Failure> {
        let followed = self.follow(wanted, resumed).await;
        if matches!(&followed, Err(failure) if failure.code == ErrorCode::InvalidConstraint) {
            self.shared.metrics.count_refused();
        }
        Ok(Arc::new(followed?))
    }

    async fn follow(&self, wanted: pb::Constraint, resumed: Vec<u32>) -> Result<Follow, Failure> {
        let grammar = Grammar::read(wanted)?;
        // What is compiled already does not wait for what others want compiled.
        let permit = match self.shared.kept(&grammar) {
            Some(_) => None,
            None => Some(self.shared.permit().await?),
        };
        let shared = self.shared.clone();
        let work = tokio::task::spawn_blocking(move || {
            // Until the work has really ended, whoever still waits for it.
            let _permit = permit;
            begin(shared.compiled(&grammar)?, &resumed)
        });
        match tokio::time::timeout(TIME_LIMIT, work).await {
            Ok(Ok(followed)) => followed,
            Ok(Err(panicked)) => Err(Failure::new(ErrorCode::Internal, panicked.to_string())),
            Err(_) => Err(refused(format!(
                "it was not compiled within {TIME_LIMIT:?}; simplify it"
            ))),
        }
    }
}

/// The way through a grammar of a text that begins with `resumed`.
fn begin(compiled: Arc<Compiled>, resumed: &[u32]) -> Result<Follow, Failure> {
    let follow = Follow::new(compiled);
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

impl Shared {
    /// Others' grammars may take their whole time; another worker is then better
    /// than a wait without end.
    async fn permit(&self) -> Result<OwnedSemaphorePermit, Failure> {
        let permit = self.permits.clone().acquire_owned();
        match tokio::time::timeout(TIME_LIMIT, permit).await {
            Ok(permit) => {
                permit.map_err(|closed| Failure::new(ErrorCode::Internal, closed.to_string()))
            }
            Err(_) => Err(Failure::new(
                ErrorCode::WorkerBusy,
                "it compiles others' constraints; try again later".to_owned(),
            )),
        }
    }

    fn kept(&self, grammar: &Grammar) -> Option<Arc<Compiled>> {
        self.lock().get(grammar).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, LruCache<Grammar, Arc<Compiled>>> {
        self.compiled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn compiled(&self, grammar: &Grammar) -> Result<Arc<Compiled>, Failure> {
        if let Some(compiled) = self.kept(grammar) {
            self.metrics.count_kept();
            return Ok(compiled);
        }
        let factory = self.factory()?;
        let begun = Instant::now();
        let compiled = grammar.compile(factory);
        self.metrics
            .record_compile(begun.elapsed(), compiled.is_ok());
        let compiled = Arc::new(compiled?);
        self.lock().insert(grammar.clone(), compiled.clone());
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
