//! What a request wants obeyed, as a grammar: read from the wire and compiled.

use llguidance::api::TopLevelGrammar;
use llguidance::{Matcher, ParserFactory};
use proto::worker as pb;
use proto::worker::constraint::Grammar as Wire;
use proto::worker::piece::Piece;
use serde_json::Value;

use super::follow::Compiled;
use super::{locate, refused};
use crate::failure::Failure;

/// Of everything a request says of its grammar.
const MAX_BYTES: usize = 512 * 1024;

/// JSON is laid out on a line or indented; a model that only makes room gets on.
const WHITESPACE: &str = r" |\n[ \t]{0,16}";

/// A grammar's content, by which compiled ones are kept.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Grammar {
    /// As JSON.
    JsonSchema(String),
    Regex(String),
    Choice(Vec<String>),
    Lark(String),
    Calls(Calls),
}

/// Tool calls in a model's own format; each piece as Lark.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Calls {
    /// Name, and schema of the arguments.
    tools: Vec<(String, String)>,
    /// Begin, open, middle, close, separator, end.
    format: [String; 6],
    max_calls: u32,
    plain_names: bool,
}

impl Grammar {
    pub(super) fn read(wire: pb::Constraint) -> Result<Grammar, Failure> {
        let bytes = prost_len(&wire);
        if bytes > MAX_BYTES {
            return Err(refused(format!(
                "it has {bytes} bytes, the most this server takes are {MAX_BYTES}; make it smaller"
            )));
        }
        Ok(match wire.grammar {
            None => return Err(Failure::invalid("prompt.constraint says nothing")),
            Some(Wire::JsonSchema(schema)) => Grammar::JsonSchema(schema),
            Some(Wire::Regex(regex)) => Grammar::Regex(regex),
            Some(Wire::Choice(choice)) if choice.texts.is_empty() => {
                return Err(refused("there is nothing to choose from".to_owned()));
            }
            Some(Wire::Choice(choice)) => Grammar::Choice(choice.texts),
            Some(Wire::Lark(lark)) => Grammar::Lark(lark),
            Some(Wire::ToolCalls(calls)) => Grammar::Calls(Calls::read(calls)?),
        })
    }

    /// The error says where the mistake is.
    pub(super) fn compile(&self, factory: &ParserFactory) -> Result<Compiled, Failure> {
        let grammar = match self {
            Grammar::JsonSchema(text) => {
                let schema = parse(text)?;
                return match compile(factory, json_grammar(schema.clone())) {
                    Ok(compiled) => Ok(compiled),
                    Err(why) => Err(refused(locate::mistake(&schema, why, &mut |part| {
                        compile(factory, json_grammar(part)).err()
                    }))),
                };
            }
            Grammar::Regex(regex) => TopLevelGrammar::from_regex(regex),
            Grammar::Choice(texts) => {
                let texts: Vec<String> = texts.iter().map(|text| literal(text)).collect();
                TopLevelGrammar::from_lark(format!("start: {}", texts.join(" | ")))
            }
            Grammar::Lark(lark) => TopLevelGrammar::from_lark(lark.clone()),
            Grammar::Calls(calls) => return calls.compile(factory),
        };
        compile(factory, grammar).map_err(refused)
    }
}

impl Calls {
    fn read(wire: pb::ToolCalls) -> Result<Calls, Failure> {
        if wire.tools.is_empty() {
            return Err(refused("there is no tool to call".to_owned()));
        }
        let parts = [
            wire.begin,
            wire.open,
            wire.middle,
            wire.close,
            wire.separator,
            wire.end,
        ];
        let tools = wire.tools.into_iter();
        Ok(Calls {
            tools: tools.map(|tool| (tool.name, tool.parameters)).collect(),
            format: parts.map(|pieces| lark(&pieces)),
            max_calls: wire.max_calls.max(1),
            plain_names: wire.plain_names,
        })
    }

