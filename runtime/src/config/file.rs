//! The layer of the TOML file: a section for each subcommand, in it a key for
//! each flag, a list for a flag that may be repeated.

use clap::Command;
use toml::{Table, Value};

use super::CONFIG;
use super::setting::{Origin, Setting, Settings, is_list, options};

/// Settings of one subcommand of `program`. Sections of the others are checked
/// for unknown keys, since one file serves all.
pub(super) fn read(
    program: &Command,
    subcommand: &str,
    path: &str,
    mistakes: &mut Vec<String>,
) -> Settings {
    let table = match load(path) {
        Ok(table) => table,
        Err(mistake) => {
            mistakes.push(mistake);
            return Settings::default();
        }
    };
    let mut own = Settings::default();
    for (name, section) in &table {
        let command = program
            .find_subcommand(name)
            .filter(|it| options(it).next().is_some());
        let (Some(command), Value::Table(section)) = (command, section) else {
            mistakes.push(format!("{path}: {}", not_a_section(program, name)));
            continue;
        };
        let mut reader = Reader {
            path,
            command,
            settings: Settings::default(),
            mistakes,
        };
        section
            .iter()
            .for_each(|(key, value)| reader.key(key, value));
        if name == subcommand {
            own = reader.settings;
        }
    }
    own
}

fn load(path: &str) -> Result<Table, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
    text.parse::<Table>().map_err(|error| {
        let before = error
            .span()
            .and_then(|span| text.get(..span.start))
            .unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        format!(
            "{path}: line {line}: {}",
            error.message().replace('\n', ", ")
        )
    })
}

fn not_a_section(program: &Command, name: &str) -> String {
    let has_flags = |it: &&Command| options(it).next().is_some();
    let sections = program
        .get_subcommands()
        .filter(has_flags)
        .map(|it| format!("[{}]", it.get_name()));
    let sections: Vec<_> = sections.collect();
    format!(
        "{name:?} is no section; sections are {}",
        sections.join(", ")
    )
}

struct Reader<'a> {
    path: &'a str,
    command: &'a Command,
    settings: Settings,
    mistakes: &'a mut Vec<String>,
}

impl Reader<'_> {
    fn key(&mut self, key: &str, value: &Value) {
        let origin = Origin::File {
            path: self.path.to_owned(),
            section: self.command.get_name().to_owned(),
            key: key.to_owned(),
        };
        let flag = key.replace('_', "-");
        let mut known = options(self.command).filter(|arg| !arg.is_hide_set());
        let arg = known.find(|arg| arg.get_long() == Some(&flag) && flag != CONFIG);
        let Some(arg) = arg else {
            self.mistakes
                .push(format!("{origin}: there is no such key"));
            return;
        };
        if self.settings.contains(&flag) {
            self.mistakes.push(format!(
                "{origin}: the key is there twice, with - and with _"
            ));
            return;
        }
        match texts(value, is_list(arg)) {
            Ok(values) => self
                .settings
                .insert(&flag, Setting::new(arg, values, origin)),
            Err(reason) => self.mistakes.push(format!("{origin}: {reason}")),
        }
    }
}

fn texts(value: &Value, is_list: bool) -> Result<Vec<String>, &'static str> {
    match value {
        Value::Array(items) if is_list => {
            let text = |item| text(item).ok_or("a list of plain values is expected");
            items.iter().map(text).collect()
        }
        Value::Array(_) => Err("one value is expected, not a list"),
        value => Ok(vec![
            text(value).ok_or("a plain value is expected, not a table")?,
        ]),
    }
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Integer(number) => Some(number.to_string()),
        Value::Float(number) => Some(number.to_string()),
        Value::Boolean(value) => Some(value.to_string()),
        Value::Datetime(_) | Value::Array(_) | Value::Table(_) => None,
    }
}
