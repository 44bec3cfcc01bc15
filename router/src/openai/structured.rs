//! Constraints as clients write them: OpenAI's `response_format`, vLLM's
//! `structured_outputs` and its older `guided_*`. At most one of them.

use serde::Deserialize;
use serde_json::Value;

use super::field::{Object, unsupported};
use crate::constraint::{Constraint, Grammar};
use crate::error::ApiError;

/// Any object of JSON.
const ANY_OBJECT: &str = r#"{"type":"object"}"#;

/// The fields, of the right types but not checked.
#[derive(Default)]
pub(super) struct Structured {
    pub(super) response_format: Option<Object<ResponseFormat>>,
    pub(super) structured_outputs: Option<Object<StructuredOutputs>>,
    pub(super) guided_json: Option<Value>,
    pub(super) guided_regex: Option<String>,
    pub(super) guided_choice: Option<Vec<String>>,
    pub(super) guided_grammar: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct ResponseFormat {
    r#type: Option<String>,
    json_schema: Option<Object<NamedSchema>>,
}

#[derive(Debug, Deserialize)]
struct NamedSchema {
    schema: Option<Value>,
}

#[derive(Debug, Deserialize)]
pub(super) struct StructuredOutputs {
    json: Option<Value>,
    regex: Option<String>,
    choice: Option<Vec<String>>,
    grammar: Option<String>,
    json_object: Option<bool>,
    structural_tag: Option<Value>,
}

impl Structured {
    pub(super) fn constraint(self) -> Result<Option<Constraint>, ApiError> {
        let mut found = Vec::new();
        if let Some(Object(format)) = self.response_format {
            found.extend(format.constraint()?);
        }
        if let Some(Object(outputs)) = self.structured_outputs {
            outputs.constraints(&mut found)?;
        }
        let guided = [
            json("guided_json", self.guided_json),
            text("guided_regex", self.guided_regex, Grammar::Regex),
            choice("guided_choice", self.guided_choice)?,
            text("guided_grammar", self.guided_grammar, Grammar::Lark),
        ];
        found.extend(guided.into_iter().flatten());
        if let [first, second, ..] = found.as_slice() {
            let message = format!(
                "'{}' and '{}' can't be combined; give one of them",
                first.param, second.param
            );
            return Err(ApiError::invalid(&second.param, message));
        }
        Ok(found.pop())
    }
}

impl ResponseFormat {
    fn constraint(self) -> Result<Option<Constraint>, ApiError> {
        let place = "response_format.json_schema.schema";
        match self.r#type.as_deref() {
            Some("text") => Ok(None),
            Some("json_object") => Ok(Some(Constraint {
                param: "response_format".to_owned(),
                grammar: Grammar::JsonSchema(ANY_OBJECT.to_owned()),
            })),
            Some("json_schema") => {
                let schema = self.json_schema.and_then(|Object(named)| named.schema);
                let constraint = json(place, schema);
                let missing = || ApiError::invalid(place, format!("'{place}' is missing"));
                constraint.ok_or_else(missing).map(Some)
            }
            kind => {
                let kind = kind.unwrap_or_default();
                let message = format!(
                    "unknown response format '{kind}'; it must be text, json_object or json_schema"
                );
                Err(ApiError::invalid("response_format.type", message))
            }
        }
    }
}

impl StructuredOutputs {
    fn constraints(self, found: &mut Vec<Constraint>) -> Result<(), ApiError> {
        if self.structural_tag.is_some_and(|tag| !tag.is_null()) {
            return Err(unsupported("structured_outputs.structural_tag"));
        }
        let object = self.json_object.unwrap_or(false);
        let given = [
            json("structured_outputs.json", self.json),
            text("structured_outputs.regex", self.regex, Grammar::Regex),
            choice("structured_outputs.choice", self.choice)?,
            text("structured_outputs.grammar", self.grammar, Grammar::Lark),
            object.then(|| Constraint {
                param: "structured_outputs.json_object".to_owned(),
                grammar: Grammar::JsonSchema(ANY_OBJECT.to_owned()),
            }),
        ];
        found.extend(given.into_iter().flatten());
        Ok(())
    }
}

/// A schema, as an object or as its text.
fn json(param: &str, schema: Option<Value>) -> Option<Constraint> {
    let schema = match schema? {
        Value::Null => return None,
        Value::String(text) => text,
        schema => schema.to_string(),
    };
    Some(Constraint {
        param: param.to_owned(),
        grammar: Grammar::JsonSchema(schema),
    })
}

fn text(
    param: &str,
    text: Option<String>,
    grammar: impl FnOnce(String) -> Grammar,
) -> Option<Constraint> {
    let text = text.filter(|text| !text.is_empty())?;
    Some(Constraint {
        param: param.to_owned(),
        grammar: grammar(text),
    })
}

fn choice(param: &str, texts: Option<Vec<String>>) -> Result<Option<Constraint>, ApiError> {
    let Some(texts) = texts.filter(|texts| !texts.is_empty()) else {
        return Ok(None);
    };
    if let Some(index) = texts.iter().position(String::is_empty) {
        let place = format!("{param}[{index}]");
        let message = format!("'{place}' is empty; a choice must have text");
        return Err(ApiError::invalid(&place, message));
    }
    Ok(Some(Constraint {
        param: param.to_owned(),
        grammar: Grammar::Choice(texts),
    }))
}
