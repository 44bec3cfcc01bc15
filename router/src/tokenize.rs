//! Between text and tokens: renders chat templates, encodes prompts on threads
//! of its own, and turns what is generated back into text. Prompts are encoded
//! once for the whole cluster; workers see only token ids.

mod cache;
mod choice;
mod detokenizer;
mod encoder;
mod fast;
mod longest;
mod model;
mod pool;
mod request;
mod stop;
mod template;
mod vocabulary;

use std::sync::Arc;
use std::time::SystemTime;

use proto::ErrorCode;
use serde::{Deserialize, Serialize};

pub use cache::CacheStats;
pub use choice::{Choice, End, Piece, PieceToken};
pub(crate) use detokenizer::Detokenizer;
pub use model::{Model, ModelCard};
pub use request::{
    Conversation, MAX_LOGPROBS, MaxTokens, Message, Options, Prompt, Request, TextOptions,
};

use crate::constraint::Constraint;
use crate::error::ApiError;
use crate::sequence::{Origin, Pooling, Sampling, Sequence};
use crate::tools::ToolFormat;
use cache::PieceCache;
use pool::Pool;

/// How much of the machine tokenisation may use.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Threads that render and encode; a long prompt keeps one busy for 0.2 to
    /// 1.5 ms per 1,000 tokens, by its tokenizer.
    pub threads: usize,
    /// Requests that may wait for a thread; further ones are turned away.
    pub queue: usize,
    /// Memory for tokens of text encoded before; about the size of the text of
    /// all conversations that are to be remembered.
    pub cache_bytes: usize,
    /// What embeddings are made of.
    pub pooling: Pooling,
    /// How models write tool calls; `None`: as their chat templates say.
    pub tool_format: Option<ToolFormat>,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            threads: std::thread::available_parallelism().map_or(2, |cores| cores.get()),
            queue: 1024,
            cache_bytes: 64 << 20,
            pooling: Pooling::Last,
            tool_format: None,
        }
    }
}

/// Renders and encodes prompts of all models.
#[derive(Clone, Debug)]
pub struct Tokenize {
    pool: Pool,
    cache: Arc<PieceCache>,
    tool_format: Option<ToolFormat>,
    pooling: Pooling,
}

impl Tokenize {
    /// Starts the threads.
    pub fn new(config: &Config) -> std::io::Result<Tokenize> {
        Ok(Tokenize {
            pool: Pool::new(config.threads, config.queue)?,
            cache: Arc::new(PieceCache::new(config.cache_bytes)),
            tool_format: config.tool_format,
            pooling: config.pooling,
        })
    }

    /// What `request` asks to generate, all defaults filled in: sequence
    /// `i * n + j` is completion `j` of prompt `i`.
    pub async fn sequences(
        &self,
        model: &Arc<Model>,
        request: &Request,
        origin: &Origin,
    ) -> Result<Vec<Sequence>, ApiError> {
        let prompts = self.encode(model, &request.prompts).await?;
        let options = &request.options;
        check_token_ids(model, options)?;
        let banned = self.encode_words(model, &options.bad_words).await?;
        let tool_format = self.tool_format.unwrap_or(model.tool_format());
        let constraint = constraint(model, options, tool_format);
        let seed = options.seed.unwrap_or_else(random_seed);
        let mut sequences = Vec::with_capacity(prompts.len() * options.n);
        for (prompt, given) in prompts.into_iter().zip(&request.prompts) {
            let max_tokens = max_tokens(model, options.max_tokens, prompt.len(), given.param())?;
            for completion in 0..options.n {
                let seed = seed_of(seed, completion as u64);
                sequences.push(Sequence {
                    request_id: Arc::clone(&origin.request_id),
                    objectives: Arc::clone(&origin.objectives),
                    choice: sequences.len(),
                    model: Arc::clone(model),
                    prompt: Arc::clone(&prompt),
                    sampling: Sampling {
                        banned: banned.clone(),
                        ..sampling(model, options, seed, max_tokens)
                    },
                    constraint: constraint.clone(),
                    pooling: options.embeds.then_some(self.pooling),
                    tool_format,
                    cache_salt: Arc::clone(&options.cache_salt),
                    session: origin.session,
                    is_explained: origin.is_explained,
                });
            }
        }
        Ok(sequences)
    }

