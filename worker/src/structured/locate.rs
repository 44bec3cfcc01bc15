//! Where in a JSON Schema a mistake is.
//!
//! The compiler says what is wrong, but not always where. A part that fails by
//! itself is nearer to the mistake than the whole: going down from part to part
//! leads to it.

use serde_json::{Map, Value};

/// Parts that are tried before the search ends where it is.
const MAX_TRIED: usize = 200;

/// Keywords whose value is a schema, schemas by name, or a list of schemas.
const ONE: [&str; 3] = ["items", "additionalProperties", "additionalItems"];
const NAMED: [&str; 4] = ["properties", "patternProperties", "$defs", "definitions"];
const LISTED: [&str; 4] = ["prefixItems", "anyOf", "oneOf", "allOf"];

/// `why` the compiler refuses `schema`, with the place, as a JSON pointer (RFC
/// 6901). `compile` says what is wrong with a schema.
pub(super) fn mistake(
    schema: &Value,
    why: String,
    compile: &mut dyn FnMut(Value) -> Option<String>,
) -> String {
    let mut search = Search {
        root: schema,
        left: MAX_TRIED,
        compile,
    };
    let (place, why) = search.descend(schema, why);
    let why = clear(&why);
    match place.is_empty() {
        true => why,
        false => format!("at #{place}: {why}"),
    }
}

struct Search<'a> {
    root: &'a Value,
    left: usize,
    compile: &'a mut dyn FnMut(Value) -> Option<String>,
}

impl Search<'_> {
    /// From a part that fails to the innermost one that does.
    fn descend(&mut self, part: &Value, why: String) -> (String, String) {
        for (step, child) in children(part) {
            if self.left == 0 {
                break;
            }
            self.left -= 1;
            let alone = self.standing_alone(child);
            if let Some(why) = (self.compile)(alone) {
                let (below, why) = self.descend(child, why);
                return (format!("{step}{below}"), why);
            }
        }
        (String::new(), why)
    }

    /// With the definitions it may refer to.
    fn standing_alone(&self, part: &Value) -> Value {
        let Value::Object(part) = part else {
            return part.clone();
        };
        let mut part = part.clone();
        for name in ["$defs", "definitions", "$schema"] {
            if let Some(definitions) = self.root.get(name) {
                part.entry(name).or_insert_with(|| definitions.clone());
            }
        }
        Value::Object(part)
    }
}

/// Schemas within a schema, and how a JSON pointer gets to them.
fn children(schema: &Value) -> Vec<(String, &Value)> {
    let Value::Object(schema) = schema else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for (keyword, value) in schema {
        match value {
            Value::Object(_) if ONE.contains(&keyword.as_str()) => {
                found.push((format!("/{keyword}"), value));
            }
            Value::Object(named) if NAMED.contains(&keyword.as_str()) => {
                let step = |name: &String| format!("/{keyword}/{}", escaped(name));
                found.extend(named.iter().map(|(name, value)| (step(name), value)));
            }
            Value::Array(listed) if LISTED.contains(&keyword.as_str()) => {
                let step = |index| format!("/{keyword}/{index}");
                let listed = listed.iter().enumerate();
                found.extend(listed.map(|(index, value)| (step(index), value)));
            }
            _ => {}
        }
    }
    found
}

fn escaped(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

/// The compiler's words for what users meet most, in those of this project.
fn clear(why: &str) -> String {
    let why = why
        .rsplit("failed to compile JSON schema: ")
        .next()
        .unwrap_or(why);
    if let Some(keys) = why.strip_prefix("Unimplemented keys: ") {
        return format!("the keywords {keys} are not supported; leave them out");
    }
    if why.starts_with("oneOf constraints are not supported") {
        return "the alternatives of oneOf can't be told apart; use anyOf".to_owned();
    }
    why.to_owned()
}

/// A minute of 60 seconds is one in years, and validators know which: times are
/// given without.
const NO_LEAP_SECOND: &str = "^[^:]*:[0-9][0-9]:[0-5]";

/// Drops what says nothing, so that it does not count as not supported, and
/// narrows what the compiler takes for more than validators do.
pub(super) fn normalise(schema: &mut Value) {
    let Value::Object(fields) = schema else {
        return;
    };
    if fields.get("uniqueItems") == Some(&Value::Bool(false)) {
        fields.remove("uniqueItems");
    }
    // OpenAPI's hint for which alternative is meant; validates nothing.
    if fields.contains_key("oneOf") || fields.contains_key("anyOf") {
        fields.remove("discriminator");
    }
    let format = fields.get("format").and_then(Value::as_str);
    if matches!(format, Some("date-time" | "time")) && !fields.contains_key("pattern") {
        fields.insert("pattern".to_owned(), NO_LEAP_SECOND.into());
    }
    descend_mut(fields);
}

fn descend_mut(fields: &mut Map<String, Value>) {
    for (keyword, value) in fields {
        match value {
            Value::Object(_) if ONE.contains(&keyword.as_str()) => normalise(value),
            Value::Object(named) if NAMED.contains(&keyword.as_str()) => {
                named.values_mut().for_each(normalise);
            }
            Value::Array(listed) if LISTED.contains(&keyword.as_str()) => {
                listed.iter_mut().for_each(normalise);
            }
            _ => {}
        }
    }
}
