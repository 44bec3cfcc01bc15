//! `tools`, `tool_choice` and `parallel_tool_calls`.

use serde_json::{Value, json};

use crate::error::ApiError;
use crate::tools::{Function, ToolUse};

const MAX_TOOLS: usize = 128;
const MAX_NAME: usize = 64;

/// What is said of tools; `None`: none may be called.
pub(super) fn tool_use(
    tools: &[Value],
    choice: Option<&Value>,
    parallel: Option<bool>,
) -> Result<Option<ToolUse>, ApiError> {
    let choice = match choice {
        None | Some(Value::Null) if tools.is_empty() => return Ok(None),
        None | Some(Value::Null) => &json!("auto"),
        Some(choice) => choice,
    };
    if choice == "none" {
        return Ok(None);
    }
    if tools.is_empty() {
        let message = "'tool_choice' is only allowed when 'tools' are given";
        return Err(ApiError::invalid("tool_choice", message));
    }
    if tools.len() > MAX_TOOLS {
        let message = format!("there are {} tools; give at most {MAX_TOOLS}", tools.len());
        return Err(ApiError::invalid("tools", message));
    }
    let functions: Result<Vec<Function>, ApiError> =
        tools.iter().enumerate().map(function).collect();
    let mut tool_use = ToolUse {
        functions: functions?,
        is_forced: choice != "auto",
        is_parallel: parallel.unwrap_or(true),
    };
    if choice != "auto" && choice != "required" {
        let name = named(choice)?;
        tool_use.functions.retain(|function| function.name == name);
        tool_use.is_parallel = false;
        if tool_use.functions.is_empty() {
            let message = format!("'tool_choice' names '{name}', which is not among 'tools'");
            return Err(ApiError::invalid("tool_choice.function.name", message));
        }
    }
    Ok(Some(tool_use))
}

fn named(choice: &Value) -> Result<&str, ApiError> {
    let name = choice.pointer("/function/name").and_then(Value::as_str);
    name.filter(|_| choice["type"] == "function")
        .ok_or_else(|| {
            let message = "'tool_choice' must be none, auto, required, or an object with type \
                       'function' and a function's name";
            ApiError::invalid("tool_choice", message)
        })
}

fn function((index, tool): (usize, &Value)) -> Result<Function, ApiError> {
    let place = format!("tools[{index}]");
    if tool["type"] != "function" {
        let place = format!("{place}.type");
        return Err(ApiError::invalid(
            &place,
            format!("'{place}' must be 'function'"),
        ));
    }
    let name = tool.pointer("/function/name").and_then(Value::as_str);
    let known = |char: char| char.is_ascii_alphanumeric() || "_-.".contains(char);
    let valid = |name: &&str| (1..=MAX_NAME).contains(&name.len()) && name.chars().all(known);
    let Some(name) = name.filter(valid) else {
        let place = format!("{place}.function.name");
        let message = format!(
            "'{place}' must be 1 to {MAX_NAME} characters of a-z, A-Z, 0-9, underscore, dash and dot"
        );
        return Err(ApiError::invalid(&place, message));
    };
    let parameters = match tool.pointer("/function/parameters") {
        None | Some(Value::Null) => json!({"type": "object", "properties": {}}),
        Some(parameters @ Value::Object(_)) => parameters.clone(),
        Some(_) => {
            let place = format!("{place}.function.parameters");
            let message = format!("'{place}' must be a JSON Schema, an object");
            return Err(ApiError::invalid(&place, message));
        }
    };
    Ok(Function {
        name: name.to_owned(),
        parameters,
    })
}
