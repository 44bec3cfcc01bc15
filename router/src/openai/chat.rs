//! `POST /v1/chat/completions`.

use std::sync::Arc;

use axum::body::Body;
use serde_json::{Map, Value};

use super::field::{Object, at_least, unsupported, wire_request};
use super::message::WireMessage;
use super::{Limits, body, tools};
use crate::error::ApiError;
use crate::tokenize::{Conversation, MAX_LOGPROBS, MaxTokens, Prompt, Request};
use crate::tools::ToolUse;

/// A checked chat request.
#[derive(Clone, Debug, PartialEq)]
pub struct ChatRequest {
    /// What to generate.
    pub generate: Request,
    pub stream: bool,
    /// A last chunk of a stream tells usage.
    pub include_usage: bool,
    /// Show the ids of prompt and tokens (vLLM's extension).
    pub return_token_ids: bool,
}

wire_request! {
    WireChat {
        messages: Vec<Object<WireMessage>>,
        max_completion_tokens: i64,
        logprobs: bool,
        top_logprobs: i64,
        tools: Vec<Value>,
        tool_choice: Value,
        parallel_tool_calls: bool,
        modalities: Vec<String>,
        add_generation_prompt: bool,
        chat_template_kwargs: Map<String, Value>,
    }
    refused {
        audio,
        functions,
        function_call,
        web_search_options,
        chat_template,
        continue_final_message,
        echo,
    }
}

impl ChatRequest {
    /// Reads and checks the body of `request`.
    pub async fn read(
        request: http::Request<Body>,
        limits: &Limits,
    ) -> Result<ChatRequest, ApiError> {
        body::read::<WireChat>(request, limits.max_body_bytes)
            .await?
            .check(limits)
    }

    #[cfg(test)]
    pub(crate) fn parse(body: &[u8]) -> Result<ChatRequest, ApiError> {
        body::parse::<WireChat>(body)?.check(&Limits::default())
    }
}

impl WireChat {
    fn check(mut self, limits: &Limits) -> Result<ChatRequest, ApiError> {
        self.check_refused()?;
        self.check_formats()?;
        let (stream, include_usage) = self.streaming()?;
        let max_tokens = self.max_tokens()?;
        let logprobs = self.logprobs()?;
        let tool_use = self.tool_use()?;
        let conversation = self.conversation(tool_use.is_some())?;
        let hints = self.hints();
        let mut options = self.shared().options(max_tokens)?;
        options.logprobs = logprobs;
        options.tools = tool_use.map(Arc::new);
        let generate = Request {
            model: self.model.unwrap_or_default(),
            prompts: vec![Prompt::Chat(Arc::new(conversation))],
            options,
            hints,
        };
        generate.check(limits.max_sequences)?;
        Ok(ChatRequest {
            generate,
            stream,
            include_usage,
            return_token_ids: self.return_token_ids.unwrap_or(false),
        })
    }

    /// Text is the only modality there is.
    fn check_formats(&self) -> Result<(), ApiError> {
        if self
            .modalities
            .iter()
            .flatten()
            .any(|modality| modality != "text")
        {
            return Err(unsupported("modalities"));
        }
        Ok(())
    }

    fn tool_use(&self) -> Result<Option<ToolUse>, ApiError> {
        tools::tool_use(
            self.tools.as_deref().unwrap_or_default(),
            self.tool_choice.as_ref(),
            self.parallel_tool_calls,
        )
    }

    fn max_tokens(&self) -> Result<MaxTokens, ApiError> {
        let (param, given) = match self.max_completion_tokens {
            Some(given) => ("max_completion_tokens", Some(given)),
            None => ("max_tokens", self.max_tokens),
        };
        let given = given.map(|given| at_least(param, given, 1)).transpose()?;
        Ok(given.map_or(MaxTokens::UpTo(usize::MAX), MaxTokens::Exactly))
    }

    /// Alternatives to report, if any logprobs are asked for.
    fn logprobs(&self) -> Result<Option<u32>, ApiError> {
        let wanted = self.logprobs.unwrap_or(false);
        let Some(top) = self.top_logprobs else {
            return Ok(wanted.then_some(0));
        };
        let top: u32 = at_least("top_logprobs", top, 0)?;
        if top > MAX_LOGPROBS {
            let message = format!("'top_logprobs' must be at most {MAX_LOGPROBS}, not {top}");
            return Err(ApiError::invalid("top_logprobs", message));
        }
        if !wanted && top > 0 {
            let message = "'top_logprobs' is only allowed with 'logprobs': true";
            return Err(ApiError::invalid("top_logprobs", message));
        }
        Ok(wanted.then_some(top))
    }

    /// `has_tools`: else the model is not to know of them.
    fn conversation(&mut self, has_tools: bool) -> Result<Conversation, ApiError> {
        let messages = self.messages.take().unwrap_or_default();
        let messages = messages.into_iter().enumerate();
        let tools = self.tools.take().filter(|tools| !tools.is_empty());
        Ok(Conversation {
            messages: messages
                .map(|(index, Object(message))| message.check(index))
                .collect::<Result<_, _>>()?,
            tools: tools.filter(|_| has_tools).map(Value::Array),
            add_generation_prompt: self.add_generation_prompt.unwrap_or(true),
            variables: self.chat_template_kwargs.take().unwrap_or_default(),
        })
    }
}
