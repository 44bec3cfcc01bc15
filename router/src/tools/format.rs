//! The formats in which models write tool calls.

use serde::{Deserialize, Serialize};

use super::head::{ARGUMENTS, CALL_ID};

/// A family's way to write a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum ToolFormat {
    /// `<tool_call>{"name": ..., "arguments": ...}</tool_call>`: Hermes, Qwen,
    /// Granite 4
    Hermes,
    /// `{"name": ..., "parameters": ...}`: Llama 3
    Llama3,
    /// `[TOOL_CALLS] [{"name": ..., "arguments": ...}]`: Mistral
    Mistral,
    /// `[TOOL_CALLS]NAME[ARGS]{...}`: Mistral since its tokenizer 11
    MistralArgs,
    /// `<|tool_call|>[{"name": ..., "arguments": ...}]`: Granite 3
    Granite,
    /// `[{"name": ..., "arguments": ...}]`: a model that knows no format
    Json,
}

/// What stands around names and arguments.
#[derive(Debug)]
pub(super) struct Layout {
    /// Before the first call; with it calls begin, without one they are the
    /// whole answer.
    pub(super) marker: Option<&'static str>,
    /// After which text may go on.
    pub(super) end_marker: Option<&'static str>,
    /// A name may stand as it is between a marker and its arguments, and does in
    /// a forced call; each call has a marker then.
    pub(super) plain_names: bool,
    /// That may be special tokens.
    pub(super) markers: &'static [&'static str],
    pub(super) begin: &'static str,
    pub(super) open: &'static str,
    pub(super) middle: &'static str,
    pub(super) close: &'static str,
    pub(super) separator: &'static str,
    pub(super) end: &'static str,
}

const HERMES: Layout = Layout {
    marker: Some("<tool_call>"),
    end_marker: Some("</tool_call>"),
    plain_names: false,
    markers: &["<tool_call>", "</tool_call>"],
    begin: "",
    open: "<tool_call>\n{\"name\": ",
    middle: ", \"arguments\": ",
    close: "}\n</tool_call>",
    separator: "\n",
    end: "",
};

const LLAMA3: Layout = Layout {
    marker: None,
    end_marker: None,
    plain_names: false,
    markers: &[],
    begin: "",
    open: "{\"name\": ",
    middle: ", \"parameters\": ",
    close: "}",
    separator: "; ",
    end: "",
};

const MISTRAL: Layout = Layout {
    marker: Some("[TOOL_CALLS]"),
    end_marker: None,
    plain_names: false,
    markers: &["[TOOL_CALLS]"],
    begin: "[TOOL_CALLS] [",
    open: "{\"name\": ",
    middle: ", \"arguments\": ",
    close: "}",
    separator: ", ",
    end: "]",
};

const MISTRAL_ARGS: Layout = Layout {
    plain_names: true,
    markers: &["[TOOL_CALLS]", ARGUMENTS, CALL_ID],
    begin: "",
    open: "[TOOL_CALLS]",
    middle: ARGUMENTS,
    close: "",
    separator: "",
    end: "",
    ..MISTRAL
};

const GRANITE: Layout = Layout {
    marker: Some("<|tool_call|>"),
    markers: &["<|tool_call|>"],
    begin: "<|tool_call|>[",
    ..MISTRAL
};

const JSON: Layout = Layout {
    marker: None,
    markers: &[],
    begin: "[",
    ..MISTRAL
};

impl ToolFormat {
    /// Of the model with this chat template: the format it shows the model.
    pub fn of_template(template: &str) -> ToolFormat {
        let signs = [
            ("<tool_call>", ToolFormat::Hermes),
            (ARGUMENTS, ToolFormat::MistralArgs),
            ("[TOOL_CALLS]", ToolFormat::Mistral),
            ("<|tool_call|>", ToolFormat::Granite),
            ("<|python_tag|>", ToolFormat::Llama3),
            ("Environment: ipython", ToolFormat::Llama3),
        ];
        let found = signs.into_iter().find(|(sign, _)| template.contains(sign));
        found.map_or(ToolFormat::Json, |(_, format)| format)
    }

    /// Texts of this format that a model may have as special tokens.
    pub fn markers(self) -> &'static [&'static str] {
        self.layout().markers
    }

    pub(super) fn layout(self) -> &'static Layout {
        match self {
            ToolFormat::Hermes => &HERMES,
            ToolFormat::Llama3 => &LLAMA3,
            ToolFormat::Mistral => &MISTRAL,
            ToolFormat::MistralArgs => &MISTRAL_ARGS,
            ToolFormat::Granite => &GRANITE,
            ToolFormat::Json => &JSON,
        }
    }
}
