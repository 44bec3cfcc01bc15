//! The fields that both completion endpoints have, and the forms that several
//! fields take.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use proto::ErrorCode;
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use super::structured::Structured;
use crate::error::ApiError;
use crate::tokenize::{MaxTokens, Options, TextOptions};

/// Declares a request as it is on the wire: its own fields, the shared ones,
/// and those that are refused if they ask for anything. (Flattening a shared
/// struct would lose the path to a wrong field, and time.)
macro_rules! wire_request {
    ($name:ident { $($field:ident: $type:ty,)* } refused { $($refused:ident,)* }) => {
        #[derive(serde::Deserialize)]
        struct $name {
            $($field: Option<$type>,)*
            $($refused: Option<serde_json::Value>,)*
            model: Option<String>,
            stream: Option<bool>,
            stream_options: Option<$crate::openai::field::Object<$crate::openai::field::StreamOptions>>,
            n: Option<i64>,
            max_tokens: Option<i64>,
            min_tokens: Option<i64>,
            temperature: Option<f32>,
            top_p: Option<f32>,
            top_k: Option<i64>,
            min_p: Option<f32>,
            seed: Option<i64>,
            presence_penalty: Option<f32>,
            frequency_penalty: Option<f32>,
            repetition_penalty: Option<f32>,
            stop: Option<$crate::openai::field::OneOrMany>,
            stop_token_ids: Option<Vec<u32>>,
            include_stop_str_in_output: Option<bool>,
            skip_special_tokens: Option<bool>,
            ignore_eos: Option<bool>,
            cache_salt: Option<String>,
            priority: Option<i64>,
            safety_identifier: Option<String>,
            user: Option<String>,
            nvext: Option<$crate::openai::field::Object<$crate::openai::urgency::Nvext>>,
            return_token_ids: Option<bool>,
            logit_bias: Option<std::collections::BTreeMap<u32, f32>>,
            bad_words: Option<Vec<String>>,
            allowed_token_ids: Option<Vec<u32>>,
            response_format: Option<$crate::openai::field::Object<$crate::openai::structured::ResponseFormat>>,
            structured_outputs: Option<$crate::openai::field::Object<$crate::openai::structured::StructuredOutputs>>,
            guided_json: Option<serde_json::Value>,
            guided_regex: Option<String>,
            guided_choice: Option<Vec<String>>,
            guided_grammar: Option<String>,
            prompt_logprobs: Option<serde_json::Value>,
            use_beam_search: Option<serde_json::Value>,
            logits_processors: Option<serde_json::Value>,
            truncate_prompt_tokens: Option<serde_json::Value>,
        }

        impl $name {
            /// Refuses what was asked for and can't be done.
            fn check_refused(&self) -> Result<(), $crate::error::ApiError> {
                $crate::openai::field::refuse(&[
                    $((stringify!($refused), &self.$refused),)*
                    ("prompt_logprobs", &self.prompt_logprobs),
                    ("use_beam_search", &self.use_beam_search),
                    ("logits_processors", &self.logits_processors),
                    ("truncate_prompt_tokens", &self.truncate_prompt_tokens),
                ])
            }

            /// The shared fields, but for the length and logprobs, in which
            /// the endpoints differ.
            fn shared(&mut self) -> $crate::openai::field::Shared {
                $crate::openai::field::Shared {
                    n: self.n,
                    min_tokens: self.min_tokens,
                    temperature: self.temperature,
                    top_p: self.top_p,
                    top_k: self.top_k,
                    min_p: self.min_p,
                    seed: self.seed,
                    presence_penalty: self.presence_penalty,
                    frequency_penalty: self.frequency_penalty,
                    repetition_penalty: self.repetition_penalty,
                    stop: self.stop.take().map_or_else(Vec::new, |stop| stop.0),
                    stop_token_ids: self.stop_token_ids.take().unwrap_or_default(),
                    include_stop: self.include_stop_str_in_output.unwrap_or(false),
                    skip_special_tokens: self.skip_special_tokens.unwrap_or(true),
                    ignore_eos: self.ignore_eos.unwrap_or(false),
                    cache_salt: self.cache_salt.take().unwrap_or_default(),
                    logit_bias: self.logit_bias.take().unwrap_or_default(),
                    allowed_token_ids: self.allowed_token_ids.take().unwrap_or_default(),
                    bad_words: self.bad_words.take().unwrap_or_default(),
                    structured: $crate::openai::structured::Structured {
                        response_format: self.response_format.take(),
                        structured_outputs: self.structured_outputs.take(),
                        guided_json: self.guided_json.take(),
                        guided_regex: self.guided_regex.take(),
                        guided_choice: self.guided_choice.take(),
                        guided_grammar: self.guided_grammar.take(),
                    },
                }
            }

            /// What the fields of several APIs say of urgency.
            fn hints(&mut self) -> $crate::objectives::Hints {
                $crate::openai::urgency::Urgency {
                    priority: self.priority,
                    safety_identifier: self.safety_identifier.take(),
                    user: self.user.take(),
                    nvext: self.nvext.take().map(|nvext| nvext.0),
                }
                .hints()
            }

            /// Whether to stream, and whether a stream ends with usage.
            fn streaming(&self) -> Result<(bool, bool), $crate::error::ApiError> {
                let stream = self.stream.unwrap_or(false);
                let Some(options) = &self.stream_options else {
                    return Ok((stream, false));
                };
                if !stream {
                    return Err($crate::error::ApiError::invalid(
                        "stream_options",
                        "'stream_options' is only allowed with 'stream': true",
                    ));
                }
                Ok((stream, options.0.include_usage.unwrap_or(false)))
            }
        }
    };
}
pub(super) use wire_request;

