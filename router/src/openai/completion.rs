//! `POST /v1/completions`.

use std::fmt;
use std::sync::Arc;

use axum::body::Body;
use serde::Deserialize;
use serde::de::{Deserializer, Error, SeqAccess, Visitor};

use super::field::{at_least, wire_request};
use super::{Limits, body};
use crate::error::ApiError;
use crate::tokenize::{MAX_LOGPROBS, MaxTokens, Prompt, Request};

/// What OpenAI generates if not told how much.
const DEFAULT_MAX_TOKENS: usize = 16;

/// A checked completion request.
#[derive(Clone, Debug, PartialEq)]
pub struct CompletionRequest {
    /// What to generate.
    pub generate: Request,
    /// The text begins with the prompt.
    pub echo: bool,
    pub stream: bool,
    /// A last chunk of a stream tells usage.
    pub include_usage: bool,
    /// Show the ids of prompt and tokens (vLLM's extension).
    pub return_token_ids: bool,
}

wire_request! {
    WireCompletion {
        prompt: Prompts,
        logprobs: i64,
        echo: bool,
        best_of: i64,
    }
    refused {
        suffix,
        prompt_embeds,
    }
}

/// A string, a list of strings, a list of token ids, or a list of such lists.
pub(super) struct Prompts(pub(super) Vec<Prompt>);

impl CompletionRequest {
    /// Reads and checks the body of `request`.
    pub async fn read(
        request: http::Request<Body>,
        limits: &Limits,
    ) -> Result<CompletionRequest, ApiError> {
        body::read::<WireCompletion>(request, limits.max_body_bytes)
            .await?
            .check(limits)
    }

    #[cfg(test)]
    pub(crate) fn parse(body: &[u8]) -> Result<CompletionRequest, ApiError> {
        body::parse::<WireCompletion>(body)?.check(&Limits::default())
    }
}

impl WireCompletion {
    fn check(mut self, limits: &Limits) -> Result<CompletionRequest, ApiError> {
        self.check_refused()?;
        let (stream, include_usage) = self.streaming()?;
        let echo = self.echo.unwrap_or(false);
        let max_tokens = match self.max_tokens {
            Some(given) => MaxTokens::Exactly(at_least("max_tokens", given, 0)?),
            None => MaxTokens::UpTo(DEFAULT_MAX_TOKENS),
        };
        let logprobs = self.logprobs()?;
        let mut options = self.shared().options(max_tokens)?;
        options.logprobs = logprobs;
        options.prompt_logprobs = logprobs.filter(|_| echo);
        if self
            .best_of
            .is_some_and(|best_of| best_of > options.n as i64)
        {
            return Err(super::field::unsupported("best_of"));
        }
        let hints = self.hints();
        let prompts = self
            .prompt
            .take()
            .map_or_else(Vec::new, |prompts| prompts.0);
        let generate = Request {
            model: self.model.unwrap_or_default(),
            prompts,
            options,
            hints,
        };
        generate.check(limits.max_sequences)?;
        Ok(CompletionRequest {
            generate,
            echo,
            stream,
            include_usage,
            return_token_ids: self.return_token_ids.unwrap_or(false),
        })
    }

    fn logprobs(&self) -> Result<Option<u32>, ApiError> {
        let logprobs: Option<u32> = self
            .logprobs
            .map(|logprobs| at_least("logprobs", logprobs, 0))
            .transpose()?;
        if logprobs > Some(MAX_LOGPROBS) {
            let message = format!("'logprobs' must be at most {MAX_LOGPROBS}");
            return Err(ApiError::invalid("logprobs", message));
        }
        Ok(logprobs)
    }
}

/// One element of the list form.
enum Element {
    Id(u32),
    Prompt(Prompt),
}

impl<'de> Deserialize<'de> for Prompts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Prompts, D::Error> {
        struct Forms;

        impl<'de> Visitor<'de> for Forms {
            type Value = Prompts;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(
                    "a string, a list of strings, a list of token ids or a list of such lists",
                )
            }

            fn visit_str<E>(self, text: &str) -> Result<Prompts, E> {
                Ok(Prompts(vec![Prompt::Text(Arc::from(text))]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Prompts, A::Error> {
                let (mut ids, mut prompts) = (Vec::new(), Vec::new());
                while let Some(element) = seq.next_element()? {
                    match element {
                        Element::Id(id) => ids.push(id),
                        Element::Prompt(prompt) => prompts.push(prompt),
                    }
                    if !ids.is_empty() && !prompts.is_empty() {
                        return Err(Error::custom(
                            "token ids and whole prompts are mixed in a list",
                        ));
                    }
                }
                if !ids.is_empty() {
                    prompts.push(Prompt::Tokens(Arc::from(ids)));
                }
                Ok(Prompts(prompts))
            }
        }

        deserializer.deserialize_any(Forms)
    }
}

impl<'de> Deserialize<'de> for Element {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Element, D::Error> {
        struct Forms;

        impl<'de> Visitor<'de> for Forms {
            type Value = Element;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string, a token id or a list of token ids")
            }

            fn visit_u64<E: Error>(self, id: u64) -> Result<Element, E> {
                let id = u32::try_from(id).map_err(|_| E::custom("no token id is that large"))?;
                Ok(Element::Id(id))
            }

            fn visit_str<E>(self, text: &str) -> Result<Element, E> {
                Ok(Element::Prompt(Prompt::Text(Arc::from(text))))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Element, A::Error> {
                let mut ids = Vec::<u32>::new();
                while let Some(id) = seq.next_element()? {
                    ids.push(id);
                }
                Ok(Element::Prompt(Prompt::Tokens(Arc::from(ids))))
            }
        }

        deserializer.deserialize_any(Forms)
    }
}