    /// How well the cache does.
    pub fn cache_stats(&self) -> CacheStats {
        self.cache.stats()
    }

    /// Each word as it begins a text and as it follows a space.
    async fn encode_words(
        &self,
        model: &Arc<Model>,
        words: &[String],
    ) -> Result<Vec<Vec<u32>>, ApiError> {
        if words.is_empty() {
            return Ok(Vec::new());
        }
        let (model, words) = (Arc::clone(model), words.to_vec());
        let cache = Arc::clone(&self.cache);
        let encode = move |text: &str| {
            let encoded = model.encoder().encode_rendered(text, &cache);
            encoded.map_err(|why| ApiError::invalid("bad_words", why))
        };
        self.pool
            .run(move || {
                let mut banned = Vec::new();
                for word in &words {
                    banned.push(encode(word.trim_start())?);
                    banned.push(encode(&format!(" {}", word.trim_start()))?);
                }
                banned.retain(|tokens| !tokens.is_empty());
                Ok(banned)
            })
            .await
    }

    async fn encode(
        &self,
        model: &Arc<Model>,
        prompts: &[Prompt],
    ) -> Result<Vec<Arc<[u32]>>, ApiError> {
        if prompts
            .iter()
            .all(|prompt| matches!(prompt, Prompt::Tokens(_)))
        {
            return prompts
                .iter()
                .map(|prompt| encode(model, prompt, &self.cache))
                .collect();
        }
        let (model, prompts) = (Arc::clone(model), prompts.to_vec());
        let cache = Arc::clone(&self.cache);
        self.pool
            .run(move || {
                prompts
                    .iter()
                    .map(|prompt| encode(&model, prompt, &cache))
                    .collect()
            })
            .await
    }
}

fn encode(model: &Model, prompt: &Prompt, cache: &PieceCache) -> Result<Arc<[u32]>, ApiError> {
    let failed = |why: String| ApiError::invalid(prompt.param(), why);
    let tokens = match prompt {
        Prompt::Chat(conversation) => {
            let template = model.template().ok_or_else(|| {
                let name = model.name();
                failed(format!(
                    "the model `{name}` has no chat template; use /v1/completions"
                ))
            })?;
            let text = template.render(conversation, SystemTime::now())?;
            check_length(model, text.len(), prompt.param())?;
            model
                .encoder()
                .encode_rendered(&text, cache)
                .map_err(failed)?
                .into()
        }
        Prompt::Text(text) => {
            check_length(model, text.len(), prompt.param())?;
            model.encoder().encode_text(text, cache).map_err(failed)?
        }
        Prompt::Tokens(tokens) => {
            if let Some(id) = tokens.iter().find(|&&id| id as usize >= model.vocab_size()) {
                let last = model.vocab_size().saturating_sub(1);
                return Err(failed(format!(
                    "token id {id} is unknown; the last one is {last}"
                )));
            }
            Arc::clone(tokens)
        }
    };
    if tokens.is_empty() {
        return Err(failed(
            "the prompt is empty; give at least one token".to_owned(),
        ));
    }
    Ok(tokens)
}

/// Refuses text that can't fit before time is spent on encoding it.
fn check_length(model: &Model, bytes: usize, param: &str) -> Result<(), ApiError> {
    if bytes <= model.max_text_len() {
        return Ok(());
    }
    let context = model.max_model_len();
    let message = format!(
        "this model's maximum context length is {context} tokens, and no text of {bytes} bytes \
         fits in it; shorten the prompt"
    );
    Err(too_long(param, message))
}

