//! What a request wants its whole text to obey. Workers compile and follow it;
//! the router only passes it on, and knows in which field it came.

/// A grammar, and the request's field it came in.
#[derive(Clone, Debug, PartialEq)]
pub struct Constraint {
    /// As OpenAI's `param`.
    pub param: String,
    pub grammar: Grammar,
}

/// The forms that workers take.
#[derive(Clone, Debug, PartialEq)]
pub enum Grammar {
    /// As JSON.
    JsonSchema(String),
    Regex(String),
    Choice(Vec<String>),
    /// In llguidance's variant of Lark.
    Lark(String),
    Calls(CallGrammar),
}

/// One or more tool calls in a model's own format: begin (open NAME middle
/// ARGUMENTS close) separated by `separator` end.
#[derive(Clone, Debug, PartialEq)]
pub struct CallGrammar {
    /// Name, and schema of the arguments as JSON.
    pub functions: Vec<(String, String)>,
    pub begin: Vec<Piece>,
    pub open: Vec<Piece>,
    pub middle: Vec<Piece>,
    pub close: Vec<Piece>,
    pub separator: Vec<Piece>,
    pub end: Vec<Piece>,
    pub max_calls: u32,
    /// Names stand as they are, not as JSON.
    pub plain_names: bool,
}

/// A part of a text: characters, or a special token.
#[derive(Clone, Debug, PartialEq)]
pub enum Piece {
    Text(String),
    Token(u32),
}
