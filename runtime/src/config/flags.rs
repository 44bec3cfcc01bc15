//! The layer of the command line: which flags are there, with what text.
//!
//! Values are not judged here, so that a wrong one does not hide the next
//! mistake.

use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command};

use super::one_line;
use super::setting::{Origin, Setting, Settings, is_switch, options};

/// The flag that asks for help, if one is there.
pub(super) fn help_asked(command: &Command, arguments: &[OsString]) -> Option<OsString> {
    let raw = raw(command).ignore_errors(true);
    let error = raw.try_get_matches_from(arguments).err()?;
    let is_help = |it: &&OsString| *it == "--help" || *it == "-h";
    (error.kind() == ErrorKind::DisplayHelp)
        .then(|| arguments.iter().find(is_help).cloned())
        .flatten()
}

/// Settings of a subcommand. A flag given twice counts as it was given last.
pub(super) fn read(
    command: &Command,
    mut arguments: Vec<OsString>,
    mistakes: &mut Vec<String>,
) -> Settings {
    let raw = raw(command);
    loop {
        match raw.clone().try_get_matches_from(&arguments) {
            Ok(matches) => return collect(command, &matches),
            Err(error) => {
                mistakes.push(describe(&error));
                if !drop_offender(&mut arguments, &error) {
                    return Settings::default();
                }
            }
        }
    }
}

/// The same flags without types, defaults and relations.
fn raw(command: &Command) -> Command {
    let flag = |arg: &Arg| {
        let long = arg.get_long().unwrap_or_default().to_owned();
        let raw = Arg::new(long.clone()).long(long);
        let raw = match arg.get_short() {
            Some(short) => raw.short(short),
            None => raw,
        };
        if is_switch(arg) {
            return raw.action(ArgAction::SetTrue);
        }
        raw.action(arg.get_action().clone())
            .allow_hyphen_values(arg.is_allow_hyphen_values_set())
            .allow_negative_numbers(true)
    };
    Command::new(command.get_name().to_owned())
        .no_binary_name(true)
        .args_override_self(true)
        .args(options(command).map(flag))
}

fn collect(command: &Command, matches: &ArgMatches) -> Settings {
    let mut settings = Settings::default();
    for arg in options(command) {
        let flag = arg.get_long().unwrap_or_default();
        if matches.value_source(flag) != Some(ValueSource::CommandLine) {
            continue;
        }
        let values = if is_switch(arg) {
            vec![matches.get_flag(flag).to_string()]
        } else {
            matches
                .get_many::<String>(flag)
                .into_iter()
                .flatten()
                .cloned()
                .collect()
        };
        settings.insert(
            flag,
            Setting::new(arg, values, Origin::Flag(flag.to_owned())),
        );
    }
    settings
}

fn describe(error: &clap::Error) -> String {
    let Some(argument) = offender(error) else {
        return one_line(error);
    };
    match error.kind() {
        ErrorKind::UnknownArgument if argument.starts_with('-') => {
            match error.get(ContextKind::SuggestedArg) {
                Some(ContextValue::String(near)) => {
                    format!("{argument}: there is no such flag; did you mean {near}?")
                }
                _ => format!("{argument}: there is no such flag; see --help"),
            }
        }
        ErrorKind::UnknownArgument => format!("{argument}: only flags are expected here"),
        ErrorKind::InvalidValue => format!("{argument}: the value is missing"),
        ErrorKind::TooManyValues => format!("{argument}: takes no value"),
        _ => one_line(error),
    }
}

fn offender(error: &clap::Error) -> Option<String> {
    match error.get(ContextKind::InvalidArg)? {
        ContextValue::String(usage) => usage.split([' ', '=']).next().map(str::to_owned),
        _ => None,
    }
}

/// Removes the argument that `error` is about, with its value; false if it
/// can't be found.
fn drop_offender(arguments: &mut Vec<OsString>, error: &clap::Error) -> bool {
    let Some(offender) = offender(error) else {
        return false;
    };
    let names_it = |argument: &OsString| {
        let text = argument.to_string_lossy();
        text.split('=').next() == Some(offender.as_str())
    };
    // Clap stops at the first mistake, except that a missing value may belong
    // to the last of several equal flags.
    let at = match error.kind() {
        ErrorKind::InvalidValue => arguments.iter().rposition(names_it),
        _ => arguments.iter().position(names_it),
    };
    let Some(at) = at else { return false };
    let removed = arguments.remove(at);
    let is_value = |next: &OsString| !next.to_string_lossy().starts_with('-');
    let may_have_value = offender.starts_with('-') && !removed.to_string_lossy().contains('=');
    if may_have_value && arguments.get(at).is_some_and(is_value) {
        arguments.remove(at);
    }
    true
}
