//! Values as they were written, with where they were written.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;

use clap::builder::PossibleValue;
use clap::{Arg, ArgAction, Command};

/// Where a value was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    Flag(String),
    Variable(String),
    File {
        path: String,
        section: String,
        key: String,
    },
}

/// What one flag is set to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Setting {
    /// Several only if the flag may be repeated.
    pub values: Vec<String>,
    /// The flag takes no value on the command line; here it has the value
    /// `true` or `false`.
    pub is_switch: bool,
    pub origin: Origin,
}

/// Settings by the long name of their flag.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Settings(BTreeMap<String, Setting>);

impl Settings {
    pub fn insert(&mut self, flag: &str, setting: Setting) {
        self.0.insert(flag.to_owned(), setting);
    }

    pub fn take(&mut self, flag: &str) -> Option<Setting> {
        self.0.remove(flag)
    }

    pub fn contains(&self, flag: &str) -> bool {
        self.0.contains_key(flag)
    }

    /// Adds the settings of a lower layer that are not here yet.
    pub fn fill(&mut self, lower: Settings) {
        for (flag, setting) in lower.0 {
            self.0.entry(flag).or_insert(setting);
        }
    }

    /// Removes settings whose value is not allowed; returns their flags.
    pub fn drop_invalid(&mut self, command: &Command, mistakes: &mut Vec<String>) -> Vec<String> {
        let mut refused = Vec::new();
        for arg in options(command) {
            let flag = arg.get_long().unwrap_or_default();
            let Some(setting) = self.0.get(flag) else {
                continue;
            };
            if let Err(reason) = allowed(arg, &setting.values) {
                mistakes.push(format!("{}: {reason}", setting.origin));
                refused.push(format!("--{flag}"));
                self.0.remove(flag);
            }
        }
        refused
    }

    /// The settings as a command line.
    pub fn arguments(&self) -> impl Iterator<Item = OsString> {
        self.0.iter().flat_map(|(flag, setting)| {
            let written = |value: &String| match (setting.is_switch, value.as_str()) {
                (false, _) => Some(format!("--{flag}={value}").into()),
                (true, "true") => Some(format!("--{flag}").into()),
                (true, _) => None,
            };
            setting
                .values
                .iter()
                .filter_map(written)
                .collect::<Vec<_>>()
        })
    }

    /// `mistake`, and where the flags it names are set if not as flags.
    pub fn with_origins(&self, mistake: String) -> String {
        let named = |flag: &str| {
            let mut words = mistake.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-'));
            words.any(|word| word.strip_prefix("--") == Some(flag))
        };
        let elsewhere = |(flag, setting): (&String, &Setting)| match &setting.origin {
            Origin::Flag(_) => None,
            _ if !named(flag) => None,
            origin => Some(format!("--{flag} is set by {origin}")),
        };
        let origins: Vec<_> = self.0.iter().filter_map(elsewhere).collect();
        if origins.is_empty() {
            mistake
        } else {
            format!("{mistake} ({})", origins.join(", "))
        }
    }
}

impl Setting {
    pub fn new(arg: &Arg, values: Vec<String>, origin: Origin) -> Setting {
        Setting {
            values,
            is_switch: is_switch(arg),
            origin,
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Flag(flag) => write!(f, "--{flag}"),
            Origin::Variable(name) => f.write_str(name),
            Origin::File { path, section, key } => write!(f, "{path}: [{section}] {key}"),
        }
    }
}

/// The flags of a subcommand, but for help and version.
pub(super) fn options(command: &Command) -> impl Iterator<Item = &Arg> {
    command.get_arguments().filter(|arg| {
        let action = arg.get_action();
        arg.get_long().is_some() && (action.takes_values() || is_switch(arg))
    })
}

pub(super) fn is_switch(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::SetTrue | ArgAction::SetFalse)
}

/// Whether the flag may be given several times, and so be a list in the file.
pub(super) fn is_list(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::Append)
}

/// Whether each value is one of those the flag allows, seen alone.
fn allowed(arg: &Arg, values: &[String]) -> Result<(), String> {
    if is_switch(arg) {
        return match values {
            [value] if value == "true" || value == "false" => Ok(()),
            _ => Err(format!(
                "{:?} is not allowed; allowed are true and false",
                values.concat()
            )),
        };
    }
    let alone = Arg::new("value").value_parser(arg.get_value_parser().clone());
    let command = Command::new("value")
        .no_binary_name(true)
        .arg(alone.long("value"));
    values.iter().try_for_each(|value| {
        let parsed = command
            .clone()
            .try_get_matches_from([format!("--value={value}")]);
        parsed
            .map(|_| ())
            .map_err(|error| reason(arg, value, &error))
    })
}

fn reason(arg: &Arg, value: &str, error: &clap::Error) -> String {
    let choices = arg.get_possible_values();
    let choices: Vec<_> = choices.iter().map(PossibleValue::get_name).collect();
    if !choices.is_empty() {
        return format!(
            "{value:?} is not allowed; allowed are {}",
            choices.join(", ")
        );
    }
    let cause = std::error::Error::source(error).map(ToString::to_string);
    match (cause, expected(arg)) {
        (Some(cause), Some(kind)) if !cause.contains(" is not in ") => {
            format!("{value:?} is not allowed; allowed is {kind}")
        }
        (Some(cause), _) => format!("{value:?} is not allowed: {cause}"),
        (None, _) => format!("{value:?} is not allowed"),
    }
}

/// What a flag of a plain type allows; the error of a type of our own says it
/// itself.
fn expected(arg: &Arg) -> Option<&'static str> {
    use std::any::TypeId;
    let id = arg.get_value_parser().type_id();
    let is = |kinds: &[TypeId]| kinds.iter().any(|kind| id == *kind);
    let whole = [
        TypeId::of::<u8>(),
        TypeId::of::<u16>(),
        TypeId::of::<u32>(),
        TypeId::of::<u64>(),
        TypeId::of::<usize>(),
    ];
    if is(&whole) {
        Some("a whole number, not negative")
    } else if is(&[TypeId::of::<f32>(), TypeId::of::<f64>()]) {
        Some("a number")
    } else if is(&[TypeId::of::<std::net::IpAddr>()]) {
        Some("an IP address")
    } else {
        None
    }
}
