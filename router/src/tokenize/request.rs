//! What a client asks for, whichever protocol it speaks, before the model's
//! defaults fill the gaps. A [`Request`] that passed [`Request::check`] can
//! only still fail for what its model says: template, vocabulary, context.

use std::sync::Arc;

use crate::constraint::Constraint;
use crate::error::ApiError;
use crate::objectives::Hints;
use crate::tools::ToolUse;

/// Most alternatives a client may ask to see with each token.
pub const MAX_LOGPROBS: u32 = 20;
const MAX_CHOICES: usize = 128;
/// Entries of a list of tokens or words, each.
const MAX_TOKEN_RULES: usize = 16_384;
const MAX_STOP_STRINGS: usize = 16;
const MAX_STOP_BYTES: usize = 1024;

/// `prompts.len() * options.n` sequences to generate, prompt by prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    pub model: String,
    pub prompts: Vec<Prompt>,
    pub options: Options,
    /// What its body says of its urgency.
    pub hints: Hints,
}

/// One prompt in the form the client sent it.
#[derive(Clone, Debug, PartialEq)]
pub enum Prompt {
    /// To be rendered by the model's chat template.
    Chat(Arc<Conversation>),
    /// To be encoded as it is, with the tokenizer's own special tokens.
    Text(Arc<str>),
    /// Passed on unchanged.
    Tokens(Arc<[u32]>),
}

impl Prompt {
    /// The request's field it came in.
    pub(crate) fn param(&self) -> &'static str {
        match self {
            Prompt::Chat(_) => "messages",
            Prompt::Text(_) | Prompt::Tokens(_) => "prompt",
        }
    }
}

/// What a chat template sees.
#[derive(Clone, Debug, PartialEq)]
pub struct Conversation {
    pub messages: Vec<Message>,
    /// OpenAI's tool definitions.
    pub tools: Option<serde_json::Value>,
    pub add_generation_prompt: bool,
    /// More variables for the template, such as `enable_thinking`.
    pub variables: serde_json::Map<String, serde_json::Value>,
}

/// One turn of a conversation; absent fields are undefined in the template.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Message {
    pub role: String,
    pub content: String,
    pub name: Option<String>,
    pub reasoning_content: Option<String>,
    pub tool_calls: Option<serde_json::Value>,
    pub tool_call_id: Option<String>,
}

/// How to continue a prompt; `None` is the model's default, and without one
/// OpenAI's.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    pub temperature: Option<f32>,
    pub top_p: Option<f32>,
    /// 0 is off.
    pub top_k: Option<u32>,
    pub min_p: Option<f32>,
    pub seed: Option<u64>,
    pub repetition_penalty: Option<f32>,
    pub presence_penalty: Option<f32>,
    pub frequency_penalty: Option<f32>,
    pub ignore_eos: bool,
    pub stop_token_ids: Vec<u32>,
    pub logprobs: Option<u32>,
    pub prompt_logprobs: Option<u32>,
    pub max_tokens: MaxTokens,
    pub min_tokens: usize,
    /// Completions of each prompt.
    pub n: usize,
    pub cache_salt: Arc<str>,
    /// Added to the logits of these tokens.
    pub logit_bias: Vec<(u32, f32)>,
    /// Nothing else is generated; empty: everything may be.
    pub allowed_token_ids: Vec<u32>,
    pub bad_words: Vec<String>,
    /// What the whole text obeys.
    pub constraint: Option<Arc<Constraint>>,
    pub tools: Option<Arc<ToolUse>>,
    /// Not a completion is wanted, but an embedding.
    pub embeds: bool,
    pub text: TextOptions,
}

/// A completion's length limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MaxTokens {
    /// The client's own number: an error if the context is too short for it.
    Exactly(usize),
    /// As many as the context has room for, but not more than this.
    UpTo(usize),
}

/// How tokens become text.
#[derive(Clone, Debug, PartialEq)]
pub struct TextOptions {
    /// The text ends before the first of these.
    pub stop: Arc<[String]>,
    pub include_stop: bool,
    pub skip_special_tokens: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            temperature: None,
            top_p: None,
            top_k: None,
            min_p: None,
            seed: None,
            repetition_penalty: None,
            presence_penalty: None,
            frequency_penalty: None,
            ignore_eos: false,
            stop_token_ids: Vec::new(),
            logprobs: None,
            prompt_logprobs: None,
            max_tokens: MaxTokens::UpTo(usize::MAX),
            min_tokens: 0,
            n: 1,
            cache_salt: Arc::from(""),
            logit_bias: Vec::new(),
            allowed_token_ids: Vec::new(),
            bad_words: Vec::new(),
            constraint: None,
            tools: None,
            embeds: false,
            text: TextOptions::default(),
        }
    }
}

impl Default for TextOptions {
    fn default() -> TextOptions {
        TextOptions {
            stop: Arc::from([]),
            include_stop: false,
            skip_special_tokens: true,
        }
    }
}