    fn compile(&self, factory: &ParserFactory) -> Result<Compiled, Failure> {
        let schemas: Result<Vec<Value>, Failure> =
            self.tools.iter().map(|(_, schema)| parse(schema)).collect();
        let schemas = schemas?;
        let whole = TopLevelGrammar::from_lark(self.lark(&schemas));
        let why = match compile(factory, whole) {
            Ok(compiled) => return Ok(compiled),
            Err(why) => why,
        };
        for ((name, _), schema) in self.tools.iter().zip(&schemas) {
            let mut fails = |part| compile(factory, json_grammar(part)).err();
            if let Some(why) = fails(schema.clone()) {
                let mistake = locate::mistake(schema, why, &mut fails);
                return Err(refused(format!("parameters of '{name}': {mistake}")));
            }
        }
        Err(refused(why))
    }

    fn lark(&self, schemas: &[Value]) -> String {
        let [begin, open, middle, close, separator, end] = &self.format;
        let more = self.max_calls - 1;
        let mut lark = match more {
            0 => format!("start: {begin} call {end}\n"),
            _ => format!("start: {begin} call ({separator} call){{0,{more}}} {end}\n"),
        };
        let names: Vec<String> = (0..schemas.len()).map(|it| format!("call_{it}")).collect();
        lark += &format!("call: {open} ({}) {close}\n", names.join(" | "));
        for (index, ((name, _), schema)) in self.tools.iter().zip(schemas).enumerate() {
            // As the model writes it, and that as Lark does.
            let name = match self.plain_names {
                true => literal(name),
                false => literal(&literal(name)),
            };
            let schema = with_layout(schema.clone());
            lark += &format!("call_{index}: {name} {middle} arguments_{index}\n");
            lark += &format!("arguments_{index}: %json {schema}\n");
        }
        lark
    }
}

/// What is wrong, if it does not compile.
fn compile(factory: &ParserFactory, grammar: TopLevelGrammar) -> Result<Compiled, String> {
    let parser = factory.create_parser(grammar);
    let matcher = Matcher::new(parser);
    match matcher.get_error() {
        Some(why) => Err(plain(&why)),
        None => Ok(Compiled::new(
            matcher,
            factory.tok_env().tok_trie().vocab_size(),
        )),
    }
}

fn parse(schema: &str) -> Result<Value, Failure> {
    match serde_json::from_str(schema) {
        Ok(Value::Bool(true)) => Ok(Value::Object(serde_json::Map::new())),
        Ok(schema @ Value::Object(_)) => Ok(schema),
        Ok(_) => Err(refused("a schema must be an object".to_owned())),
        Err(error) => Err(refused(format!("it is not valid JSON: {error}"))),
    }
}

fn json_grammar(schema: Value) -> TopLevelGrammar {
    TopLevelGrammar::from_json_schema(with_layout(schema))
}

fn with_layout(mut schema: Value) -> Value {
    let layout = serde_json::json!({"whitespace_pattern": WHITESPACE});
    if let Some(schema) = schema.as_object_mut() {
        schema.insert("x-guidance".to_owned(), layout);
    }
    locate::normalise(&mut schema);
    schema
}

/// Pieces as they stand in a Lark rule; none match nothing.
fn lark(pieces: &[pb::Piece]) -> String {
    let pieces = pieces
        .iter()
        .filter_map(|piece| match piece.piece.as_ref()? {
            Piece::Text(text) => (!text.is_empty()).then(|| literal(text)),
            Piece::TokenId(id) => Some(format!("<[{id}]>")),
        });
    pieces.collect::<Vec<_>>().join(" ")
}

/// Lark writes strings as JSON does.
fn literal(text: &str) -> String {
    Value::from(text).to_string()
}

fn prost_len(wire: &pb::Constraint) -> usize {
    prost::Message::encoded_len(wire)
}

/// A message of `llguidance` in one line, without what it adds for developers.
pub(super) fn plain(why: &str) -> String {
    let why = why.split("<non-verbose/>").next().unwrap_or_default();
    let lines: Vec<&str> = why
        .lines()
        .map(str::trim)
        .filter(|it| !it.is_empty())
        .collect();
    lines.join(" ")
}