/// How many tokens may be generated after a prompt of `prompt` tokens.
fn max_tokens(
    model: &Model,
    asked: MaxTokens,
    prompt: usize,
    param: &str,
) -> Result<usize, ApiError> {
    let context = model.max_model_len();
    let (wanted, least) = match asked {
        MaxTokens::Exactly(tokens) => (tokens, tokens),
        MaxTokens::UpTo(tokens) => (tokens, tokens.min(1)),
    };
    if prompt.saturating_add(least) <= context {
        return Ok(wanted.min(context - prompt));
    }
    let total = prompt.saturating_add(least);
    let message = format!(
        "this model's maximum context length is {context} tokens, however you requested {total} \
         tokens ({prompt} in the prompt; {least} for the completion); shorten the prompt or the \
         completion"
    );
    Err(too_long(param, message))
}

fn too_long(param: &str, message: String) -> ApiError {
    ApiError {
        param: Some(param.to_owned()),
        ..ApiError::new(ErrorCode::ContextLengthExceeded, message)
    }
}

fn check_token_ids(model: &Model, options: &Options) -> Result<(), ApiError> {
    let biased = options.logit_bias.iter().map(|(id, _)| ("logit_bias", *id));
    let allowed = options.allowed_token_ids.iter();
    let allowed = allowed.map(|id| ("allowed_token_ids", *id));
    let unknown = |(_, id): &(_, u32)| *id as usize >= model.vocab_size();
    match biased.chain(allowed).find(unknown) {
        None => Ok(()),
        Some((param, id)) => {
            let last = model.vocab_size().saturating_sub(1);
            let message = format!("'{param}': token id {id} is unknown; the last one is {last}");
            Err(ApiError::invalid(param, message))
        }
    }
}

/// What the text obeys: a forced call goes before a format of the answer.
fn constraint(
    model: &Model,
    options: &Options,
    tool_format: ToolFormat,
) -> Option<Arc<Constraint>> {
    let calls = options.tools.as_ref();
    let calls = calls.and_then(|it| it.constraint(tool_format, |text| model.special_token(text)));
    calls.map(Arc::new).or_else(|| options.constraint.clone())
}

fn sampling(model: &Model, options: &Options, seed: u64, max_tokens: usize) -> Sampling {
    let defaults = model.defaults();
    Sampling {
        temperature: options.temperature.or(defaults.temperature).unwrap_or(1.0),
        top_p: options.top_p.or(defaults.top_p).unwrap_or(1.0),
        top_k: options.top_k.unwrap_or_else(|| {
            let top_k = defaults.top_k.unwrap_or(0).max(0);
            u32::try_from(top_k).unwrap_or(0)
        }),
        min_p: options.min_p.or(defaults.min_p).unwrap_or(0.0),
        seed,
        repetition_penalty: options
            .repetition_penalty
            .or(defaults.repetition_penalty)
            .unwrap_or(1.0),
        presence_penalty: options.presence_penalty.unwrap_or(0.0),
        frequency_penalty: options.frequency_penalty.unwrap_or(0.0),
        ignore_eos: options.ignore_eos,
        logit_bias: options.logit_bias.clone(),
        allowed_token_ids: options.allowed_token_ids.clone(),
        banned: Vec::new(),
        stop_token_ids: options.stop_token_ids.clone(),
        logprobs: options.logprobs,
        prompt_logprobs: options.prompt_logprobs,
        max_tokens,
        min_tokens: options.min_tokens.min(max_tokens),
    }
}

/// The first completion draws with the request's own seed, the others with
/// seeds that follow from it (SplitMix64, Steele et al. 2014).
fn seed_of(seed: u64, completion: u64) -> u64 {
    if completion == 0 {
        return seed;
    }
    let mut mixed = seed.wrapping_add(completion.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

fn random_seed() -> u64 {
    // Both halves of a UUID have fixed bits, in different places.
    let (high, low) = uuid::Uuid::new_v4().as_u64_pair();
    high.rotate_left(32) ^ low
}

#[cfg(test)]
pub(crate) mod fixture;
#[cfg(test)]
mod tests;
