//! The objects that answer: shapes only, borrowed where they are made for each
//! token.

use std::borrow::Cow;

use serde::ser::{Serialize, SerializeMap, Serializer};

/// `{"error": ...}`.
#[derive(serde::Serialize)]
pub(crate) struct ErrorBody<'a> {
    pub(crate) error: ErrorObject<'a>,
}

#[derive(serde::Serialize)]
pub(crate) struct ErrorObject<'a> {
    pub(crate) message: &'a str,
    pub(crate) r#type: &'static str,
    pub(crate) param: Option<&'a str>,
    pub(crate) code: &'static str,
}

#[derive(serde::Serialize)]
pub(crate) struct ModelList<'a> {
    pub(crate) object: &'static str,
    pub(crate) data: Vec<ModelObject<'a>>,
}

#[derive(serde::Serialize)]
pub(crate) struct ModelObject<'a> {
    pub(crate) id: &'a str,
    pub(crate) object: &'static str,
    pub(crate) created: u64,
    pub(crate) owned_by: &'static str,
    /// As vLLM tells it: prompt and completion tokens together.
    pub(crate) max_model_len: usize,
}

#[derive(serde::Serialize)]
pub(crate) struct ChatChunkChoice<'a> {
    pub(crate) index: usize,
    pub(crate) delta: Delta<'a>,
    pub(crate) logprobs: Option<ChatLogprobs<'a>>,
    pub(crate) finish_reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) token_ids: Option<Vec<u32>>,
}

#[derive(Default, serde::Serialize)]
pub(crate) struct Delta<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) content: Option<&'a str>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub(crate) tool_calls: &'a [CallDelta],
}

/// Of a tool call, whole or in a chunk.
#[derive(Debug, serde::Serialize)]
pub(crate) struct CallDelta {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) index: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) r#type: Option<&'static str>,
    pub(crate) function: FunctionDelta,
}

#[derive(Debug, serde::Serialize)]
pub(crate) struct FunctionDelta {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<String>,
    pub(crate) arguments: String,
}

#[derive(serde::Serialize)]
pub(crate) struct ChatChoice<'a> {
    pub(crate) index: usize,
    pub(crate) message: ResponseMessage<'a>,
    pub(crate) logprobs: Option<ChatLogprobs<'a>>,
    pub(crate) finish_reason: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) token_ids: Option<Vec<u32>>,
}

#[derive(serde::Serialize)]
pub(crate) struct ResponseMessage<'a> {
    pub(crate) role: &'static str,
    /// None beside calls.
    pub(crate) content: Option<&'a str>,
    pub(crate) refusal: Option<()>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub(crate) tool_calls: &'a [CallDelta],
}

#[derive(serde::Serialize)]
pub(crate) struct ChatLogprobs<'a> {
    pub(crate) content: Vec<TokenLogprob<'a>>,
    pub(crate) refusal: Option<()>,
}

#[derive(serde::Serialize)]
pub(crate) struct TokenLogprob<'a> {
    #[serde(flatten)]
    pub(crate) token: TopLogprob<'a>,
    pub(crate) top_logprobs: Vec<TopLogprob<'a>>,
}

#[derive(serde::Serialize)]
pub(crate) struct TopLogprob<'a> {
    pub(crate) token: Cow<'a, str>,
    pub(crate) logprob: f32,
    pub(crate) bytes: &'a [u8],
}

/// A choice of a completion, whole or in a chunk.
#[derive(serde::Serialize)]
pub(crate) struct TextChoice<'a> {
    pub(crate) text: &'a str,
    pub(crate) index: usize,
    pub(crate) logprobs: Option<TextLogprobs<'a>>,
    pub(crate) finish_reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) prompt_token_ids: Option<&'a [u32]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) token_ids: Option<Vec<u32>>,
}

#[derive(Default, serde::Serialize)]
pub(crate) struct TextLogprobs<'a> {
    pub(crate) tokens: Vec<Cow<'a, str>>,
    pub(crate) token_logprobs: Vec<Option<f32>>,
    pub(crate) top_logprobs: Vec<Option<TopLogprobMap<'a>>>,
    pub(crate) text_offset: Vec<usize>,
}

/// An object from token to logprob; of equal names the first counts.
pub(crate) struct TopLogprobMap<'a>(pub(crate) Vec<(Cow<'a, str>, f32)>);

impl Serialize for TopLogprobMap<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (index, (token, logprob)) in self.0.iter().enumerate() {
            if self.0[..index].iter().all(|(earlier, _)| earlier != token) {
                map.serialize_entry(token, logprob)?;
            }
        }
        map.end()
    }
}

#[derive(serde::Serialize)]
pub(crate) struct EmbeddingList<'a> {
    pub(crate) id: String,
    pub(crate) object: &'static str,
    pub(crate) data: Vec<EmbeddingObject>,
    pub(crate) model: &'a str,
    pub(crate) usage: EmbeddingUsage,
}

#[derive(serde::Serialize)]
pub(crate) struct EmbeddingObject {
    pub(crate) object: &'static str,
    pub(crate) index: usize,
    pub(crate) embedding: Vector,
}

/// Numbers, or the base64 of their bytes.
#[derive(serde::Serialize)]
#[serde(untagged)]
pub(crate) enum Vector {
    Floats(Vec<f32>),
    Base64(String),
}

#[derive(serde::Serialize)]
pub(crate) struct EmbeddingUsage {
    pub(crate) prompt_tokens: usize,
    pub(crate) total_tokens: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub(crate) struct UsageObject {
    pub(crate) prompt_tokens: usize,
    pub(crate) completion_tokens: usize,
    pub(crate) total_tokens: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) prompt_tokens_details: Option<PromptDetails>,
}

#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub(crate) struct PromptDetails {
    pub(crate) cached_tokens: usize,
}

impl UsageObject {
    pub(crate) fn new(prompt: usize, completion: usize, cached: Option<usize>) -> UsageObject {
        UsageObject {
            prompt_tokens: prompt,
            completion_tokens: completion,
            total_tokens: prompt + completion,
            prompt_tokens_details: cached.map(|cached_tokens| PromptDetails { cached_tokens }),
        }
    }
}