#[derive(Deserialize)]
pub(super) struct StreamOptions {
    pub(super) include_usage: Option<bool>,
}

/// The shared fields, of the right types but not checked.
pub(super) struct Shared {
    pub(super) n: Option<i64>,
    pub(super) min_tokens: Option<i64>,
    pub(super) temperature: Option<f32>,
    pub(super) top_p: Option<f32>,
    pub(super) top_k: Option<i64>,
    pub(super) min_p: Option<f32>,
    pub(super) seed: Option<i64>,
    pub(super) presence_penalty: Option<f32>,
    pub(super) frequency_penalty: Option<f32>,
    pub(super) repetition_penalty: Option<f32>,
    pub(super) stop: Vec<String>,
    pub(super) stop_token_ids: Vec<u32>,
    pub(super) include_stop: bool,
    pub(super) skip_special_tokens: bool,
    pub(super) ignore_eos: bool,
    pub(super) cache_salt: String,
    pub(super) logit_bias: BTreeMap<u32, f32>,
    pub(super) allowed_token_ids: Vec<u32>,
    pub(super) bad_words: Vec<String>,
    pub(super) structured: Structured,
}

impl Shared {
    pub(super) fn options(self, max_tokens: MaxTokens) -> Result<Options, ApiError> {
        // vLLM's way to say "off" is -1.
        let top_k = self.top_k.map(|top_k| if top_k == -1 { 0 } else { top_k });
        Ok(Options {
            temperature: self.temperature,
            top_p: self.top_p,
            top_k: top_k.map(|top_k| at_least("top_k", top_k, 0)).transpose()?,
            min_p: self.min_p,
            // Any 64 bits will do; OpenAI allows negative numbers.
            seed: self.seed.map(i64::cast_unsigned),
            repetition_penalty: self.repetition_penalty,
            presence_penalty: self.presence_penalty,
            frequency_penalty: self.frequency_penalty,
            ignore_eos: self.ignore_eos,
            stop_token_ids: self.stop_token_ids,
            logprobs: None,
            prompt_logprobs: None,
            max_tokens,
            min_tokens: at_least("min_tokens", self.min_tokens.unwrap_or(0), 0)?,
            n: at_least("n", self.n.unwrap_or(1), 1)?,
            cache_salt: Arc::from(self.cache_salt),
            logit_bias: self.logit_bias.into_iter().collect(),
            allowed_token_ids: self.allowed_token_ids,
            bad_words: self.bad_words,
            constraint: self.structured.constraint()?.map(Arc::new),
            tools: None,
            embeds: false,
            text: TextOptions {
                stop: Arc::from(self.stop),
                include_stop: self.include_stop,
                skip_special_tokens: self.skip_special_tokens,
            },
        })
    }
}

/// A number that counts something.
pub(super) fn at_least<T: TryFrom<i64>>(
    param: &str,
    value: i64,
    least: i64,
) -> Result<T, ApiError> {
    let valid = T::try_from(value).ok().filter(|_| value >= least);
    valid.ok_or_else(|| {
        let message = format!("'{param}' must be an integer of at least {least}, not {value}");
        ApiError::invalid(param, message)
    })
}

/// Refuses those fields that ask for something.
pub(super) fn refuse(fields: &[(&str, &Option<Value>)]) -> Result<(), ApiError> {
    let asks = |value: &Value| match value {
        Value::Null | Value::Bool(false) => false,
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
        Value::String(text) => !text.is_empty(),
        Value::Bool(true) | Value::Number(_) => true,
    };
    match fields
        .iter()
        .find(|(_, value)| value.as_ref().is_some_and(asks))
    {
        Some((name, _)) => Err(unsupported(name)),
        None => Ok(()),
    }
}

/// A valid option that this cluster does not have.
pub(super) fn unsupported(param: &str) -> ApiError {
    ApiError {
        param: Some(param.to_owned()),
        ..ApiError::new(
            ErrorCode::Unsupported,
            format!("'{param}' is not supported here; leave it out"),
        )
    }
}

/// A list of strings, of which one may stand without the list.
#[derive(Debug)]
pub(super) struct OneOrMany(pub(super) Vec<String>);

impl<'de> Deserialize<'de> for OneOrMany {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<OneOrMany, D::Error> {
        struct Strings;

        impl<'de> Visitor<'de> for Strings {
            type Value = OneOrMany;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or a list of strings")
            }

            fn visit_str<E>(self, text: &str) -> Result<OneOrMany, E> {
                Ok(OneOrMany(vec![text.to_owned()]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<OneOrMany, A::Error> {
                let mut strings = Vec::new();
                while let Some(text) = seq.next_element()? {
                    strings.push(text);
                }
                Ok(OneOrMany(strings))
            }
        }

        deserializer.deserialize_any(Strings)
    }
}

/// A struct that is written as an object. (A derived struct would take a list
/// for one.)
#[derive(Debug)]
pub(super) struct Object<T>(pub(super) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Object<T>, D::Error> {
        struct Fields<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Fields<T> {
            type Value = Object<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }

        deserializer.deserialize_any(Fields(PhantomData))
    }
}