impl Request {
    /// Rejects values that no model could serve. `max_sequences` bounds
    /// prompts times choices.
    pub fn check(&self, max_sequences: usize) -> Result<(), ApiError> {
        if self.model.is_empty() {
            return Err(ApiError::invalid(
                "model",
                "name a model; GET /v1/models lists them",
            ));
        }
        if self.prompts.is_empty() {
            return Err(ApiError::invalid("prompt", "give at least one prompt"));
        }
        let empty =
            |prompt: &Prompt| matches!(prompt, Prompt::Chat(chat) if chat.messages.is_empty());
        if self.prompts.iter().any(empty) {
            return Err(ApiError::invalid(
                "messages",
                "give at least one message in 'messages'",
            ));
        }
        self.options.check()?;
        let sequences = self.prompts.len().saturating_mul(self.options.n);
        if sequences > max_sequences {
            let message = format!(
                "{} prompts with n = {} make {sequences} sequences; send at most {max_sequences} in one request",
                self.prompts.len(),
                self.options.n
            );
            let param = if self.prompts.len() > 1 {
                "prompt"
            } else {
                "n"
            };
            return Err(ApiError::invalid(param, message));
        }
        Ok(())
    }
}

impl Options {
    fn check(&self) -> Result<(), ApiError> {
        let within = |param, value: Option<f32>, low: f32, high: f32| match value {
            Some(value) if !(low..=high).contains(&value) => Err(ApiError::invalid(
                param,
                format!("'{param}' must be between {low} and {high}, not {value}"),
            )),
            _ => Ok(()),
        };
        within("temperature", self.temperature, 0.0, 2.0)?;
        within("min_p", self.min_p, 0.0, 1.0)?;
        within("presence_penalty", self.presence_penalty, -2.0, 2.0)?;
        within("frequency_penalty", self.frequency_penalty, -2.0, 2.0)?;
        if let Some(top_p) = self.top_p.filter(|&top_p| !(top_p > 0.0 && top_p <= 1.0)) {
            let message = format!("'top_p' must be above 0 and at most 1, not {top_p}");
            return Err(ApiError::invalid("top_p", message));
        }
        if let Some(penalty) = self.repetition_penalty
            && !(penalty > 0.0 && penalty.is_finite())
        {
            let message = format!("'repetition_penalty' must be above 0, not {penalty}");
            return Err(ApiError::invalid("repetition_penalty", message));
        }
        self.check_token_rules()?;
        self.check_counts()
    }

    fn check_token_rules(&self) -> Result<(), ApiError> {
        let far = |bias: &f32| !(-100.0..=100.0).contains(bias);
        if let Some((token, bias)) = self.logit_bias.iter().find(|(_, bias)| far(bias)) {
            let message =
                format!("'logit_bias' of token {token} must be between -100 and 100, not {bias}");
            return Err(ApiError::invalid("logit_bias", message));
        }
        let lists = [
            ("logit_bias", self.logit_bias.len()),
            ("allowed_token_ids", self.allowed_token_ids.len()),
            ("bad_words", self.bad_words.len()),
        ];
        if let Some((param, _)) = lists.iter().find(|(_, len)| *len > MAX_TOKEN_RULES) {
            let message = format!("'{param}' must have at most {MAX_TOKEN_RULES} entries");
            return Err(ApiError::invalid(param, message));
        }
        self.check_constrained()
    }

    /// A constraint alone says where the text may end, and what is in it.
    fn check_constrained(&self) -> Result<(), ApiError> {
        let forced = self.tools.as_ref().is_some_and(|tools| tools.is_forced);
        let constraint = match &self.constraint {
            Some(constraint) => &constraint.param,
            None if forced => "tool_choice",
            None => return Ok(()),
        };
        let others = [
            ("ignore_eos", self.ignore_eos),
            ("min_tokens", self.min_tokens > 0),
            ("allowed_token_ids", !self.allowed_token_ids.is_empty()),
            ("bad_words", !self.bad_words.is_empty()),
        ];
        match others.iter().find(|(_, given)| *given) {
            None => Ok(()),
            Some((other, _)) => Err(ApiError::invalid(
                other,
                format!("'{other}' can't be combined with '{constraint}'; leave one of them out"),
            )),
        }
    }

    fn check_counts(&self) -> Result<(), ApiError> {
        if self.n == 0 || self.n > MAX_CHOICES {
            let message = format!("'n' must be between 1 and {MAX_CHOICES}, not {}", self.n);
            return Err(ApiError::invalid("n", message));
        }
        if self.logprobs.max(self.prompt_logprobs) > Some(MAX_LOGPROBS) {
            let message = format!("ask for at most {MAX_LOGPROBS} alternatives for each token");
            return Err(ApiError::invalid("logprobs", message));
        }
        if let MaxTokens::Exactly(max_tokens) = self.max_tokens
            && self.min_tokens > max_tokens
        {
            let message = format!(
                "'min_tokens' is {}, more than 'max_tokens', which is {max_tokens}",
                self.min_tokens
            );
            return Err(ApiError::invalid("min_tokens", message));
        }
        let stop = &self.text.stop;
        if stop.len() > MAX_STOP_STRINGS {
            let message = format!(
                "give at most {MAX_STOP_STRINGS} stop strings, not {}",
                stop.len()
            );
            return Err(ApiError::invalid("stop", message));
        }
        if stop
            .iter()
            .any(|stop| stop.is_empty() || stop.len() > MAX_STOP_BYTES)
        {
            let message = format!("a stop string must have between 1 and {MAX_STOP_BYTES} bytes");
            return Err(ApiError::invalid("stop", message));
        }
        Ok(())
    }
}
