//! Chat templates: Jinja as Hugging Face transformers renders it, so that a
//! model's own template gives the very prompt it was trained on.

mod json;
mod strftime;

use std::time::{SystemTime, UNIX_EPOCH};

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind};
use proto::ErrorCode;

use super::request::{Conversation, Message};
use crate::error::ApiError;

const DEFAULT: &str = "default";
const TOOL_USE: &str = "tool_use";

/// A model's templates, compiled.
pub(super) struct ChatTemplate {
    environment: Environment<'static>,
    /// `bos_token` and the like.
    special_tokens: Vec<(String, String)>,
    /// Templates know `system`; few know OpenAI's newer name for it.
    knows_developer: bool,
    has_tool_use: bool,
}

impl ChatTemplate {
    /// `templates` are (name, source); with several, `tool_use` is for
    /// conversations with tools and `default` for all others.
    pub(super) fn new(
        templates: Vec<(String, String)>,
        special_tokens: Vec<(String, String)>,
    ) -> Result<ChatTemplate, String> {
        let mut environment = environment();
        let mut knows_developer = false;
        let mut has_tool_use = false;
        for (name, source) in templates {
            knows_developer |= source.contains("developer");
            has_tool_use |= name == TOOL_USE;
            // transformers' own tag marks text for training; it prints nothing.
            let source = without_generation_tags(&source);
            environment
                .add_template_owned(name.clone(), source)
                .map_err(|error| format!("chat template `{name}` does not compile: {error}"))?;
        }
        if environment.get_template(DEFAULT).is_err() {
            return Err("there is no chat template named `default`".to_owned());
        }
        Ok(ChatTemplate {
            environment,
            special_tokens,
            knows_developer,
            has_tool_use,
        })
    }

    /// The prompt for `conversation`; `now` is what `strftime_now` prints.
    pub(super) fn render(
        &self,
        conversation: &Conversation,
        now: SystemTime,
    ) -> Result<String, ApiError> {
        let name = match &conversation.tools {
            Some(_) if self.has_tool_use => TOOL_USE,
            _ => DEFAULT,
        };
        let template = self.environment.get_template(name);
        template
            .and_then(|template| template.render(self.variables(conversation, now)))
            .map_err(|error| refused(&error))
    }

    fn variables(&self, conversation: &Conversation, now: SystemTime) -> Value {
        let seconds = now
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        let strftime_now = Value::from_function(move |format: &str| {
            strftime::format(format, seconds)
                .map_err(|why| Error::new(ErrorKind::InvalidOperation, why))
        });
        let messages: Vec<Value> = conversation
            .messages
            .iter()
            .map(|message| self.message(message))
            .collect();
        let given = conversation.variables.iter();
        let given = given.map(|(name, value)| (name.clone(), json::to_jinja(value)));
        let special = self.special_tokens.iter();
        let special = special.map(|(name, text)| (name.clone(), Value::from(text)));
        // The last of equal names counts: a client can't replace the messages.
        Value::from_pairs(
            given.chain(special).chain([
                ("messages".to_owned(), Value::from(messages)),
                (
                    "tools".to_owned(),
                    conversation
                        .tools
                        .as_ref()
                        .map_or(Value::from(()), json::to_jinja),
                ),
                ("documents".to_owned(), Value::from(())),
                (
                    "add_generation_prompt".to_owned(),
                    Value::from(conversation.add_generation_prompt),
                ),
                ("strftime_now".to_owned(), strftime_now),
            ]),
        )
    }

    fn message(&self, message: &Message) -> Value {
        let role = match message.role.as_str() {
            "developer" if !self.knows_developer => "system",
            role => role,
        };
        let text =
            |name, text: &Option<String>| text.as_ref().map(|text| (name, Value::from(text)));
        let fields = [
            Some(("role", Value::from(role))),
            Some(("content", Value::from(&message.content))),
            text("name", &message.name),
            text("reasoning_content", &message.reasoning_content),
            message
                .tool_calls
                .as_ref()
                .map(|calls| ("tool_calls", json::to_jinja(calls))),
            text("tool_call_id", &message.tool_call_id),
        ];
        Value::from_pairs(fields.into_iter().flatten())
    }
}

/// The settings and functions that transformers gives to templates.
fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder()
        .trim_blocks(true)
        .lstrip_blocks(true)
        .build();
    environment.set_syntax(syntax.expect("the delimiters are the defaults"));
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_formatter(|out, state, value| match value.kind() {
        ValueKind::Bool => Ok(out.write_str(if value.is_true() { "True" } else { "False" })?),
        ValueKind::None => Ok(out.write_str("None")?),
        _ => minijinja::escape_formatter(out, state, value),
    });
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_filter("tojson", json::tojson);
    environment.add_function(
        "raise_exception",
        |message: String| -> Result<Value, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, message))
        },
    );
    // transformers' templates may call it as a function, too.
    environment.add_function("tojson", |value: Value, options: Kwargs| {
        json::tojson(value, options)
    });
    environment
}

fn without_generation_tags(source: &str) -> String {
    let mut source = source.to_owned();
    for tag in ["generation", "endgeneration"] {
        for (open, close) in [("{%-", "-%}"), ("{%-", "%}"), ("{%", "-%}"), ("{%", "%}")] {
            // An empty `set` keeps the tag's whitespace control.
            let replacement = format!("{open} set _ = none {close}");
            source = source.replace(&format!("{open} {tag} {close}"), &replacement);
        }
    }
    source
}

fn refused(error: &Error) -> ApiError {
    let why = error
        .detail()
        .map_or_else(|| error.kind().to_string(), str::to_owned);
    ApiError {
        param: Some("messages".to_owned()),
        ..ApiError::new(
            ErrorCode::InvalidRequest,
            format!("the model's chat template refuses these messages: {why}"),
        )
    }
}

#[cfg(test)]
mod tests;
